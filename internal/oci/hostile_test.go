package oci

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"banger"
)

// answer makes the registry answer requests for paths that contain s itself.
func (f *fixture) answer(s string, h http.HandlerFunc) {
	f.front = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, s) {
			return false
		}
		h(w, r)
		return true
	}
}

func (f *fixture) wantRefused(tag string, kind banger.Kind, words ...string) {
	f.t.Helper()
	_, err := Resolve(f.t.Context(), f.ref(tag), f.options())
	wantErr(f.t, err, kind, words...)
}

func TestHostileManifests(t *testing.T) {
	layer := gzLayer("a", 1000)
	digest := func(im *image) map[string]any { return im.manifest["layers"].([]map[string]any)[0] }
	for name, c := range map[string]struct {
		bend  func(im *image)
		kind  banger.Kind
		words []string
	}{
		"schema 1":        {func(im *image) { im.manifest["schemaVersion"] = 1 }, banger.Unsupported, []string{"schema 1"}},
		"fsLayers":        {func(im *image) { im.manifest["fsLayers"] = []string{} }, banger.Unsupported, []string{"schema 1"}},
		"image and index": {func(im *image) { im.manifest["manifests"] = im.manifest["layers"] }, banger.Invalid, []string{"at once"}},
		"other case":      {func(im *image) { im.manifest["Manifests"] = im.manifest["layers"] }, banger.Invalid, []string{"at once"}},
		"type lies":       {func(im *image) { im.manifest["mediaType"] = types.OCIImageIndex }, banger.Invalid, []string{"not what it holds"}},
		"no version":      {func(im *image) { delete(im.manifest, "schemaVersion") }, banger.Invalid, []string{"schemaVersion"}},
		"no layers":       {func(im *image) { im.manifest["layers"] = []string{} }, banger.Invalid, []string{"no layers"}},
		"128 layers": {func(im *image) {
			d := digest(im)
			im.manifest["layers"] = strings.Split(strings.Repeat("x", 128), "")
			many := make([]map[string]any, 128)
			for i := range many {
				many[i] = d
			}
			im.manifest["layers"] = many
		}, banger.Invalid, []string{"128 layers"}},
		"foreign":     {func(im *image) { digest(im)["mediaType"] = types.DockerForeignLayer }, banger.Unsupported, []string{"layer 1", "foreign"}},
		"restricted":  {func(im *image) { digest(im)["mediaType"] = types.OCIRestrictedLayer }, banger.Unsupported, []string{"foreign"}},
		"helm chart":  {func(im *image) { digest(im)["mediaType"] = "application/vnd.cncf.helm.chart" }, banger.Unsupported, []string{"file system layer"}},
		"traversal":   {func(im *image) { digest(im)["digest"] = "sha256:../../../../tmp/x" }, banger.Invalid, []string{`"sha256:../../../../tmp/x"`}},
		"algorithm":   {func(im *image) { digest(im)["digest"] = "md5:d41d8cd98f00b204e9800998ecf8427e" }, banger.Invalid, []string{"md5"}},
		"size":        {func(im *image) { digest(im)["size"] = -1 }, banger.Invalid, []string{"-1 bytes"}},
		"17 GiB":      {func(im *image) { digest(im)["size"] = int64(17 << 30) }, banger.Invalid, nil},
		"config type": {func(im *image) { im.manifest["config"] = map[string]any{"mediaType": "application/x"} }, banger.Unsupported, []string{"not a container image"}},
		"config size": {func(im *image) {
			im.manifest["config"] = map[string]any{"mediaType": types.OCIConfigJSON, "digest": digestOf(nil), "size": 5 << 20}
		}, banger.Invalid, []string{"a config of 5242880 bytes"}},
		"other os":     {func(im *image) { im.config["os"] = "windows" }, banger.Unsupported, []string{"windows"}},
		"other arch":   {func(im *image) { im.config["architecture"] = "mips" }, banger.Unsupported, []string{`"linux/mips"`, runtime.GOARCH}},
		"empty config": {func(im *image) { im.config = map[string]any{} }, banger.Unsupported, []string{`"/"`}},
		"diff ids":     {func(im *image) { im.config["rootfs"] = map[string]any{"type": "layers"} }, banger.Invalid, []string{"1 layers in the manifest, 0"}},
		"diff id": {func(im *image) {
			im.config["rootfs"] = map[string]any{"type": "layers", "diff_ids": []string{"sha256:x"}}
		}, banger.Invalid, []string{"diff ID"}},
		"rootfs type": {func(im *image) { im.config["rootfs"] = map[string]any{"type": "zip"} }, banger.Invalid, []string{"zip"}},
		"NUL":         {func(im *image) { im.config["config"] = map[string]any{"User": "a\x00b"} }, banger.Invalid, []string{"NUL"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			im := newImage(layer)
			c.bend(im)
			// The in-process registry is choosy itself: serve the manifest by hand.
			tag := "bent"
			body := f.pushBent(im)
			f.answer("/manifests/", func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", string(types.OCIManifestSchema1))
				_, _ = w.Write(body)
			})
			f.wantRefused(tag, c.kind, c.words...)
		})
	}
}

func TestHostileManifestBytes(t *testing.T) {
	f := newFixture(t)
	digest := f.push("x", newImage(gzLayer("a", 1000)))
	f.answer("/manifests/", func(w http.ResponseWriter, _ *http.Request) {
		for range 5 << 10 {
			_, _ = w.Write(bytes.Repeat([]byte(" "), 1<<10))
		}
	})
	f.wantRefused("x", banger.Invalid, "longer than the 4194304 bytes")
	f.answer("/manifests/", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") })
	f.wantRefused("x", banger.Invalid, "manifest")
	_, err := Resolve(t.Context(), f.host+"/team/app@"+digest, f.options())
	wantErr(t, err, banger.Invalid, "other bytes")
	f.answer("/manifests/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", string(types.DockerManifestSchema1Signed))
		_, _ = io.WriteString(w, `{"name":"x"}`)
	})
	f.wantRefused("x", banger.Unsupported, "schema 1")
}

func TestIndex(t *testing.T) {
	f := newFixture(t)
	im := newImage(gzLayer("a", 1000))
	digest := f.push("image", im)
	size := len(mustJSON(t, im.manifest))
	entry := func(os, arch, variant string) map[string]any {
		return map[string]any{"mediaType": types.OCIManifestSchema1, "digest": digest, "size": size,
			"platform": map[string]any{"os": os, "architecture": arch, "variant": variant}}
	}
	index := func(entries ...map[string]any) {
		body := mustJSON(t, map[string]any{"schemaVersion": 2, "mediaType": types.OCIImageIndex, "manifests": entries})
		f.put("manifests", "index", string(types.OCIImageIndex), body)
	}
	index(entry("windows", "amd64", ""), entry("linux", "s390x", ""), entry("linux", runtime.GOARCH, ""), entry("unknown", "unknown", ""))
	if got := f.resolve("index", f.options()); got.Digest != digest {
		t.Errorf("digest %s, want %s", got.Digest, digest)
	}
	index(entry("windows", "amd64", ""), entry("linux", "s390x", ""), entry("linux", "arm", "v5"), entry("unknown", "unknown", ""))
	f.wantRefused("index", banger.Unsupported, "linux/"+runtime.GOARCH, "linux/arm/v5, linux/s390x, windows/amd64")
	lying := entry("linux", runtime.GOARCH, "")
	lying["size"] = size + 1
	index(lying)
	f.wantRefused("index", banger.Invalid, "bytes instead of")
	bare := entry("", "", "")
	delete(bare, "platform")
	index(bare)
	f.resolve("index", f.options())
}

func TestChooseVariant(t *testing.T) {
	for _, c := range []struct{ uname, variants, want string }{
		{"aarch64", "v8", "v8"}, {"aarch64", "-", "-"}, {"aarch64", "- v8", "v8"}, {"aarch64", "v9", ""},
		{"armv7l", "v5 v6 v7", "v7"}, {"armv7l", "v6 v5", "v6"}, {"x86_64", "v3 -", "-"}, {"x86_64", "v3", ""},
	} {
		p, err := platformOf(c.uname)
		if err != nil {
			t.Fatal(err)
		}
		var m manifest
		for v := range strings.FieldsSeq(c.variants) {
			var d descriptor
			d.Digest, d.Size = digestOf([]byte(v)), 1
			raw := fmt.Sprintf(`{"platform":{"os":"linux","architecture":%q,"variant":%q}}`, p.arch, strings.Trim(v, "-"))
			mustParse(t, raw, &d)
			m.Manifests = append(m.Manifests, d)
		}
		d, err := m.choose(p)
		if c.want == "" && !banger.IsKind(err, banger.Unsupported) || c.want != "" && d.Digest != digestOf([]byte(c.want)) {
			t.Errorf("%+v: %+v, %v", c, d, err)
		}
	}
	if _, err := platformOf("pdp11"); !banger.IsKind(err, banger.Unsupported) {
		t.Error(err)
	}
}

func TestHostileLayers(t *testing.T) {
	plain := tarOf("a", 100_000)
	blob := gz(plain)
	other := bytes.Clone(blob)
	other[len(other)/2] ^= 1
	send := func(b []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(b) }
	}
	for name, c := range map[string]struct {
		layer layerBlob
		front http.HandlerFunc
		kind  banger.Kind
		words []string
		cache int
	}{
		"wrong bytes": {layer: layerBlob{blob: blob}, front: send(other), kind: banger.Invalid, words: []string{"layer 1/1", "other bytes"}},
		"short":       {layer: layerBlob{blob: blob}, front: send(blob[:1000]), kind: banger.Invalid, words: []string{"1000 bytes instead of"}},
		"long":        {layer: layerBlob{blob: blob}, front: send(append(bytes.Clone(blob), 0)), kind: banger.Invalid, words: []string{"bytes instead of"}},
		"long without length": {layer: layerBlob{blob: blob}, front: func(w http.ResponseWriter, _ *http.Request) {
			for range 20 {
				_, _ = w.Write(blob)
				w.(http.Flusher).Flush()
			}
		}, kind: banger.Invalid, words: []string{"more than"}},
		"truncated": {layer: layerBlob{blob: blob}, front: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
			_, _ = w.Write(blob[:len(blob)/2])
		}, kind: banger.Unavailable, words: []string{"tried 3 times", "layer 1/1"}},
		"stalled": {layer: layerBlob{blob: blob}, front: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
			_, _ = w.Write(blob[:100])
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, kind: banger.Unavailable, words: []string{"stopped sending for 200ms", "tried 3 times"}},
		"gone":        {layer: layerBlob{blob: blob}, front: http.NotFound, kind: banger.NotFound, words: []string{"layer 1/1"}},
		"lying diff":  {layer: layerBlob{blob: blob, diffID: digestOf(blob)}, kind: banger.Invalid, words: []string{"unpacks to", "its config says"}, cache: 1},
		"bad gzip":    {layer: layerBlob{blob: other}, kind: banger.Invalid, words: []string{"damaged compression"}, cache: 1},
		"half gzip":   {layer: layerBlob{blob: blob[:len(blob)/2]}, kind: banger.Invalid, words: []string{"damaged compression"}, cache: 1},
		"xz":          {layer: layerBlob{blob: []byte("\xfd7zXZ\x00 and so on")}, kind: banger.Unsupported, words: []string{"xz"}, cache: 1},
		"zstd window": {layer: layerBlob{blob: wideZstd(t)}, kind: banger.Unsupported, words: []string{"zstd window"}, cache: 1},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			c.layer.mediaType, c.layer.plain = types.OCILayer, plain
			f.push("x", newImage(c.layer))
			o := f.options()
			l := f.resolve("x", o).Layers[0]
			if c.front != nil {
				f.answer(l.Digest, c.front)
			}
			_, err := readLayer(t.Context(), l)
			wantErr(t, err, c.kind, c.words...)
			wantCache(t, o.Cache, c.cache)
		})
	}
}

// wideZstd asks for a history of 64 MiB.
func wideZstd(t *testing.T) []byte {
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, zstd.WithWindowSize(2*maxZstdWindow), zstd.WithSingleSegment(false))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write(make([]byte, 100))
	_ = w.Flush() // so that the frame's size is not known when its window is written
	_, _ = w.Write(make([]byte, 100))
	_ = w.Close()
	return b.Bytes()
}

// TestResume cuts the connection, or lets it stall, and expects the rest only:
// in the middle, at 99 %, at the last byte, and more than once.
func TestResume(t *testing.T) {
	for name, c := range map[string]struct {
		ranges, stall bool
		at            []float64
	}{
		"half": {true, false, []float64{0.5}}, "no ranges": {false, false, []float64{0.5}}, "99 %": {true, false, []float64{0.99}},
		"stall at 99 %": {true, true, []float64{0.99}}, "no ranges, 99 %": {false, false, []float64{0.99}},
		"the last byte": {true, true, []float64{1}}, "often": {true, false, []float64{0.1, 0.3, 0.5, 0.7, 0.99}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			im := newImage(gzLayer("a", 200_000))
			f.push("x", im)
			o := f.options()
			var last banger.Progress
			o.Progress = func(p banger.Progress) { last = p }
			l := f.resolve("x", o).Layers[0]
			blob, sent := im.layers[0].blob, 0
			f.answer(l.Digest, func(w http.ResponseWriter, r *http.Request) {
				if !c.ranges {
					r.Header.Del("Range")
				}
				if len(c.at) == 0 {
					counted := &countingBody{ResponseWriter: w, n: &sent}
					http.ServeContent(counted, r, "", time.Time{}, bytes.NewReader(blob))
					return
				}
				to := min(int(c.at[0]*float64(len(blob))), len(blob)-1)
				c.at = c.at[1:]
				start := 0
				if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &start); err == nil {
					w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", start, len(blob)-1, len(blob)))
					w.Header().Set("Content-Length", fmt.Sprint(len(blob)-start))
					w.WriteHeader(http.StatusPartialContent)
				} else {
					w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
				}
				n, _ := w.Write(blob[start:to])
				sent += n
				if c.stall {
					w.(http.Flusher).Flush()
					<-r.Context().Done()
				}
			})
			b, err := readLayer(t.Context(), l)
			if err != nil || !bytes.Equal(b, im.layers[0].plain) {
				t.Fatalf("%d bytes, %v", len(b), err)
			}
			if last.Done != last.Total || last.Total != l.Size {
				t.Errorf("progress %+v of %d", last, l.Size)
			}
			if c.ranges && sent != len(blob) {
				t.Errorf("%d bytes were sent for a layer of %d", sent, len(blob))
			}
			wantCache(t, o.Cache, 1)
		})
	}
}

// countingBody counts what is written.
type countingBody struct {
	http.ResponseWriter
	n *int
}

func (c *countingBody) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	*c.n += n
	return n, err
}

// What a registry says of digests counts for nothing: the image is what its
// bytes are, by tag and by digest, and so is its config.
func TestHashOfTheServer(t *testing.T) {
	f := newFixture(t)
	im := newImage(gzLayer("a", 1000))
	digest := f.push("x", im)
	body := mustJSON(t, im.manifest)
	lie := func(body []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", string(types.OCIManifestSchema1))
			w.Header().Set("Docker-Content-Digest", someDigest)
			_, _ = w.Write(body)
		}
	}
	f.answer("/manifests/", lie(body))
	if got := f.resolve("x", f.options()); got.Digest != digest || got.Named != digest {
		t.Errorf("digests %s and %s, want %s", got.Digest, got.Named, digest)
	}
	_, err := Resolve(t.Context(), f.host+"/team/app@"+someDigest, f.options())
	wantErr(t, err, banger.Invalid, "other bytes")
	f.front = nil
	config := im.manifest["config"].(map[string]any)["digest"].(string)
	cfg := mustJSON(t, im.config)
	f.answer(config, lie(bytes.Replace(cfg, []byte("/srv"), []byte("/usr"), 1)))
	f.wantRefused("x", banger.Invalid, "read config", "other bytes")
	f.answer(config, lie(append(cfg, bytes.Repeat([]byte(" "), 8<<20)...)))
	f.wantRefused("x", banger.Invalid, "longer than")
	f.answer(config, lie(cfg[:len(cfg)-1]))
	f.wantRefused("x", banger.Invalid, "bytes instead of")
}

func TestCancelInMidLayer(t *testing.T) {
	f := newFixture(t)
	im := newImage(gzLayer("a", 500_000))
	f.push("x", im)
	before := runtime.NumGoroutine()
	o := f.options()
	o.Stall = time.Minute
	img := f.resolve("x", o)
	l, blob := img.Layers[0], im.layers[0].blob
	f.answer(l.Digest, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
		_, _ = w.Write(blob[:len(blob)/2])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	for name, end := range map[string]func(context.CancelFunc, io.Closer){
		"cancel": func(cancel context.CancelFunc, _ io.Closer) { cancel() },
		"close":  func(_ context.CancelFunc, r io.Closer) { _ = r.Close() },
	} {
		ctx, cancel := context.WithCancel(t.Context())
		r, err := l.Open(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		end(cancel, r)
		_, err = io.ReadAll(r)
		if err == nil || name == "cancel" && (!banger.IsKind(err, banger.Canceled) || !errors.Is(err, context.Canceled)) {
			t.Errorf("%s: %v", name, err)
		}
		wantCache(t, o.Cache, 0)
		_ = r.Close()
		cancel()
	}
	_ = img.Close()
	f.srv.CloseClientConnections()
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<16)
			t.Fatalf("%d goroutines, before %d:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		}
		time.Sleep(10 * time.Millisecond) // no event tells of a goroutine's end
	}
}

func TestFullDisk(t *testing.T) {
	err := storeError(&os.PathError{Op: "write", Path: "/cache/x", Err: syscall.ENOSPC})
	wantErr(t, err, banger.Exhausted, "no space left")
	// A partial blob that cannot be written fails the layer and is removed.
	f := newFixture(t)
	f.push("x", newImage(gzLayer("a", 500_000)))
	o := f.options()
	r, err := f.resolve("x", o).Layers[0].Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.(*layerReader).blob.tee.f.Close()
	if _, err := io.ReadAll(r); err == nil || !strings.Contains(err.Error(), "write the blob cache") {
		t.Errorf("error %v", err)
	}
	wantCache(t, o.Cache, 0)
}
