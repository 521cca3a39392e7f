package hostfile

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// run is data of a test file; between runs there are holes.
type run struct{ off, size int64 }

// newFile makes a sparse file of that size in dir.
func newFile(t *testing.T, dir string, size int64, runs ...run) *os.File {
	t.Helper()
	f, err := os.CreateTemp(dir, "hostfile-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close(); os.Remove(f.Name()) })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for i, r := range runs {
		b := bytes.Repeat([]byte("abcdefghijklm")[i:], int(r.size)/10+1)[:r.size]
		if _, err := f.WriteAt(b, r.off); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// checkSame compares contents, lengths, and that no hole was filled.
func checkSame(t *testing.T, dst, src *os.File) {
	t.Helper()
	want, err := os.ReadFile(src.Name())
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(dst.Name())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the copy of %d bytes differs from its original of %d", len(got), len(want))
	}
	if is, was := allocated(t, dst), allocated(t, src); is > was+64<<10 {
		t.Errorf("the copy takes %d bytes, its original %d", is, was)
	}
}

func allocated(t *testing.T, f *os.File) int64 {
	t.Helper()
	fi, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return fi.Sys().(*syscall.Stat_t).Blocks * 512
}

var shapes = []struct {
	name string
	size int64
	runs []run
}{
	{"empty", 0, nil},
	{"one byte", 1, []run{{0, 1}}},
	{"all hole", 5 << 20, nil},
	{"hole first", 2 << 20, []run{{1 << 20, 1 << 20}}},
	{"hole last", 9<<20 + 3, []run{{0, 5000}}},
	{"holes between", 16 << 20, []run{{4096, 4096}, {1 << 20, 100}, {8 << 20, 2<<20 + 1}}},
	{"more than a piece", piece + 1<<20, []run{{0, piece + 1<<20}}},
}

func TestClone(t *testing.T) {
	for _, shape := range shapes {
		t.Run(shape.name, func(t *testing.T) {
			src := newFile(t, t.TempDir(), shape.size, shape.runs...)
			dst := newFile(t, t.TempDir(), 0)
			if err := Clone(t.Context(), dst, src); err != nil {
				t.Fatal(err)
			}
			checkSame(t, dst, src)
		})
	}
}

// TestWays takes each way that a file system may leave, whatever this one offers.
func TestWays(t *testing.T) {
	never := func(_, _ *os.File, _, _ int64) (int64, error) { return 0, errCannot }
	for name, by := range map[string]way{"copy_file_range": copyRange, "read and write": readWrite, "found out late": never} {
		for _, shape := range shapes {
			t.Run(name+"/"+shape.name, func(t *testing.T) {
				src := newFile(t, t.TempDir(), shape.size, shape.runs...)
				dst := newFile(t, t.TempDir(), 0)
				if err := copySparse(t.Context(), dst, src, shape.size, by); err != nil {
					t.Fatal(err)
				}
				checkSame(t, dst, src)
			})
		}
	}
}

// TestCloneAcross copies to another file system, which /dev/shm is on any Linux.
func TestCloneAcross(t *testing.T) {
	src := newFile(t, t.TempDir(), 3<<20, run{1 << 20, 4096})
	dst := newFile(t, "/dev/shm", 0)
	if err := Clone(t.Context(), dst, src); err != nil {
		t.Fatal(err)
	}
	checkSame(t, dst, src)
}

func TestCloneRefuses(t *testing.T) {
	src := newFile(t, t.TempDir(), 1<<20, run{0, 1 << 20})
	full := newFile(t, t.TempDir(), 1)
	if err := Clone(t.Context(), full, src); err == nil {
		t.Error("a file with contents was overwritten")
	}
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := Clone(t.Context(), newFile(t, t.TempDir(), 0), dir); err == nil {
		t.Error("a directory was copied")
	}
	gone := errors.New("nobody waits")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	if err := Clone(ctx, newFile(t, t.TempDir(), 0), src); !errors.Is(err, gone) {
		t.Errorf("canceled: %v, want %v", err, gone)
	}
	if err := copySparse(ctx, newFile(t, t.TempDir(), 0), src, 1<<20, copyRange); !errors.Is(err, gone) {
		t.Errorf("canceled while it copies: %v, want %v", err, gone)
	}
}

// TestShorter copies a file that somebody cuts meanwhile.
func TestShorter(t *testing.T) {
	src := newFile(t, t.TempDir(), 1<<20, run{0, 1 << 20})
	cut := func(dst, src *os.File, off, n int64) (int64, error) {
		if err := os.Truncate(src.Name(), 100); err != nil {
			return 0, err
		}
		return copyRange(dst, src, off+100, n)
	}
	if err := copySparse(t.Context(), newFile(t, t.TempDir(), 0), src, 1<<20, cut); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v, want %v", err, io.ErrUnexpectedEOF)
	}
}

func TestCloneFullDisk(t *testing.T) {
	src := newFile(t, t.TempDir(), 1<<20, run{0, 1 << 20})
	full, err := os.OpenFile(filepath.Join("/dev", "full"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	if _, err := readWrite(full, src, 0, 1<<20); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v, want %v", err, syscall.ENOSPC)
	}
}

func TestReaderEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	r := Reader(ctx, strings.NewReader("text"))
	b := make([]byte, 2)
	if n, err := r.Read(b); n != 2 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	why := errors.New("enough")
	cancel(why)
	if n, err := r.Read(b); n != 0 || err != why {
		t.Errorf("%d, %v", n, err)
	}
}
