package rootfs

import (
	"encoding/binary"
	"slices"
)

// erofsDirent is the size of struct erofs_dirent. A block of a directory has
// the entries, each with the offset of its name, and then all names; the
// kernel searches it, and the blocks, by halves: erofs.rst, "Directories".
const erofsDirent = 12

// erofsNames are the names of a directory in their order, which is that of
// their bytes, "." and ".." among them.
func erofsNames(n *node) []string {
	names := append(sortedNames(n), ".", "..")
	slices.Sort(names)
	return names
}

// erofsDirBlock is how many of the names go into the next block, and how many
// bytes they take in it.
func erofsDirBlock(names []string) (count, size int) {
	for _, name := range names {
		more := erofsDirent + len(name)
		if size+more > blockSize {
			break
		}
		count, size = count+1, size+more
	}
	return count, size
}

// erofsDirSize is how many bytes a directory has: whole blocks, and what is
// used of the last.
func erofsDirSize(n *node) int64 {
	var all int64
	for names := erofsNames(n); ; {
		count, size := erofsDirBlock(names)
		if names = names[count:]; len(names) == 0 {
			return all + int64(size)
		}
		all += blockSize
	}
}

// encodeDir gives the bytes of a directory; all inodes have their places.
func (w *erofs) encodeDir(n *node) []byte {
	le := binary.LittleEndian
	out := make([]byte, 0, n.ino.size)
	for names := erofsNames(n); len(names) > 0; {
		count, _ := erofsDirBlock(names)
		at := count * erofsDirent
		for _, name := range names[:count] {
			number, mode := n.ino.number, uint32(typeDir)
			switch name {
			case ".":
			case "..":
				number = n.ino.parent
			default:
				kid := n.kids[name].ino
				number, mode = kid.number, kid.mode
			}
			out = le.AppendUint64(out, uint64(w.nids[number-1]))
			out = le.AppendUint16(out, uint16(at))
			out = append(out, direntTypes[mode&typeMask], 0)
			at += len(name)
		}
		for _, name := range names[:count] {
			out = append(out, name...)
		}
		if names = names[count:]; len(names) > 0 {
			// Zeros end the last name of a block that is not full.
			out = append(out, make([]byte, -len(out)&(blockSize-1))...)
		}
	}
	return out
}
