package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"banger"
)

// bigTar is a layer of about n bytes: small files of a typical size mix, a
// quarter of them text-like, none of it zeros.
func bigTar(t testing.TB, seed byte, n int) []byte {
	t.Helper()
	r := rand.NewChaCha8([32]byte{seed})
	noise := make([]byte, 1<<20)
	r.Read(noise)
	b := bytes.NewBuffer(make([]byte, 0, n+n/8))
	w := tar.NewWriter(b)
	for i := 0; b.Len() < n; i++ {
		size := int64(1 + r.Uint64()%(1<<(8+r.Uint64()%12)))
		h := &tar.Header{Name: fmt.Sprintf("layer%d/dir%d/file%d", seed, i/50, i), Typeflag: tar.TypeReg, Mode: 0o644, Size: size}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		w.Write(noise[:size])
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// heldBack is a layer that is not read before others are read to their end.
type heldBack struct {
	io.Reader
	after  []chan struct{}
	closed chan struct{}
}

func (h heldBack) Read(p []byte) (int, error) {
	for _, c := range h.after {
		<-c
	}
	return h.Reader.Read(p)
}

func (h heldBack) Close() error { close(h.closed); return nil }

// inOrder lets the layers, which are all read at the same time, end in this order.
func inOrder(tars [][]byte, sizes []int64, order ...int) []Layer {
	layers := make([]Layer, len(tars))
	var before []chan struct{}
	for _, i := range order {
		h := heldBack{bytes.NewReader(tars[i]), slices.Clone(before), make(chan struct{})}
		before = append(before, h.closed)
		layers[i] = Layer{Size: sizes[i], Open: func(context.Context) (io.ReadCloser, error) { return h, nil }}
	}
	return layers
}

// TestBuildSameBytes builds with one worker, and with one for each layer, of
// which another one is the slowest each time.
func TestBuildSameBytes(t *testing.T) {
	t.Parallel()
	var tars [][]byte
	var size int64
	for i := range 4 {
		tars = append(tars, bigTar(t, byte(i), (i+1)<<19))
		size += int64(len(tars[i]))
	}
	for name, sizes := range map[string][]int64{"not known": {0, 0, 0, 0}, "known": {1 << 18, 1 << 19, 3 << 17, 1 << 19}, "wrong": {1, 16 << 20, 1 << 20, 0}} {
		t.Run(name, func(t *testing.T) {
			build := func(workers int, layers []Layer) []byte {
				path := filepath.Join(t.TempDir(), "image")
				stats, err := Build(t.Context(), path, layers, Options{Workers: workers})
				if err != nil {
					t.Fatal(err)
				}
				fsck(t, path)
				info, err := os.Stat(path)
				if files := openImage(t, path).files(); err != nil || info.Mode() != 0o444 || stats.Size != info.Size() || stats.Entries != len(files) || stats.Allocated > stats.Size {
					t.Errorf("%+v of %v with %d files, %v", stats, info.Mode(), len(files), err)
				}
				if stats.Allocated > size*3/2+1<<20 || stats.Size > size*2+30<<20 && name != "wrong" {
					t.Errorf("the image has %d bytes and takes %d for %d of layers", stats.Size, stats.Allocated, size)
				}
				sum := sha256.New()
				f, err := os.Open(path)
				if err == nil {
					_, err = io.Copy(sum, f)
					f.Close()
				}
				if err != nil {
					t.Fatal(err)
				}
				return sum.Sum(nil)
			}
			var alone []Layer
			for i, b := range tars {
				alone = append(alone, layerOf(b))
				alone[i].Size = sizes[i]
			}
			want := build(1, alone)
			for _, order := range [][]int{{0, 1, 2, 3}, {3, 2, 1, 0}, {1, 3, 0, 2}} {
				if got := build(4, inOrder(tars, sizes, order...)); !bytes.Equal(got, want) {
					t.Errorf("four workers that end in the order %d gave different bytes", order)
				}
			}
		})
	}
}

// TestBuildDropsDeadData looks that contents which a later layer hides are not
// in the image any more, and take no space.
func TestBuildDropsDeadData(t *testing.T) {
	t.Parallel()
	secret := strings.Repeat("a secret of the lower layer. ", 100_000)
	path := t.TempDir() + "/image"
	layers := layersOf([][]byte{tarOf(t, "f a "+secret, "f b x"), tarOf(t, "f .wh.a", "f c y")})
	stats, err := Build(t.Context(), path, layers, Options{Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	fsck(t, path)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(data, []byte("a secret")) {
		t.Error("the removed file can still be read")
	}
	if stats.Allocated > 256<<10 {
		t.Errorf("the image takes %d bytes", stats.Allocated)
	}
}

func TestBuildExists(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/image"
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Build(t.Context(), path, []Layer{layerOf(tarOf(t, "f a 1"))}, Options{})
	if !banger.IsKind(err, banger.Exists) {
		t.Errorf("got %v", err)
	}
	if data, _ := os.ReadFile(path); string(data) != "mine" {
		t.Error("the file of another is gone")
	}
}

// badReader yields data, then an error in place of the end.
type badReader struct {
	data   io.Reader
	err    error
	closed *atomic.Int32
}

func (b badReader) Read(p []byte) (int, error) {
	n, err := b.data.Read(p)
	if err == io.EOF {
		err = b.err
	}
	return n, err
}

func (b badReader) Close() error { b.closed.Add(1); return nil }

// TestBuildReaderErrors gives layers whose tar is complete, but whose reader
// fails at the end of the stream, as one that verifies a digest does.
func TestBuildReaderErrors(t *testing.T) {
	data := tarOf(t, "f a 1")
	for _, c := range []struct {
		name string
		err  error
		kind banger.Kind
		text string
	}{
		{"a plain error", errors.New("digest differs"), banger.Unavailable, "build root file system: layer 2: read: digest differs"},
		{"an error with a kind", banger.Errorf(banger.Invalid, "digest differs"), banger.Invalid, "layer 2: digest differs"},
		{"the middle of an entry", io.ErrUnexpectedEOF, banger.Unavailable, "layer 2: read: unexpected EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var closed atomic.Int32
			bad := Layer{Open: func(context.Context) (io.ReadCloser, error) {
				return badReader{bytes.NewReader(data), c.err, &closed}, nil
			}}
			wantRefused(t, []Layer{layerOf(data), bad}, Limits{}, c.kind, c.text)
			if closed.Load() != 1 {
				t.Error("the reader was not closed")
			}
		})
	}
	t.Run("open", func(t *testing.T) {
		bad := Layer{Open: func(context.Context) (io.ReadCloser, error) {
			return nil, banger.Errorf(banger.NotFound, "no such blob")
		}}
		wantRefused(t, []Layer{bad}, Limits{}, banger.NotFound, "open layer 1: no such blob")
	})
}

// endless is a layer that never ends: one file of zeros after the other.
func endless(ctx context.Context) io.ReadCloser {
	r, w := io.Pipe()
	context.AfterFunc(ctx, func() { w.CloseWithError(context.Cause(ctx)) })
	go func() {
		tw := tar.NewWriter(w)
		for i := 0; ; i++ {
			if tw.WriteHeader(&tar.Header{Name: fmt.Sprint(i), Typeflag: tar.TypeReg, Size: 1 << 20}) != nil {
				return
			}
			if _, err := tw.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	}()
	return r
}

func TestBuildCancel(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the user went away")
	var canceled time.Time
	_, err := Build(ctx, filepath.Join(dir, "image"), []Layer{
		layerOf(tarOf(t, "f a 1")),
		{Open: func(ctx context.Context) (io.ReadCloser, error) { return endless(ctx), nil }},
	}, Options{Progress: func(p banger.Progress) {
		if p.Done > 8<<20 && canceled.IsZero() {
			canceled = time.Now()
			cancel(why)
		}
	}})
	if !banger.IsKind(err, banger.Canceled) || !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	if d := time.Since(canceled); d > 2*time.Second {
		t.Errorf("it took %v to stop", d)
	}
	wantEmpty(t, dir)
}

// TestBuildStopsOthers looks that an error of one layer ends the reading of another.
func TestBuildStopsOthers(t *testing.T) {
	t.Parallel()
	wantRefused(t, []Layer{
		{Open: func(ctx context.Context) (io.ReadCloser, error) { return endless(ctx), nil }},
		layerOf([]byte(strings.Repeat("bad", 1000))),
	}, Limits{}, banger.Invalid, "layer 2: after entry 0")
}

func TestBuildProgress(t *testing.T) {
	t.Parallel()
	big := bigTar(t, 9, 9<<20)
	var steps []banger.Progress // without a lock: calls must not overlap
	layers := []Layer{layerOf(tarOf(t, "f a 1")), layerOf(big)}
	layers[1].Name, layers[1].Size = "sha256:abc", int64(len(big))
	_, err := Build(t.Context(), t.TempDir()+"/image", layers, Options{Progress: func(p banger.Progress) { steps = append(steps, p) }})
	if err != nil {
		t.Fatal(err)
	}
	var done int64
	for _, p := range steps {
		if strings.HasPrefix(p.Step, "write layer 2/2 sha256:abc") {
			if p.Done < done || p.Total != int64(len(big)) {
				t.Errorf("%+v after %d", p, done)
			}
			done = p.Done
		}
	}
	if done != int64(len(big)) || steps[len(steps)-1].Step != "write file system" {
		t.Errorf("got %+v", steps)
	}
}

// BenchmarkBuild merges one layer of 100 MB.
func BenchmarkBuild(b *testing.B) {
	data := bigTar(b, 1, 100<<20)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		path := filepath.Join(b.TempDir(), "image")
		if _, err := Build(b.Context(), path, []Layer{layerOf(data)}, Options{}); err != nil {
			b.Fatal(err)
		}
		os.Remove(path)
	}
}
