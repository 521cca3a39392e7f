package oci

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"banger"
)

// fixture is a registry on loopback with a handler in front that can lie.
type fixture struct {
	t     *testing.T
	srv   *httptest.Server
	host  string
	front func(w http.ResponseWriter, r *http.Request) bool // true: it has answered

	mu   sync.Mutex
	gets map[string]int // by path
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	// No login of whoever runs the tests may leave this machine.
	t.Setenv("HOME", t.TempDir())
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	t.Setenv("REGISTRY_AUTH_FILE", "")
	f := &fixture{t: t, gets: map[string]int{}}
	reg := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	f.srv = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet || r.URL.Path == "/token" {
			f.mu.Lock()
			f.gets[r.URL.Path]++
			f.mu.Unlock()
			if f.front != nil && f.front(w, r) {
				return
			}
		}
		reg.ServeHTTP(w, r)
	}))
	// A client that asks for TLS first is no news.
	f.srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	f.srv.Start()
	t.Cleanup(f.srv.Close)
	f.host = strings.TrimPrefix(f.srv.URL, "http://")
	return f
}

// count is how often a path that contains s was asked for.
func (f *fixture) count(s string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for p, c := range f.gets {
		if strings.Contains(p, s) {
			n += c
		}
	}
	return n
}

func (f *fixture) put(kind, id, mediaType string, body []byte) {
	f.t.Helper()
	method, u := http.MethodPut, f.srv.URL+"/v2/team/app/"+kind+"/"+id
	if kind == "blobs" {
		method, u = http.MethodPost, f.srv.URL+"/v2/team/app/blobs/uploads/?digest="+id
	}
	req, err := http.NewRequest(method, u, bytes.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	req.Header.Set("Content-Type", mediaType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		b, _ := io.ReadAll(resp.Body)
		f.t.Fatalf("%s %s: %s: %s", method, u, resp.Status, b)
	}
}

func digestOf(b []byte) string {
	s := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(s[:])
}

// layerBlob is one layer as pushed.
type layerBlob struct {
	mediaType types.MediaType
	plain     []byte // the tar
	blob      []byte // as transferred
	diffID    string // default: that of plain
}

func tarOf(name string, size int) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	body := make([]byte, size)
	for i := range body {
		body[i] = byte(i*i>>3 ^ i)
	}
	_ = w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(size), Typeflag: tar.TypeReg})
	_, _ = w.Write(body)
	_ = w.Close()
	return b.Bytes()
}

func gz(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(b)
	_ = w.Close()
	return out.Bytes()
}

func zst(t *testing.T, b []byte) []byte {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

func gzLayer(name string, size int) layerBlob {
	b := tarOf(name, size)
	return layerBlob{mediaType: types.OCILayer, plain: b, blob: gz(b)}
}

// image is a document pair under construction; tests bend it before push.
type image struct {
	layers   []layerBlob
	config   map[string]any
	manifest map[string]any
}

func newImage(layers ...layerBlob) *image {
	im := &image{layers: layers}
	var diffs []string
	var descs []map[string]any
	for _, l := range layers {
		d := l.diffID
		if d == "" {
			d = digestOf(l.plain)
		}
		diffs = append(diffs, d)
		descs = append(descs, map[string]any{"mediaType": l.mediaType, "digest": digestOf(l.blob), "size": len(l.blob)})
	}
	im.config = map[string]any{
		"os": "linux", "architecture": runtime.GOARCH,
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffs},
		"config": map[string]any{
			"Entrypoint": []string{"/bin/sh", "-c"}, "Cmd": []string{"true"}, "Env": []string{"A=b"},
			"WorkingDir": "/srv", "User": "1:2", "StopSignal": "SIGINT",
		},
	}
	im.manifest = map[string]any{"schemaVersion": 2, "mediaType": types.OCIManifestSchema1, "layers": descs}
	return im
}

// push puts the image under a tag and returns the digest of its manifest.
func (f *fixture) push(tag string, im *image) string {
	f.t.Helper()
	for _, l := range im.layers {
		f.put("blobs", digestOf(l.blob), "application/octet-stream", l.blob)
	}
	cfg, err := json.Marshal(im.config)
	if err != nil {
		f.t.Fatal(err)
	}
	f.put("blobs", digestOf(cfg), "application/octet-stream", cfg)
	if im.manifest["config"] == nil {
		im.manifest["config"] = map[string]any{"mediaType": types.OCIConfigJSON, "digest": digestOf(cfg), "size": len(cfg)}
	}
	m, err := json.Marshal(im.manifest)
	if err != nil {
		f.t.Fatal(err)
	}
	f.put("manifests", tag, string(types.OCIManifestSchema1), m)
	return digestOf(m)
}

func (f *fixture) ref(tag string) string { return f.host + "/team/app:" + tag }

// options has a fresh cache and no patience.
func (f *fixture) options() Options {
	return Options{Cache: f.t.TempDir(), Stall: 200 * time.Millisecond, backoff: time.Millisecond}
}

func (f *fixture) resolve(tag string, o Options) *Image {
	f.t.Helper()
	im, err := Resolve(f.t.Context(), f.ref(tag), o)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = im.Close() })
	return im
}

func readLayer(ctx context.Context, l Layer) ([]byte, error) {
	r, err := l.Open(ctx)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(r)
	return b, errors.Join(err, r.Close())
}

// wantErr checks the kind of an error and that its text holds every word.
func wantErr(t *testing.T, err error, kind banger.Kind, words ...string) {
	t.Helper()
	if !banger.IsKind(err, kind) {
		t.Fatalf("error of kind %s wanted, got %v", kind, err)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

// wantCache checks which blobs are cached and that no partial one is left.
func wantCache(t *testing.T, cache string, want int) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(cache, "sha256", "*"))
	if err != nil {
		t.Fatal(err)
	}
	if len(names) != want || strings.Contains(strings.Join(names, " "), partial) {
		t.Errorf("cache holds %q, want %d blobs", names, want)
	}
}

func TestPull(t *testing.T) {
	f := newFixture(t)
	plain, zs := tarOf("c", 70_000), tarOf("b", 300_000)
	im := newImage(
		gzLayer("a", 200_000),
		layerBlob{mediaType: types.OCILayer, plain: zs, blob: zst(t, zs)}, // the media type lies
		layerBlob{mediaType: types.OCILayerZStd, plain: plain, blob: plain},
		layerBlob{mediaType: types.OCILayer, plain: append(bytes.Clone(plain), zs...), blob: append(append(gz(plain), gz(zs)...), "padding"...)},
	)
	digest := f.push("1.2", im)
	o := f.options()
	var steps []banger.Progress
	o.Progress = func(p banger.Progress) { steps = append(steps, p) }
	got := f.resolve("1.2", o)
	if got.Ref != f.ref("1.2") || got.Digest != digest || len(got.Layers) != 4 {
		t.Fatalf("got %+v", got)
	}
	c := got.Config
	if fmt.Sprint(c) != "{[/bin/sh -c] [true] [A=b] /srv 1:2 SIGINT}" {
		t.Errorf("config %+v", c)
	}
	var total int64
	for i, l := range got.Layers {
		b, err := readLayer(t.Context(), l)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b, im.layers[i].plain) {
			t.Errorf("%s: %d other bytes", l.Name, len(b))
		}
		total += l.Size
	}
	if want := "layer 1/4 " + digestOf(im.layers[0].blob)[:19]; got.Layers[0].Name != want {
		t.Errorf("name %q, want %q", got.Layers[0].Name, want)
	}
	last := steps[len(steps)-1]
	if last != (banger.Progress{Step: "pull app:1.2", Done: total, Total: total}) {
		t.Errorf("last progress %+v", last)
	}
	wantCache(t, o.Cache, 4)

	// Again: nothing but the manifest and the config is asked for, also by digest.
	before := f.count("/blobs/")
	again, err := Resolve(t.Context(), f.host+"/team/app@"+digest, o)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	for i, l := range again.Layers {
		if b, err := readLayer(t.Context(), l); err != nil || !bytes.Equal(b, im.layers[i].plain) {
			t.Errorf("cached %s: %d bytes, %v", l.Name, len(b), err)
		}
	}
	if n := f.count("/blobs/") - before; n != 1 {
		t.Errorf("%d blob requests, want 1 (the config)", n)
	}
}

func TestPullWithoutCache(t *testing.T) {
	f := newFixture(t)
	im := newImage(gzLayer("a", 1000))
	f.push("x", im)
	o := f.options()
	o.Cache = ""
	if _, err := readLayer(t.Context(), f.resolve("x", o).Layers[0]); err != nil {
		t.Fatal(err)
	}
}

func TestTagIsPinned(t *testing.T) {
	f := newFixture(t)
	im := newImage(gzLayer("a", 1000))
	f.push("latest", im)
	got := f.resolve("latest", f.options())
	f.push("latest", newImage(gzLayer("other", 2000)))
	b, err := readLayer(t.Context(), got.Layers[0])
	if err != nil || !bytes.Equal(b, im.layers[0].plain) {
		t.Fatalf("after the tag moved: %d bytes, %v", len(b), err)
	}
}

func TestDamagedCacheHeals(t *testing.T) {
	f := newFixture(t)
	im := newImage(gzLayer("a", 50_000))
	f.push("x", im)
	for name, damage := range map[string]func(path string, b []byte) error{
		"flipped": func(path string, b []byte) error { b[len(b)/2] ^= 1; return os.WriteFile(path, b, 0o600) },
		"short":   func(path string, b []byte) error { return os.WriteFile(path, b[:100], 0o600) },
		"link": func(path string, b []byte) error {
			return errors.Join(os.Remove(path), os.Symlink("/etc/passwd", path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := f.options()
			l := f.resolve("x", o).Layers[0]
			if _, err := readLayer(t.Context(), l); err != nil {
				t.Fatal(err)
			}
			path := blobPath(o.Cache, l.Digest)
			if err := damage(path, bytes.Clone(im.layers[0].blob)); err != nil {
				t.Fatal(err)
			}
			before := f.count(l.Digest)
			b, err := readLayer(t.Context(), l)
			if err != nil || !bytes.Equal(b, im.layers[0].plain) {
				t.Fatalf("%d bytes, %v", len(b), err)
			}
			if f.count(l.Digest) != before+1 {
				t.Error("the blob was not asked for again")
			}
			if b, _ := os.ReadFile(path); !bytes.Equal(b, im.layers[0].blob) {
				t.Error("the cache was not healed")
			}
		})
	}
}

func TestTwoPullsAtOnce(t *testing.T) {
	f := newFixture(t)
	im := newImage(gzLayer("a", 400_000))
	f.push("x", im)
	o := f.options()
	var wg sync.WaitGroup
	for range 4 {
		l := f.resolve("x", o).Layers[0]
		wg.Go(func() {
			if b, err := readLayer(t.Context(), l); err != nil || !bytes.Equal(b, im.layers[0].plain) {
				t.Errorf("%d bytes, %v", len(b), err)
			}
		})
	}
	wg.Wait()
	wantCache(t, o.Cache, 1)
}

func TestSweep(t *testing.T) {
	cache := t.TempDir()
	dir := filepath.Join(cache, "sha256")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{partial + "1", partial + "2", "blob"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(Sweep(cache), Sweep(filepath.Join(cache, "none"))); err != nil {
		t.Error(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) != 1 || filepath.Base(left[0]) != "blob" {
		t.Errorf("left: %q, %v", left, err)
	}
}

func TestCacheDeletedMeanwhile(t *testing.T) {
	f := newFixture(t)
	im := newImage(gzLayer("a", 400_000))
	f.push("x", im)
	o := f.options()
	r, err := f.resolve("x", o).Layers[0].Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := os.RemoveAll(o.Cache); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r); err != nil || !bytes.Equal(b, im.layers[0].plain) {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mustParse(t *testing.T, s string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(s), v); err != nil {
		t.Fatal(err)
	}
}

// pushBent puts the blobs of an image and returns its manifest, for a test to serve.
func (f *fixture) pushBent(im *image) []byte {
	f.t.Helper()
	cfg := mustJSON(f.t, im.config)
	f.put("blobs", digestOf(cfg), "application/octet-stream", cfg)
	if im.manifest["config"] == nil {
		im.manifest["config"] = map[string]any{"mediaType": types.OCIConfigJSON, "digest": digestOf(cfg), "size": len(cfg)}
	}
	return mustJSON(f.t, im.manifest)
}

// newServer is another host that a registry may point to.
func newServer(t *testing.T, h http.Handler) string {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}
