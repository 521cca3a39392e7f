package rootfs

import "encoding/binary"

// extent is a run of a file's blocks that follow each other in the image.
// Blocks of a file outside its extents are holes.
type extent struct{ logical, physical, count uint32 }

// appendExtent adds a run at the end of a file, merged with the last if it follows it.
func appendExtent(list []extent, e extent) []extent {
	if k := len(list) - 1; k >= 0 && list[k].logical+list[k].count == e.logical &&
		list[k].physical+list[k].count == e.physical {
		list[k].count += e.count
		return list
	}
	return append(list, e)
}

// The extent tree: Documentation/filesystems/ext4/ifork.rst, "Extent Tree".
const (
	extentMagic   = 0xF30A
	extentSize    = 12                                    // header, index and leaf entries alike
	extentsInline = 4                                     // of the 60 bytes of i_block
	extentsBlock  = (blockSize - extentSize) / extentSize // 340
	extentMaxLen  = 1 << 15                               // longer ones would mean "not initialised"
)

// treeEntry is one 12-byte entry of a node of the tree, leaf or index.
type treeEntry struct {
	logical uint32
	raw     [extentSize]byte
}

// extentTree encodes the tree of a file. Nodes beyond the root go to put, which
// gives their block. It returns i_block and how many blocks the nodes took.
func extentTree(list []extent, put func(node []byte) (int64, error)) (root [60]byte, nodes int64, err error) {
	le := binary.LittleEndian
	level := make([]treeEntry, 0, len(list))
	for _, e := range list {
		for e.count > 0 {
			n := min(e.count, extentMaxLen)
			t := treeEntry{logical: e.logical}
			le.PutUint32(t.raw[0:], e.logical)
			le.PutUint16(t.raw[4:], uint16(n))
			le.PutUint32(t.raw[8:], e.physical)
			level = append(level, t)
			e = extent{e.logical + n, e.physical + n, e.count - n}
		}
	}
	depth := 0
	for len(level) > extentsInline {
		var up []treeEntry
		for len(level) > 0 {
			n := min(len(level), extentsBlock)
			node := make([]byte, blockSize)
			encodeNode(node, level[:n], extentsBlock, depth)
			block, err := put(node)
			if err != nil {
				return root, nodes, err
			}
			nodes++
			t := treeEntry{logical: level[0].logical}
			le.PutUint32(t.raw[0:], t.logical)
			le.PutUint32(t.raw[4:], uint32(block))
			up = append(up, t)
			level = level[n:]
		}
		level = up
		depth++
	}
	encodeNode(root[:], level, extentsInline, depth)
	return root, nodes, nil
}

// encodeNode writes a header and entries; depth 0 is a leaf.
func encodeNode(b []byte, entries []treeEntry, room, depth int) {
	le := binary.LittleEndian
	le.PutUint16(b[0:], extentMagic)
	le.PutUint16(b[2:], uint16(len(entries)))
	le.PutUint16(b[4:], uint16(room))
	le.PutUint16(b[6:], uint16(depth))
	for i, e := range entries {
		copy(b[extentSize*(i+1):], e.raw[:])
	}
}
