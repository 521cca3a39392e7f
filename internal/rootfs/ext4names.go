package rootfs

import (
	"encoding/binary"
	"slices"
	"strings"
)

// names reads a directory, sorted: directory.rst. The inner nodes of a hash tree
// look like entries of no inode to who does not know them.
func (t *ext4Reader) names(i *inode) ([]name, error) {
	var list []name
	size := t.super.blockSize
	for _, e := range i.extents {
		for k := range int64(e.count) {
			if (int64(e.logical)+k)*size >= i.size {
				break
			}
			b, err := t.block(int64(e.physical) + k)
			if err != nil {
				return nil, err
			}
			if list, err = dirNames(list, b, t.super.incompat&incompatType != 0); err != nil {
				return nil, err
			}
		}
	}
	slices.SortFunc(list, func(a, b name) int { return strings.Compare(a.name, b.name) })
	return list, nil
}

// dirNames adds the names in one block of a directory, but for "." and "..".
func dirNames(list []name, b []byte, typed bool) ([]name, error) {
	le := binary.LittleEndian
	for len(b) > 0 {
		if len(b) < 8 {
			return nil, invalid("its entries are damaged")
		}
		number, rec, n := le.Uint32(b), int(le.Uint16(b[4:])), int(b[6])
		if rec < 8 || rec%4 != 0 || rec > len(b) || 8+n > rec {
			return nil, invalid("its entries are damaged")
		}
		entry := name{name: string(b[8 : 8+n]), number: number}
		if typed {
			entry.kind = b[7]
		}
		if number != 0 && entry.name != "." && entry.name != ".." {
			var err error
			if list, err = addName(list, entry, maxTreeNames); err != nil {
				return nil, err
			}
		}
		b = b[rec:]
	}
	return list, nil
}
