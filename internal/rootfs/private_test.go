package rootfs

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"banger"
)

// TestPrivate makes copies of an image, has them grown by resize2fs, and writes
// to them. Linux itself grows them in the end-to-end tests.
func TestPrivate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	stats, err := Build(t.Context(), image, layersOf([][]byte{bigTar(t, 1, 3<<20)}), Options{Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	want := list(openImage(t, image).files())
	for _, size := range []int64{stats.Size, 256<<20 + 5, 10 << 30, 40 << 30} {
		path := filepath.Join(dir, "disk")
		if err := Private(t.Context(), path, image, size); err != nil {
			t.Fatal(err)
		}
		fsck(t, path)
		if out, err := exec.Command(tool(t, "resize2fs"), path).CombinedOutput(); err != nil {
			t.Fatalf("resize2fs: %v\n%s", err, out)
		}
		if size > stats.Size {
			for _, change := range []string{"mkdir /new", "rmdir /new"} {
				if out, err := exec.Command(tool(t, "debugfs"), "-w", "-R", change, path).CombinedOutput(); err != nil {
					t.Fatalf("debugfs %s: %v\n%s", change, err, out)
				}
			}
		}
		fsck(t, path)
		m := openImage(t, path)
		if blocks := int64(binary.LittleEndian.Uint32(m.sb[4:])); blocks*blockSize < size-blockSize {
			t.Errorf("%d: the file system has %d blocks", size, blocks)
		}
		if !slices.Equal(list(m.files()), want) {
			t.Errorf("%d: it holds something else", size)
		}
		var st syscall.Stat_t
		if err := syscall.Stat(path, &st); err != nil || st.Mode&0o7777 != 0o600 || st.Blocks*512 > 64<<20 {
			t.Errorf("%d: mode %o, %d KiB on disk, %v", size, st.Mode, st.Blocks/2, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPrivateRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	if _, err := Build(t.Context(), image, layersOf([][]byte{tarOf(t, "f a 1")}), Options{}); err != nil {
		t.Fatal(err)
	}
	gone := errors.New("nobody waits")
	canceled, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	for name, c := range map[string]struct {
		ctx  context.Context
		edit func(*os.File) error
		size int64
		want banger.Kind
	}{
		"small":    {size: 1 << 20, want: banger.Invalid},
		"canceled": {ctx: canceled, want: banger.Canceled},
		"not ext4": {edit: func(f *os.File) error { _, err := f.WriteAt([]byte{0}, 1024+0x38); return err }, want: banger.Unsupported},
		"no copies": {edit: func(f *os.File) error { _, err := f.WriteAt([]byte{compatSparse2 >> 8}, 1024+0x5D); return err },
			want: banger.Unsupported},
		"empty":     {edit: func(f *os.File) error { return f.Truncate(0) }, want: banger.Unsupported},
		"cut short": {edit: func(f *os.File) error { return f.Truncate(1 << 20) }, want: banger.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			b, err := os.ReadFile(image)
			if err != nil {
				t.Fatal(err)
			}
			source, err := os.Create(filepath.Join(t.TempDir(), "image"))
			if err != nil {
				t.Fatal(err)
			}
			defer source.Close()
			if _, err := source.Write(b); err != nil {
				t.Fatal(err)
			}
			if c.edit != nil {
				if err := c.edit(source); err != nil {
					t.Fatal(err)
				}
			}
			if c.ctx == nil {
				c.ctx = t.Context()
			}
			if c.size == 0 {
				c.size = 1 << 30
			}
			if err := Private(c.ctx, filepath.Join(dir, "disk"), source.Name(), c.size); !banger.IsKind(err, c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
			wantEmpty(t, dir)
		})
	}
	if err := Private(t.Context(), image, image, 1<<30); !banger.IsKind(err, banger.Exists) {
		t.Errorf("over a file: %v", err)
	}
}

// TestPrivateErofs makes copies of an image that nobody can write to: ext4 with
// the same in it, which grows.
func TestPrivateErofs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	image, path := filepath.Join(dir, "image"), filepath.Join(dir, "disk")
	if _, err := Build(t.Context(), image, []Layer{layerOf(tortureTar(t, torture()))}, Options{Workers: 1, FS: FSErofs}); err != nil {
		t.Fatal(err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Private(canceled, path, image, 1<<30); !banger.IsKind(err, banger.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if err := Private(t.Context(), path, image, 1<<20); !banger.IsKind(err, banger.Invalid) {
		t.Errorf("too small: %v", err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it left its disk: %v", err)
	}
	if err := Private(t.Context(), path, image, 1<<30); err != nil {
		t.Fatal(err)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil || st.Mode&0o7777 != 0o600 || st.Size != 1<<30 || st.Blocks*512 > 64<<20 {
		t.Errorf("mode %o, %d bytes, %d KiB on disk, %v", st.Mode, st.Size, st.Blocks/2, err)
	}
	fsck(t, path)
	if out, err := exec.Command(tool(t, "resize2fs"), path).CombinedOutput(); err != nil {
		t.Fatalf("resize2fs: %v\n%s", err, out)
	}
	fsck(t, path)
	if !bytes.Equal(writeTar(t, openTree(t, path)), writeTar(t, openTree(t, image))) {
		t.Error("it holds something else")
	}
}
