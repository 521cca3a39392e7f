package rootfs

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger"
)

// A superblock whose checksum is wrong, also where its block is smaller than
// what lies before it.
func TestErofsChecksum(t *testing.T) {
	t.Parallel()
	for bits := byte(9); bits <= 12; bits++ {
		b := tinyErofs(bits)
		if _, err := OpenTree(bytes.NewReader(b), int64(len(b))); err != nil {
			t.Errorf("blocks of %d bytes: %v", 1<<bits, err)
		}
		b[superOffset+16]++
		if _, err := OpenTree(bytes.NewReader(b), int64(len(b))); !banger.IsKind(err, banger.Invalid) || !strings.Contains(err.Error(), "checksum") {
			t.Errorf("blocks of %d bytes, damaged: %v", 1<<bits, err)
		}
	}
}

// tinyErofs is a file system with blocks of 1 << bits bytes, which the mkfs.erofs
// of the tests cannot make: a file of two blocks and three bytes, the latter
// behind its inode, in a directory.
func tinyErofs(bits byte) []byte {
	le := binary.LittleEndian
	size := 1 << bits
	// The inodes are at 4096, the blocks of the file behind them.
	first := 4096 / size
	if first < 2 {
		first = 2
	}
	b := make([]byte, (first+3)*size)
	sb := b[superOffset:]
	le.PutUint32(sb, erofsMagic)
	le.PutUint32(sb[8:], erofsChecksum)
	sb[12] = bits
	le.PutUint16(sb[14:], 2)
	le.PutUint64(sb[24:], 1_700_000_000)
	le.PutUint32(sb[36:], uint32(first+3))
	le.PutUint32(sb[40:], uint32(first))
	inodes := b[first*size:]
	entries := []byte{}
	for _, e := range []struct {
		nid  uint64
		at   uint16
		kind byte
	}{{2, 36, 2}, {2, 37, 2}, {6, 39, 1}} {
		entries = le.AppendUint16(le.AppendUint64(entries, e.nid), e.at)
		entries = append(entries, e.kind, 0)
	}
	entries = append(entries, "...f"...)
	inode := func(at int, mode uint16, links uint16, length int, block int, tail []byte) {
		i := inodes[at*erofsSlot:]
		le.PutUint16(i, erofsInline<<1)
		le.PutUint16(i[4:], mode)
		le.PutUint16(i[6:], links)
		le.PutUint32(i[8:], uint32(length))
		le.PutUint32(i[16:], uint32(block))
		copy(i[erofsCompact:], tail)
	}
	inode(2, typeDir|0o755, 2, len(entries), 0, entries)
	inode(6, typeRegular|0o644, 1, 2*size+3, first+1, []byte("end"))
	for i := range 2 * size {
		inodes[size+i] = byte('a' + i/size)
	}
	n := size
	if n > superOffset {
		n -= superOffset
	}
	le.PutUint32(sb[4:], crc32c(sb[:n]))
	return b
}

func TestErofsSmallBlocks(t *testing.T) {
	t.Parallel()
	for bits := byte(9); bits <= 12; bits++ {
		b := tinyErofs(bits)
		tree := (&spoiledErofs{t, b}).tree()
		if n, err := tree.Check(t.Context()); n != 2 || err != nil {
			t.Errorf("blocks of %d bytes: %d inodes, %v", 1<<bits, n, err)
		}
		f, err := tree.Lookup("f")
		if err != nil {
			t.Fatal(err)
		}
		var got strings.Builder
		if err := f.Copy(&got); err != nil {
			t.Fatal(err)
		}
		if want := strings.Repeat("a", 1<<bits) + strings.Repeat("b", 1<<bits) + "end"; got.String() != want {
			t.Errorf("blocks of %d bytes: %d bytes of contents, want %d", 1<<bits, got.Len(), len(want))
		}
		path := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if bits == 12 {
			fsckErofs(t, path)
		}
	}
}
