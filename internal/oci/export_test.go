package oci

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"banger"
)

// packed makes an export of one layer with the tar in it.
func packed(t *testing.T, dir string, layer []byte, bend func(*PackOptions)) (*Export, error) {
	t.Helper()
	o := PackOptions{Dir: dir, Created: time.Unix(1_700_000_000, 0), By: "test", Config: banger.ImageConfig{Cmd: []string{"sh"}, User: "1"},
		Write: func(_ context.Context, w io.Writer) error { _, err := w.Write(layer); return err }}
	if bend != nil {
		bend(&o)
	}
	e, err := Pack(t.Context(), o)
	if err == nil {
		t.Cleanup(func() { _ = e.Close() })
	}
	if names, _ := filepath.Glob(dir + "/*"); len(names) > 0 {
		t.Errorf("%q is left", names)
	}
	return e, err
}

func saved(t *testing.T, e *Export, name string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := e.Save(t.Context(), &b, name, nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// What is packed and saved reads back as the same image, in both forms that the
// file has, and the same again gives the same bytes.
func TestPackAndSave(t *testing.T) {
	t.Parallel()
	plain := tarOf("a", 300_000)
	for _, compression := range []string{"", "gzip", "zstd", "none"} {
		var files [][]byte
		for range 2 {
			e, err := packed(t, t.TempDir(), plain, func(o *PackOptions) { o.Compression = compression })
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, saved(t, e, "my-image"))
		}
		if !bytes.Equal(files[0], files[1]) {
			t.Errorf("%s: other bytes", compression)
		}
		a, err := openTar(t, files[0])
		if err != nil {
			t.Fatal(err)
		}
		for format, ref := range map[string]string{"oci-layout": "my-image", "docker-archive": "my-image:latest"} {
			a.Format = format
			im, err := a.Resolve(t.Context(), ref, Options{})
			if err != nil {
				t.Fatalf("%s: %s: %v", compression, format, err)
			}
			wantLayers(t, im, []layerBlob{{plain: plain}})
			if im.Config.User != "1" || im.Config.Cmd[0] != "sh" {
				t.Errorf("%s: %+v", format, im.Config)
			}
			steps, err := History(im.RawConfig, []banger.ImageLayer{{DiffID: im.Layers[0].DiffID, Size: 7}})
			if err != nil || len(steps) != 1 || steps[0].By != "test" || steps[0].Size != 7 {
				t.Errorf("history %+v, %v", steps, err)
			}
		}
	}
	_, err := packed(t, t.TempDir(), plain, func(o *PackOptions) { o.Compression = "lzma" })
	wantErr(t, err, banger.Invalid, "lzma")
}

// How an image is run stays, whatever of that banger knows.
func TestPackKeepsConfig(t *testing.T) {
	t.Parallel()
	raw := `{"author":"me","config":{"Labels":{"a":"b"},"ExposedPorts":{"80/tcp":{}},"Cmd":["x"]},"rootfs":{"diff_ids":["old"]},"history":[{"created_by":"old"}]}`
	e, err := packed(t, t.TempDir(), tarOf("a", 10), func(o *PackOptions) { o.RawConfig, o.Arch = []byte(raw), "aarch64" })
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []string{`"80/tcp"`, `"Labels":{"a":"b"}`, `"author":"me"`, `"architecture":"arm64"`, `"variant":"v8"`} {
		if !strings.Contains(string(e.raw), w) {
			t.Errorf("%s is not in %s", w, e.raw)
		}
	}
	if strings.Contains(string(e.raw), "old") {
		t.Errorf("layers of before are in %s", e.raw)
	}
	if l := Labels(e.raw); l["a"] != "b" {
		t.Errorf("labels %v", l)
	}
}

func TestPackFails(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	_, err := packed(t, t.TempDir(), nil, func(o *PackOptions) { o.Write = func(context.Context, io.Writer) error { return broken } })
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if _, err := Pack(t.Context(), PackOptions{Dir: "/nowhere"}); err == nil {
		t.Error("packed into nowhere")
	}
}

// An image whose layers are cached goes out as it came.
func TestReuse(t *testing.T) {
	f := newFixture(t)
	im := newImage(gzLayer("a", 300_000), gzLayer("b", 1000))
	digest := f.push("x", im)
	o := f.options()
	pulled := f.resolve("x", o)
	if _, err := Reuse(t.Context(), o.Cache, pulled.RawManifest, pulled.RawConfig); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing is cached: %v", err)
	}
	for _, l := range pulled.Layers {
		if _, err := readLayer(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	reuse := func() (*Export, error) {
		e, err := Reuse(t.Context(), o.Cache, pulled.RawManifest, pulled.RawConfig)
		if err == nil {
			t.Cleanup(func() { _ = e.Close() })
		}
		return e, err
	}
	e, err := reuse()
	if err != nil || e.Digest != digest {
		t.Fatalf("%+v, %v", e, err)
	}
	a, err := openTar(t, saved(t, e, "x:1"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := a.Resolve(t.Context(), "", Options{})
	if err != nil || again.Digest != digest {
		t.Fatalf("%+v, %v", again, err)
	}
	wantLayers(t, again, im.layers)
	if _, err := Reuse(t.Context(), o.Cache, pulled.RawManifest, []byte("{}")); !banger.IsKind(err, banger.Invalid) {
		t.Errorf("another config: %v", err)
	}
	path := blobPath(o.Cache, pulled.Layers[0].Digest)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[1000] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := reuse(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a damaged layer: %v", err)
	}
}

// counting lets a test see what a push sends.
func (f *fixture) counting() map[string]int {
	sent := map[string]int{}
	inner := f.srv.Config.Handler
	f.srv.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPatch || r.Method == http.MethodPut || r.Method == http.MethodPost {
			f.mu.Lock()
			sent[r.Method]++
			f.mu.Unlock()
		}
		inner.ServeHTTP(w, r)
	})
	return sent
}

func TestPush(t *testing.T) {
	f := newFixture(t)
	plain := tarOf("a", 2_000_000)
	e, err := packed(t, t.TempDir(), plain, nil)
	if err != nil {
		t.Fatal(err)
	}
	sent := f.counting()
	var last banger.Progress
	full, err := e.Push(t.Context(), f.ref("new"), Options{Progress: func(p banger.Progress) { last = p }})
	if err != nil || full != f.ref("new") || sent[http.MethodPatch] != 2 || last.Done != last.Total || last.Total == 0 {
		t.Fatalf("%s, %v after %v, %+v", full, err, sent, last)
	}
	im := f.resolve("new", f.options())
	if im.Digest != e.Digest {
		t.Errorf("pushed %s, pulled %s", e.Digest, im.Digest)
	}
	wantLayers(t, im, []layerBlob{{plain: plain}})
	if _, err := e.Push(t.Context(), f.ref("other"), Options{}); err != nil || sent[http.MethodPatch] != 2 {
		t.Errorf("again: %v after %v", err, sent)
	}
	_, err = e.Push(t.Context(), f.host+"/team/app@"+digestOf(nil), Options{})
	wantErr(t, err, banger.Invalid, "the digest of the image")
	_, err = e.Push(t.Context(), "Not A Ref", Options{})
	wantErr(t, err, banger.Invalid, "Not A Ref")
}

func TestPushRefused(t *testing.T) {
	f := newFixture(t)
	// More than the sockets' buffers take.
	e, err := packed(t, t.TempDir(), tarOf("a", 24<<20), func(o *PackOptions) { o.Compression = "none" })
	if err != nil {
		t.Fatal(err)
	}
	inner := f.srv.Config.Handler
	tried := make(chan struct{})
	var now atomic.Pointer[func(http.ResponseWriter, *http.Request) bool]
	f.srv.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !(*now.Load())(w, r) {
			inner.ServeHTTP(w, r)
		}
	})
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request) bool
		kind   banger.Kind
		word   string
	}{
		"login": {func(w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}, banger.Unavailable, "wants a login"},
		"denied": {func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPost {
				return false
			}
			w.WriteHeader(http.StatusForbidden)
			return true
		}, banger.Unavailable, "wants a login"},
		"stalled": {func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPatch {
				return false
			}
			_, _ = io.ReadFull(r.Body, make([]byte, 1000))
			<-tried
			return true
		}, banger.Unavailable, "taken nothing for"},
	} {
		now.Store(&c.answer)
		_, err := e.Push(t.Context(), f.ref("x"), Options{Stall: 300 * time.Millisecond})
		if !banger.IsKind(err, c.kind) || !strings.Contains(err.Error(), c.word) {
			t.Errorf("%s: %v", name, err)
		}
	}
	close(tried)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = e.Push(ctx, f.ref("x"), Options{})
	wantErr(t, err, banger.Canceled)
}

func TestHistory(t *testing.T) {
	t.Parallel()
	layers := []banger.ImageLayer{{DiffID: "one", Size: 1}, {DiffID: "two", Size: 2}, {DiffID: "three", Size: 3}}
	raw := `{"history":[{"created_by":"ADD","created":"2024-01-02T03:04:05Z"},{"created_by":"ENV","empty_layer":true},{"created_by":"RUN","comment":"c"}]}`
	steps, err := History([]byte(raw), layers)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range steps {
		got = append(got, fmt.Sprintf("%s %s %d", s.By, s.Layer, s.Size))
	}
	if want := "ADD one 1,ENV  0,RUN two 2, three 3"; strings.Join(got, ",") != want {
		t.Errorf("got %q", got)
	}
	if _, err := History([]byte("{"), nil); !banger.IsKind(err, banger.Invalid) {
		t.Errorf("no JSON: %v", err)
	}
	if s, err := History([]byte(`{"history":[{"created_by":"x"},{"created_by":"y"}]}`), layers[:1]); err != nil || len(s) != 2 || s[1].Layer != "" {
		t.Errorf("more steps than layers: %+v, %v", s, err)
	}
}

func TestPlatformWords(t *testing.T) {
	t.Parallel()
	for word, want := range map[string]string{"x86_64": "amd64 [ v1]", "linux/amd64": "amd64 [ v1]", "linux/arm64": "arm64 [v8 ]", "linux/arm64/v8": "arm64 [v8]",
		"linux/arm/v6": "arm [v6]", "": "", "windows/amd64": "error", "linux/vax": "error", "linux/arm/v5": "error", "amd64": "error", "/": "error"} {
		p, err := platformOf(word)
		got := fmt.Sprint(p.arch, " ", p.variants)
		if err != nil {
			got = "error"
		}
		if word != "" && got != want {
			t.Errorf("%q is %s (%v), want %s", word, got, err, want)
		}
	}
}

// tarDir is the head of a tar with a directory as its first entry.
func tarDir(name string) []byte {
	var b bytes.Buffer
	_ = tar.NewWriter(&b).WriteHeader(&tar.Header{Name: name, Mode: 0o755, Typeflag: tar.TypeDir})
	return b.Bytes()
}

func TestTarHead(t *testing.T) {
	t.Parallel()
	im := newImage(gzLayer("a", 10))
	s := shelf{}
	archive := s.index(t, s.add(t, im, nil)).tar(t)
	for name, c := range map[string]struct {
		head           []byte
		isTar, archive bool
	}{
		"layout":  {archive, true, true},
		"docker":  {docker(t, map[string]*image{"x:1": im}).tar(t), true, true},
		"root":    {tarOf("./bin/sh", 10), true, false},
		"jib":     {tarOf("config.json", 10), true, true},
		"dot":     {append(tarDir("./"), tarOf("./bin/sh", 10)...), true, false},
		"text":    {bytes.Repeat([]byte("text"), 500), false, false},
		"zeros":   {make([]byte, 4096), false, false},
		"nothing": {nil, false, false},
		"short":   {archive[:100], false, false},
	} {
		if isTar, may := TarHead(c.head[:min(len(c.head), 4096)]); isTar != c.isTar || may != c.archive {
			t.Errorf("%s: %v, %v", name, isTar, may)
		}
	}
}
