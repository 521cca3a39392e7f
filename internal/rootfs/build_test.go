package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
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

// TestBuildSameBytes builds twice with one worker and once with three.
func TestBuildSameBytes(t *testing.T) {
	t.Parallel()
	var layers []Layer
	var size int64
	for i := range 3 {
		b := bigTar(t, byte(i), 3<<20)
		size += int64(len(b))
		layers = append(layers, layerOf(b))
	}
	dir := t.TempDir()
	build := func(name string, workers int) (string, Stats) {
		path := filepath.Join(dir, name)
		stats, err := Build(t.Context(), path, layers, Options{Workers: workers})
		if err != nil {
			t.Fatal(err)
		}
		fsck(t, path)
		return path, stats
	}
	a, stats := build("a", 1)
	b, _ := build("b", 1)
	c, _ := build("c", 3)
	dataA, _ := os.ReadFile(a)
	dataB, _ := os.ReadFile(b)
	if len(dataA) == 0 || !bytes.Equal(dataA, dataB) {
		t.Error("one worker gave different bytes")
	}
	filesA, filesC := openImage(t, a).files(), openImage(t, c).files()
	if !slices.Equal(list(filesA), list(filesC)) {
		t.Error("three workers gave different files")
	}
	info, err := os.Stat(a)
	if err != nil || info.Mode() != 0o444 || stats.Size != info.Size() || stats.Entries != len(filesA) || stats.Allocated > stats.Size {
		t.Errorf("%+v of %v with %d files, %v", stats, info.Mode(), len(filesA), err)
	}
	if stats.Allocated > size*3/2+1<<20 || stats.Size > size*3/2+20<<20 {
		t.Errorf("the image has %d bytes and takes %d for %d of layers", stats.Size, stats.Allocated, size)
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
