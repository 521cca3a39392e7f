package daemon

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"banger"
	"banger/internal/state"
)

// halfLayers makes a registry send the first half of its layer and then wait.
// It gives a word each time it has.
func (r *registry) halfLayers() (sent chan struct{}) {
	sent = make(chan struct{}, 10)
	r.front = func(w http.ResponseWriter, req *http.Request, layer []byte) bool {
		w.Header().Set("Content-Length", fmt.Sprint(len(layer)))
		_, _ = w.Write(layer[:len(layer)/2])
		_ = http.NewResponseController(w).Flush()
		sent <- struct{}{}
		<-req.Context().Done()
		return true
	}
	return sent
}

// whole lets it send all again.
func (r *registry) whole() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.front = nil
}

// half wants a half-made image, with its root file system begun.
func (h *host) half() {
	h.t.Helper()
	h.eventually(func() error {
		if found, _ := filepath.Glob(h.layout.Images() + "/.tmp-*/" + state.RootfsFile); len(found) != 1 {
			return fmt.Errorf("no half of an image: %v", found)
		}
		return nil
	})
}

// cutOff makes a call that the daemon dies of: by itself, or killed once half of
// it is done.
func (h *host) cutOff(half func(), call func() error) {
	h.t.Helper()
	if half == nil {
		wantKind(h.t, call(), banger.Unavailable)
		h.died()
		return
	}
	ended := make(chan error, 1)
	go func() { ended <- call() }()
	half()
	_ = h.child.Process.Kill()
	wantKind(h.t, <-ended, banger.Unavailable)
	h.crash()
}

// swept wants nothing of what a killed daemon was at, once the next one serves.
func (h *host) swept() {
	h.t.Helper()
	h.open()
	h.clean()
	if left, _ := filepath.Glob(h.layout.Blobs() + "/sha256/.*"); len(left) > 0 {
		h.t.Errorf("left: %v", left)
	}
}

// A kill -9 in the middle of a pull leaves nothing after the next start but what
// is whole, and the same pull works.
func TestKillDuringImagePull(t *testing.T) {
	for _, step := range []string{"in the body", "image: filled"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			reg := newRegistry(t, "one")
			reg.more = 3 << 20
			reg.serve("one")
			if err := h.spawn(step); err != nil {
				t.Fatal(err)
			}
			r := banger.ImagePullRequest{Ref: reg.host + "/some/thing:1", Name: "one"}
			var half func()
			blobs := h.layout.Blobs() + "/sha256/[0-9a-f]*"
			if step == "in the body" {
				blobs = h.layout.Blobs() + "/sha256/.partial-*"
				sent := reg.halfLayers()
				half = func() {
					<-sent
					h.half()
					h.eventually(func() error { // what was sent is on its way into the file
						if found, _ := filepath.Glob(blobs); len(found) != 1 {
							return fmt.Errorf("no partial layer: %v", found)
						}
						return nil
					})
				}
			}
			h.cutOff(half, func() error {
				_, err := h.client.ImagePull(t.Context(), r, nil)
				return err
			})
			h.half()
			if found, _ := filepath.Glob(blobs); len(found) != 1 {
				t.Errorf("it was not in the middle: %v", found)
			}
			h.swept()
			reg.whole()
			im := h.pullImage(r.Ref, r.Name)
			if _, err := h.client.ImageVerify(t.Context(), "one", nil); err != nil {
				t.Error(err)
			}
			// What was whole is not asked for again.
			reg.mu.Lock()
			defer reg.mu.Unlock()
			if n := reg.gets[im.Layers[0].Digest]; n != 1 {
				t.Errorf("the layer was sent %d times as a whole", n)
			}
		})
	}
}

func TestKillDuringImageImport(t *testing.T) {
	for _, step := range []string{"in the stream", "image: filled"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			if err := h.spawn(step); err != nil {
				t.Fatal(err)
			}
			root := rootTar(t, strings.Repeat("this is a root\n", 300_000))
			out, in, err := os.Pipe()
			h.must(err)
			defer out.Close()
			defer in.Close()
			fd := int(out.Fd())
			var half func()
			if step == "in the stream" {
				half = func() {
					_, err := in.Write(root[:len(root)/2])
					h.must(err)
					h.half()
				}
			} else {
				go func() {
					_, _ = in.Write(root)
					_ = in.Close()
				}()
			}
			h.cutOff(half, func() error {
				_, err := h.client.ImageImport(t.Context(), banger.ImageImportRequest{Name: "new", FD: &fd}, nil)
				return err
			})
			h.half()
			h.swept()
			_, err = h.importPipe(banger.ImageImportRequest{Name: "new"}, root)
			h.must(err)
			if _, err := h.client.ImageVerify(t.Context(), "new", nil); err != nil {
				t.Error(err)
			}
		})
	}
}

// The same of builds that need no machine: while a file is on its way from
// elsewhere, and when the image is there but for its name.
func TestKillDuringBuildOfFiles(t *testing.T) {
	for _, step := range []string{"in a download", "build: step made", "image: filled"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			if err := h.spawn(step); err != nil {
				t.Fatal(err)
			}
			sent := make(chan struct{}, 10)
			var wait atomic.Bool
			wait.Store(step == "in a download")
			body := strings.Repeat("0123456789abcdef", 50_000)
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Length", fmt.Sprint(len(body)))
				if _, _ = w.Write([]byte(body[:len(body)/2])); wait.Load() {
					_ = http.NewResponseController(w).Flush()
					sent <- struct{}{}
					<-r.Context().Done()
					return
				}
				_, _ = w.Write([]byte(body[len(body)/2:]))
			}))
			defer srv.Close()
			r := banger.ImageBuildRequest{Name: "new", Text: "FROM scratch\nADD " + srv.URL + "/file /"}
			var half func()
			if step == "in a download" {
				half = func() { <-sent }
			}
			h.cutOff(half, func() error {
				_, err := h.client.ImageBuild(t.Context(), r, func(banger.Progress) {})
				return err
			})
			h.swept()
			wait.Store(false)
			_, said := h.mustBuild(r)
			if cached := strings.Contains(said, "CACHED"); cached != (step == "image: filled") {
				t.Errorf("it said %s", said)
			}
			if tree := strings.Join(h.tree("new"), "\n"); !strings.Contains(tree, body) {
				t.Errorf("got %.100s", tree)
			}
		})
	}
}
