package rootfs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"banger"
)

func TestEmpty(t *testing.T) {
	dir := t.TempDir()
	const group = blocksPerGroup * blockSize
	for _, size := range []int64{minDisk, 100 << 20, group, group + 1<<20, 200<<20 + 12345, 3*group + 2200<<10, 1 << 30, 10 << 30, 100 << 30} {
		path := filepath.Join(dir, fmt.Sprint(size))
		if err := Empty(path, size); err != nil {
			t.Fatalf("%d: %v", size, err)
		}
		fsck(t, path)
		var st syscall.Stat_t
		if err := syscall.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		if st.Size > size || st.Size < size-group/8 || st.Blocks*512 > 1<<20 || st.Mode&0o7777 != 0o600 {
			t.Errorf("%d: size %d, %d KiB on disk, mode %o", size, st.Size, st.Blocks/2, st.Mode)
		}
		if got := list(openImage(t, path).files()); len(got) != 1 || got[0] != "d lost+found" {
			t.Errorf("%d: it holds %q", size, got)
		}
	}
}

// TestEmptyLarge reads little of the disks: e2fsck of the largest takes half a
// minute and half a gigabyte.
func TestEmptyLarge(t *testing.T) {
	for _, size := range []int64{1 << 40, 2 << 40, maxDisk} {
		path := filepath.Join(t.TempDir(), "disk")
		if err := Empty(path, size); err != nil {
			if banger.IsKind(err, banger.Exhausted) {
				t.Logf("%d bytes are too large for the file system of %s: %v", size, path, err)
				continue
			}
			t.Fatal(err)
		}
		m := openImage(t, path)
		blocks := int64(binary.LittleEndian.Uint32(m.sb[4:]))
		if want := min(size/blockSize, 1<<32-1); blocks != want || m.inode(journalInode).size != 32<<20 {
			t.Errorf("%d: %d blocks, want %d", size, blocks, want)
		}
		var st syscall.Stat_t
		if err := syscall.Stat(path, &st); err != nil || st.Blocks*512 > 8<<20 {
			t.Errorf("%d: %d KiB on disk, %v", size, st.Blocks/2, err)
		}
	}
}

func TestEmptyUUIDs(t *testing.T) {
	dir := t.TempDir()
	var uuids [2][]byte
	for i := range uuids {
		path := filepath.Join(dir, fmt.Sprint(i))
		if err := Empty(path, minDisk); err != nil {
			t.Fatal(err)
		}
		uuids[i] = openImage(t, path).sb[0x68:0x78]
	}
	if bytes.Equal(uuids[0], uuids[1]) || uuids[0][6]>>4 != 4 {
		t.Errorf("the UUIDs are %x", uuids)
	}
}

func TestEmptyRefused(t *testing.T) {
	dir := t.TempDir()
	for _, size := range []int64{-1, 0, minDisk - 1, maxDisk + 1, 1 << 62} {
		if err := Empty(filepath.Join(dir, "disk"), size); !banger.IsKind(err, banger.Invalid) {
			t.Errorf("%d: %v", size, err)
		}
	}
	wantEmpty(t, dir)
	path := filepath.Join(dir, "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Empty(path, minDisk); !banger.IsKind(err, banger.Exists) {
		t.Errorf("an existing disk: %v", err)
	}
}

func TestBootDisk(t *testing.T) {
	dir := t.TempDir()
	guest := strings.Repeat("guest program ", 100_000)
	var images [2][]byte
	for i := range images {
		path := filepath.Join(dir, fmt.Sprint(i))
		if err := BootDisk(path, strings.NewReader(guest), int64(len(guest))); err != nil {
			t.Fatal(err)
		}
		fsck(t, path)
		m := openImage(t, path)
		files := m.files()
		want := lines("f banger-guest "+guest, "d dev", "d mnt", "d proc", "d run", "d sys")
		if got := list(files); strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("it holds %.300q", got)
		}
		if mode := files["banger-guest"].mode; mode != typeRegular|0o755 {
			t.Errorf("the guest has mode %o", mode)
		}
		images[i], _ = os.ReadFile(path)
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("the same guest gave different bytes")
	}
	if n := len(images[0]); n > len(guest)+128<<10 {
		t.Errorf("the disk has %d bytes for a guest of %d", n, len(guest))
	}
}

func TestBootDiskRefused(t *testing.T) {
	for _, size := range []int64{0, 3, 5, -1} {
		dir := t.TempDir()
		if err := BootDisk(filepath.Join(dir, "boot"), strings.NewReader("1234"), size); !banger.IsKind(err, banger.Invalid) {
			t.Errorf("size %d: %v", size, err)
		}
		wantEmpty(t, dir)
	}
}
