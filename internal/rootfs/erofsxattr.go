package rootfs

import (
	"encoding/binary"

	"banger"
)

// maxErofsXattrs bounds the attributes of one file, in bytes: the largest value
// that Linux has, and as much again. Through shared ones a file could have far more.
const maxErofsXattrs = 128 << 10

// erofsLongPrefix is the bit of an index that means a long prefix.
const erofsLongPrefix = 0x80

// attributes reads the extended attributes of an inode: erofs.rst, "Extended
// attributes"; struct erofs_xattr_ibody_header.
func (e *erofsReader) attributes(n *erofsNode) ([]xattr, error) {
	if n.xattrs == 0 {
		return nil, nil
	}
	le := binary.LittleEndian
	b, err := e.meta(n.behind-n.xattrs, n.xattrs)
	if err != nil {
		return nil, err
	}
	shared := b[erofsXattrBody:]
	if len(shared) < 4*int(b[4]) {
		return nil, invalid("its extended attributes are damaged")
	}
	own := shared[4*int(b[4]):]
	l := &erofsXattrList{seen: map[xattr]bool{}}
	for shared = shared[:4*int(b[4])]; len(shared) > 0; shared = shared[4:] {
		at := e.super.xattrs + 4*int64(le.Uint32(shared))
		head, err := e.meta(at, erofsXattrHead)
		if err == nil {
			head, err = e.meta(at, erofsXattrHead+int64(head[0])+int64(le.Uint16(head[2:])))
		}
		if err == nil {
			_, err = l.add(head)
		}
		if err != nil {
			return nil, err
		}
	}
	for len(own) > 0 {
		size, err := l.add(own)
		if err != nil {
			return nil, err
		}
		own = own[min(size, len(own)):]
	}
	return l.list, nil
}

// erofsXattrList are the attributes of one file so far.
type erofsXattrList struct {
	list []xattr
	seen map[xattr]bool // without their values
	size int
}

// add reads a struct erofs_xattr_entry at the start of b and tells its length.
func (l *erofsXattrList) add(b []byte) (int, error) {
	if len(b) < erofsXattrHead {
		return 0, invalid("its extended attributes are damaged")
	}
	names, values := int(b[0]), int(binary.LittleEndian.Uint16(b[2:]))
	size := erofsXattrHead + names + values
	if size > len(b) {
		return 0, invalid("its extended attributes are damaged")
	}
	if l.size += size; l.size > maxErofsXattrs {
		return 0, banger.Errorf(banger.Unsupported, "it has extended attributes of more than %d bytes", maxErofsXattrs)
	}
	x := xattr{index: b[1], name: string(b[erofsXattrHead : erofsXattrHead+names])}
	switch {
	case x.index&erofsLongPrefix != 0:
		return 0, banger.Errorf(banger.Unsupported, "it has an extended attribute with a long prefix")
	case l.seen[x]:
		return 0, invalid("it has the extended attribute %s twice", shown(x.name))
	}
	l.seen[x] = true
	x.value = string(b[erofsXattrHead+names : size])
	if x.isACL() {
		var ok bool
		if x.value, ok = diskACL(x.value); !ok {
			return 0, invalid("its ACL is damaged")
		}
		if x.value == "" { // without entries it means none
			return pad4(size), nil
		}
	}
	l.list = append(l.list, x)
	return pad4(size), nil
}
