package rootfs

import (
	"archive/tar"
	"cmp"
	"encoding/binary"
	"slices"
	"strings"
)

// xattr is one extended attribute in the form that ext4 keeps.
type xattr struct {
	index uint8  // stands for the prefix of the name
	name  string // without the prefix
	value string
}

// xattrPrefixes: Documentation/filesystems/ext4/attributes.rst, "Attribute
// Name Indices". The ACLs have an index of their own and no further name.
var xattrPrefixes = []struct {
	index  uint8
	prefix string
	whole  bool
}{
	{2, "system.posix_acl_access", true},
	{3, "system.posix_acl_default", true},
	{1, "user.", false},
	{4, "trusted.", false},
	{6, "security.", false},
}

// paxXattr is how GNU tar and every OCI tool spell extended attributes
// (image-spec v1.1, layer.md, "File Attributes").
const paxXattr = "SCHILY.xattr."

// headerXattrs gives the extended attributes of a header in the order that
// ext4 wants in a block. A namespace that Linux does not have, such as those
// of macOS, is left out: every tool that unpacks an image on Linux drops it.
func headerXattrs(h *tar.Header, l Limits) ([]xattr, error) {
	var list []xattr
	for key, value := range h.PAXRecords {
		full, ok := strings.CutPrefix(key, paxXattr)
		if !ok {
			continue
		}
		x, ok := newXattr(full)
		if !ok {
			continue
		}
		if len(value) > l.Xattr {
			return nil, invalid("extended attribute %s is longer than %d bytes", shown(full), l.Xattr)
		}
		x.value = value
		if x.isACL() {
			if x.value, ok = diskACL(value); !ok {
				return nil, invalid("extended attribute %s is not a POSIX ACL", shown(full))
			}
			if x.value == "" { // an ACL without entries means none
				continue
			}
		} else if x.name == "" || len(x.name) > maxName || strings.IndexByte(x.name, 0) >= 0 {
			return nil, invalid("the name of extended attribute %s is not 1 to %d bytes without NUL", shown(full), maxName)
		}
		list = append(list, x)
	}
	slices.SortFunc(list, func(a, b xattr) int {
		return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(len(a.name), len(b.name)), cmp.Compare(a.name, b.name))
	})
	if _, _, ok := splitXattrs(list); !ok {
		return nil, invalid("the extended attributes need more than the %d bytes that ext4 has for them", blockSize)
	}
	return list, nil
}

func newXattr(full string) (xattr, bool) {
	for _, p := range xattrPrefixes {
		if name, ok := strings.CutPrefix(full, p.prefix); ok && (!p.whole || name == "") {
			return xattr{index: p.index, name: name}, true
		}
	}
	return xattr{}, false
}

func (x xattr) isACL() bool { return x.index == 2 || x.index == 3 }

// diskACL converts an ACL from the form of the system call (version 2, all
// entries 8 bytes) to that of ext4 (version 1, an id only where it means
// something): attributes.rst, "POSIX ACLs".
func diskACL(v string) (string, bool) {
	const user, group = 0x02, 0x08
	const userObj, groupObj, mask, other = 0x01, 0x04, 0x10, 0x20
	le := binary.LittleEndian
	b := []byte(v)
	if len(b) < 4 || le.Uint32(b) != 2 || (len(b)-4)%8 != 0 {
		return "", false
	}
	if len(b) == 4 {
		return "", true
	}
	out := le.AppendUint32(nil, 1)
	for p := b[4:]; len(p) > 0; p = p[8:] {
		switch le.Uint16(p) {
		case user, group:
			out = append(out, p[:8]...)
		case userObj, groupObj, mask, other:
			out = append(out, p[:4]...)
		default:
			return "", false
		}
	}
	return string(out), true
}

const (
	xattrMagic   = 0xEA020000
	xattrEntry   = 16 // bytes of an entry before its name
	xattrHeader  = 32 // of a block of attributes
	xattrInline  = inodeSize - 128 - extraSize - 4
	xattrOutside = blockSize - xattrHeader
)

func pad4(n int) int { return (n + 3) &^ 3 }

// splitXattrs puts as many attributes as fit behind the inode and the rest in
// a block of their own. Both keep the order.
func splitXattrs(list []xattr) (inline, block []xattr, ok bool) {
	// Four zero bytes end the entries, values grow towards them.
	roomInline, roomBlock := xattrInline-4, xattrOutside-4
	for _, x := range list {
		n := xattrEntry + pad4(len(x.name)) + pad4(len(x.value))
		switch {
		case n <= roomInline:
			inline, roomInline = append(inline, x), roomInline-n
		case n <= roomBlock:
			block, roomBlock = append(block, x), roomBlock-n
		default:
			return nil, nil, false
		}
	}
	return inline, block, true
}

// encodeXattrs writes entries from the start of b and values from its end.
// Offsets of values count from base bytes before b.
func encodeXattrs(b []byte, list []xattr, base int, hashed bool) {
	le := binary.LittleEndian
	at, end := 0, len(b)
	for _, x := range list {
		end -= pad4(len(x.value))
		copy(b[end:], x.value)
		e := b[at:]
		e[0], e[1] = byte(len(x.name)), x.index
		if x.value != "" {
			le.PutUint16(e[2:], uint16(base+end))
		}
		le.PutUint32(e[8:], uint32(len(x.value)))
		if hashed {
			le.PutUint32(e[12:], x.hash())
		}
		copy(e[xattrEntry:], x.name)
		at += xattrEntry + pad4(len(x.name))
	}
}

// xattrBlock encodes the attributes of one inode that do not fit behind it.
func xattrBlock(list []xattr) []byte {
	le := binary.LittleEndian
	b := make([]byte, blockSize)
	encodeXattrs(b[xattrHeader:], list, xattrHeader, true)
	var sum uint32
	for _, x := range list {
		sum = sum<<16 ^ sum>>16 ^ x.hash()
	}
	le.PutUint32(b[0:], xattrMagic)
	le.PutUint32(b[4:], 1) // inodes that share the block
	le.PutUint32(b[8:], 1) // blocks
	le.PutUint32(b[12:], sum)
	return b
}

// hash is ext4_xattr_hash_entry of the kernel's fs/ext4/xattr.c.
func (x xattr) hash() uint32 {
	var h uint32
	for i := range len(x.name) {
		h = h<<5 ^ h>>27 ^ uint32(x.name[i])
	}
	for v := x.value; v != ""; v = v[min(4, len(v)):] {
		var word [4]byte
		copy(word[:], v)
		h = h<<16 ^ h>>16 ^ binary.LittleEndian.Uint32(word[:])
	}
	return h
}
