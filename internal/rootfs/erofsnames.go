package rootfs

import (
	"bytes"
	"encoding/binary"

	"banger"
)

// names reads a directory: erofs.rst, "Directories". Its names have to be in
// the order of their bytes, for a kernel would not find those that are not.
func (e *erofsReader) names(dir *inode) ([]name, error) {
	n, err := e.node(dir.number)
	if err != nil {
		return nil, err
	}
	if n.layout == erofsChunks {
		return nil, banger.Errorf(banger.Unsupported, "it is a directory in chunks")
	}
	d := &erofsDir{ino: dir, slots: (e.super.size - e.super.inodes) / erofsSlot}
	err = e.pieces(n, func(at, size int64) error {
		for ; size > 0; at, size = at+e.super.blockSize, size-e.super.blockSize {
			b, err := e.meta(at, min(size, e.super.blockSize))
			if err == nil {
				err = d.block(b)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	return d.list, err
}

// erofsDir is a directory that is being read.
type erofsDir struct {
	ino   *inode
	slots int64 // where inodes can be
	list  []name
	last  string // of the names so far, "." and ".." among them
}

// block reads a block of entries and their names.
func (d *erofsDir) block(b []byte) error {
	le := binary.LittleEndian
	if len(b) < erofsDirent {
		return invalid("its entries are damaged")
	}
	first := int(le.Uint16(b[8:]))
	if first < erofsDirent || first%erofsDirent != 0 || first > len(b) {
		return invalid("its entries are damaged")
	}
	for entry := b[:first]; len(entry) > 0; entry = entry[erofsDirent:] {
		from, to := int(le.Uint16(entry[8:])), len(b)
		if len(entry) > erofsDirent {
			to = int(le.Uint16(entry[erofsDirent+8:]))
		}
		if from < first || from > to || to > len(b) {
			return invalid("its entries are damaged")
		}
		text := b[from:to]
		if len(entry) == erofsDirent { // zeros may follow the last name
			text, _, _ = bytes.Cut(text, []byte{0})
		}
		if err := d.add(string(text), le.Uint64(entry), entry[10]); err != nil {
			return err
		}
	}
	return nil
}

func (d *erofsDir) add(text string, number uint64, kind byte) error {
	if text <= d.last {
		return invalid("its names are not in order: %s after %s", shown(text), shown(d.last))
	}
	d.last = text
	switch {
	case int64(number) < 0 || int64(number) >= d.slots:
		return invalid("inode %d of %s is not in the file system", number, shown(text))
	case number > 1<<32-1:
		return banger.Errorf(banger.Unsupported, "inode %d of %s is behind the first 128 GiB", number, shown(text))
	case text == ".":
		if uint32(number) != d.ino.number {
			return invalid("its own entry leads to inode %d", number)
		}
		return nil
	case text == "..":
		if d.ino.parent != 0 && uint32(number) != d.ino.parent { // 0: who asks does not know it
			return invalid("the entry of its parent leads to inode %d", number)
		}
		return nil
	}
	var err error
	d.list, err = addName(d.list, name{text, uint32(number), kind}, maxTreeNames)
	return err
}
