package daemon

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"banger"
	"banger/internal/state"
)

// bundle is a kernel of at least size bytes as a server offers it.
type bundle struct {
	archive []byte // tar, not packed
	kernel  string // the digest of its vmlinux
}

func newBundle(t *testing.T, seed byte, size int) bundle {
	t.Helper()
	machine := map[string]elf.Machine{"x86_64": elf.EM_X86_64, "aarch64": elf.EM_AARCH64}[hostArch()]
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(machine)}
	copy(h.Ident[:], elf.ELFMAG+"\x02\x01\x01")
	var kernel, archive bytes.Buffer
	w := tar.NewWriter(&archive)
	random := rand.NewChaCha8([32]byte{seed})
	if err := errors.Join(binary.Write(&kernel, binary.LittleEndian, h), copyN(&kernel, random, size),
		w.WriteHeader(&tar.Header{Name: "vmlinux", Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(kernel.Len())})); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(kernel.Bytes())
	if _, err := w.Write(kernel.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return bundle{archive.Bytes(), hex.EncodeToString(sum[:])}
}

func copyN(w io.Writer, r io.Reader, n int) error {
	_, err := io.CopyN(w, r, int64(n))
	return err
}

// url is where the server has the bundle, with its digest.
func (b bundle) url(srv *httptest.Server) string {
	sum := sha256.Sum256(b.archive)
	return srv.URL + "/web.tar#sha256=" + hex.EncodeToString(sum[:])
}

// halfServer sends the first half of a bundle, says so, and then waits.
type halfServer struct {
	b    bundle
	sent chan struct{}
	more chan struct{} // closed: the other half may go too
	n    atomic.Int32  // requests
}

func newHalfServer(t *testing.T, b bundle) (*halfServer, *httptest.Server) {
	t.Helper()
	s := &halfServer{b: b, sent: make(chan struct{}, 10), more: make(chan struct{})}
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	return s, srv
}

func (s *halfServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.n.Add(1)
	half := len(s.b.archive) / 2
	w.Header().Set("Content-Length", fmt.Sprint(len(s.b.archive)))
	_, _ = w.Write(s.b.archive[:half])
	_ = http.NewResponseController(w).Flush()
	s.sent <- struct{}{}
	select {
	case <-s.more:
		_, _ = w.Write(s.b.archive[half:])
	case <-r.Context().Done():
	}
}

func (h *host) pull(url string, force bool) (banger.Kernel, error) {
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	return h.client.KernelPull(ctx, banger.KernelPullRequest{Name: url, As: "web", Force: force}, nil)
}

// wholeKernel wants the kernel web to be the bundle's, and all of it.
func (h *host) wholeKernel(b bundle) {
	h.t.Helper()
	k, err := h.client.KernelShow(h.t.Context(), "web")
	h.must(err)
	text, err := os.ReadFile(filepath.Join(h.layout.Kernels(), "web", state.VmlinuxFile))
	h.must(err)
	sum := sha256.Sum256(text)
	if got := hex.EncodeToString(sum[:]); got != b.kernel || k.SHA256 != got || k.Problem != "" {
		h.t.Errorf("the kernel is %s, its record %+v, want %s", got, k, b.kernel)
	}
}

// nothingHalf wants no kernel but those named, and nothing that is half made.
func (h *host) nothingHalf(names string) {
	h.t.Helper()
	h.eventually(func() error {
		for dir, want := range map[string]string{h.layout.Kernels(): names, h.layout.Scratch(): ""} {
			entries, err := os.ReadDir(dir)
			if err != nil {
				return err
			}
			var got []string
			for _, e := range entries {
				got = append(got, e.Name())
			}
			if strings.Join(got, " ") != want {
				return fmt.Errorf("in %s: %v, want %s", dir, got, want)
			}
		}
		return nil
	})
}

// Two pulls of one name: one works, the other waits for it and says that the
// kernel is there. Only by force does it come in the other's place.
func TestTwoPulls(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	b := newBundle(t, 1, 300_000)
	server, srv := newHalfServer(t, b)
	var works, exists atomic.Int32
	var both sync.WaitGroup
	pull := func() {
		switch _, err := h.pull(b.url(srv), false); {
		case err == nil:
			works.Add(1)
		case banger.IsKind(err, banger.Exists) && strings.Contains(banger.AsError(err).Hint, "--force"):
			exists.Add(1)
		default:
			t.Error(err)
		}
	}
	both.Go(pull)
	<-server.sent
	both.Go(pull)
	if err := h.client.KernelDelete(t.Context(), banger.NameRequest{Name: "other"}); !banger.IsKind(err, banger.NotFound) {
		t.Errorf("another kernel has to wait: %v", err)
	}
	close(server.more)
	both.Wait()
	if works.Load() != 1 || exists.Load() != 1 || server.n.Load() != 1 {
		t.Errorf("%d pulls worked, %d found it there, %d requests", works.Load(), exists.Load(), server.n.Load())
	}
	h.wholeKernel(b)
	h.nothingHalf("kernel web")
	next := newBundle(t, 2, 100_000)
	other, srv := newHalfServer(t, next)
	close(other.more)
	if _, err := h.pull(next.url(srv), true); err != nil {
		t.Error(err)
	}
	h.wholeKernel(next)
	h.nothingHalf("kernel web")
}

// Where a bundle turns out to be a wrong one, or its server goes away, the
// kernel that is there stays, with force too.
func TestPullKeepsOld(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	old, next := newBundle(t, 1, 100_000), newBundle(t, 2, 100_000)
	serve := func(b bundle) *httptest.Server {
		s, srv := newHalfServer(t, b)
		close(s.more)
		return srv
	}
	_, err := h.pull(old.url(serve(old)), false)
	h.must(err)
	_, err = h.pull(old.url(serve(next)), true) // its last byte shows that it is another one
	wantKind(t, err, banger.Invalid, "its sha256 is", "ask its publisher")
	h.wholeKernel(old)
	h.nothingHalf("kernel web")
	gone, srv := newHalfServer(t, next)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-gone.sent
		cancel()
	}()
	_, err = h.client.KernelPull(ctx, banger.KernelPullRequest{Name: next.url(srv), As: "web", Force: true}, nil)
	wantKind(t, err, banger.Canceled)
	h.nothingHalf("kernel web")
	h.wholeKernel(old)
}

// A kill -9 in the middle of a pull leaves nothing after the next start, and
// the old kernel where there was one.
func TestKillDuringPull(t *testing.T) {
	for _, step := range []string{"in the body", "kernel: filled"} {
		for _, force := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, force %v", step, force), func(t *testing.T) {
				t.Parallel()
				h := newHost(t)
				old, next := newBundle(t, 1, 100_000), newBundle(t, 2, 3_000_000)
				names := "kernel"
				if force {
					h.open()
					s, srv := newHalfServer(t, old)
					close(s.more)
					_, err := h.pull(old.url(srv), false)
					h.must(err)
					h.close()
					names = "kernel web"
				}
				server, srv := newHalfServer(t, next)
				if err := h.spawn(step); err != nil {
					t.Fatal(err)
				}
				ended := make(chan error, 1)
				go func() {
					_, err := h.pull(next.url(srv), force)
					ended <- err
				}()
				<-server.sent
				if step == "in the body" {
					h.eventually(func() error { // the first half is on its way into the file
						half, _ := filepath.Glob(h.layout.Kernels() + "/.tmp-*/" + state.VmlinuxFile)
						if len(half) != 1 {
							return fmt.Errorf("no half of a kernel")
						}
						return nil
					})
					h.crash()
				} else {
					close(server.more)
					h.died()
				}
				wantKind(t, <-ended, banger.Unavailable)
				if half, _ := filepath.Glob(h.layout.Kernels() + "/.tmp-*"); len(half) != 1 {
					t.Errorf("it was not in the middle: %v", half)
				}
				h.open()
				h.nothingHalf(names)
				if force {
					h.wholeKernel(old)
				}
				server, srv = newHalfServer(t, next)
				close(server.more)
				_, err := h.pull(next.url(srv), force)
				h.must(err)
				h.wholeKernel(next)
				h.nothingHalf("kernel web")
			})
		}
	}
}

// A disk that fills up in the middle of a pull is told of, and has its space back.
func TestPullDiskFull(t *testing.T) {
	t.Parallel()
	h := smallHost(t, "size=8m")
	large, small := newBundle(t, 1, 12<<20), newBundle(t, 2, 2<<20)
	serve := func(b bundle) string {
		s, srv := newHalfServer(t, b)
		close(s.more)
		return b.url(srv)
	}
	_, err := h.pull(serve(small), false)
	h.must(err)
	for range 2 { // the second has as much space as the first
		_, err = h.pull(serve(large), true)
		wantKind(t, err, banger.Exhausted, "no space left", "free some space")
		if left, err := os.ReadDir(h.inside(state.KernelsDir)); err != nil || len(left) != 1 || left[0].Name() != "web" {
			t.Errorf("left: %v, %v", left, err)
		}
	}
	k, err := h.client.KernelShow(t.Context(), "web")
	if err != nil || k.SHA256 != small.kernel {
		t.Errorf("the old one: %+v, %v", k, err)
	}
	_, err = h.pull(serve(newBundle(t, 3, 4<<20)), true)
	h.must(err)
}

// A server that says nothing does not keep the daemon from its other work, nor
// from its end.
func TestPullFromSilence(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	server, srv := newHalfServer(t, newBundle(t, 1, 300_000))
	ended := make(chan error, 1)
	go func() {
		_, err := h.pull(server.b.url(srv), false)
		ended <- err
	}()
	<-server.sent
	if list, err := h.client.KernelList(t.Context(), banger.KernelListRequest{}); err != nil || len(list) != 1 {
		t.Errorf("list: %v, %v", list, err)
	}
	h.close()
	if err := <-ended; err == nil {
		t.Error("it came all the same")
	}
	h.nothingHalf("kernel")
}
