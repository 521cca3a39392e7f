package rootfs

import (
	"cmp"
	"fmt"

	"banger"
)

// Limits bounds what a hostile image may cost. A zero field means its default.
// The compressed sizes are the business of whoever reads the blobs.
type Limits struct {
	Layers  int   // layers of one image, default 127 as in Docker
	Bytes   int64 // of all tar streams, of all file contents, and of the image, each; default 64 GiB
	Entries int   // entries of all layers, and inodes of the merged tree, each; default 4 million
	Headers int64 // bytes of names, link targets and extended attributes kept in memory; default 512 MiB
	Path    int   // bytes of a path, default 4096
	Depth   int   // directories above an entry, default 256
	Xattr   int   // bytes of one extended attribute's value, default 64 KiB
	Links   int   // names of one file, default 65000
}

// What ext4 and Linux cannot hold whatever the limits say.
const (
	maxName    = 255                     // Documentation/filesystems/ext4/directory.rst: name_len is 8 bits
	maxSymlink = 4095                    // one block, with the NUL that the VFS adds
	maxLinks   = 65000                   // EXT4_LINK_MAX
	maxFile    = (1<<32 - 1) * blockSize // ifork.rst: block numbers of a file are 32 bits
	maxMajor   = 1<<12 - 1
	maxMinor   = 1<<20 - 1
)

// withDefaults fills in the zero fields.
func (l Limits) withDefaults() Limits {
	return Limits{
		Layers:  cmp.Or(l.Layers, 127),
		Bytes:   min(cmp.Or(l.Bytes, 64<<30), maxFile),
		Entries: cmp.Or(l.Entries, 4_000_000),
		Headers: cmp.Or(l.Headers, 512<<20),
		Path:    cmp.Or(l.Path, 4096),
		Depth:   cmp.Or(l.Depth, 256),
		Xattr:   cmp.Or(l.Xattr, 64<<10),
		Links:   min(cmp.Or(l.Links, maxLinks), maxLinks),
	}
}

// maxBlocks is how far an image may reach: its contents, and an eighth and
// 64 MiB more for directories, extents, the journal and other metadata.
func (l Limits) maxBlocks() int64 {
	return min((l.Bytes+l.Bytes/8+64<<20)/blockSize, 1<<32-1)
}

// maxGroups is how many block groups an image within the limits can need.
func (l Limits) maxGroups() int64 {
	inodes := int64(l.Entries) + firstInode
	blocks := l.maxBlocks() + inodes*inodeSize/blockSize
	// What the groups take for themselves is less than a sixteenth of them.
	return (max(blocks, inodes)/blocksPerGroup+inodes/blocksPerGroup)*16/15 + 4
}

// shown is a name of a layer for an error: such a name can be a megabyte long.
func shown(name string) string {
	const most = 200
	if len(name) <= most {
		return fmt.Sprintf("%q", name)
	}
	return fmt.Sprintf("%q...", name[:most])
}

// invalid makes the error of content that is refused.
func invalid(format string, args ...any) error {
	return banger.Errorf(banger.Invalid, format, args...)
}
