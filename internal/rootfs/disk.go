package rootfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"banger"
)

// The file systems that an image may hold.
const (
	FSExt4  = "ext4" // ext2 and ext3 too, which the same driver mounts
	FSErofs = "erofs"
)

// DiskHead is how many bytes IsDisk looks at.
const DiskHead = 68 << 10

// signature is what some kind of disk is told by.
type signature struct {
	offset int
	magic  string
	name   string
	hint   string
}

const convertHint = "qemu-img convert -O raw %s root.img"

// foreign are the disks that people have and banger does not boot.
var foreign = []signature{
	{0, "QFI\xfb", "a qcow2 disk", convertHint},
	{0, "KDMV", "a VMDK disk", convertHint},
	{0, "vhdxfile", "a VHDX disk", convertHint},
	{0, "conectix", "a VHD disk", convertHint},
	{0x40, "\x7f\x10\xda\xbe", "a VDI disk", convertHint},
	{0, "hsqs", "a squashfs file system", "unpack it and import the directory: unsquashfs -d DIR %s"},
	{0, "XFSB", "an xfs file system", "mount it and import the directory"},
	{0x10040, "_BHRfS_M", "a btrfs file system", "mount it and import the directory"},
	{0x8001, "CD001", "an ISO 9660 image", "mount it and import the directory"},
	{0, "LUKS\xba\xbe", "an encrypted disk", "open it with cryptsetup and import what is in it"},
	{512, "EFI PART", "a disk with partitions", ""},
}

func (s signature) fits(head []byte) bool {
	return len(head) >= s.offset+len(s.magic) && string(head[s.offset:s.offset+len(s.magic)]) == s.magic
}

// IsDisk reports whether a file that begins with head, up to DiskHead bytes of
// it, is a disk or a file system, whether banger can use it or not.
func IsDisk(head []byte) bool {
	if fileSystem(head) != "" || hasMBR(head) {
		return true
	}
	for _, s := range foreign {
		if s.fits(head) {
			return true
		}
	}
	return false
}

// fileSystem tells what is at the start of a disk: super.rst, "Super Block";
// Documentation/filesystems/erofs.rst, "Superblock".
func fileSystem(head []byte) string {
	le := binary.LittleEndian
	switch {
	case len(head) >= superOffset+superSize && le.Uint16(head[superOffset+0x38:]) == superMagic && le.Uint32(head[superOffset+0x18:]) <= 6:
		return FSExt4
	case len(head) >= superOffset+erofsSuperSize && le.Uint32(head[superOffset:]) == erofsMagic:
		return FSErofs
	}
	return ""
}

const (
	superOffset = 1024 // of both file systems
	superSize   = 1024
)

// Disk is what a file system is as a whole.
type Disk struct {
	FS   string // FSExt4 or FSErofs
	Size int64  // bytes of it; the file may be longer
}

// InspectDisk looks at the superblock of a file of so many bytes, and refuses
// what a guest could not mount read-only. path is how the user knows the file,
// for hints.
//
// Errors: Unsupported for other file systems, disks with partitions and formats
// of other programs, Conflict for one that was not unmounted cleanly, Invalid
// for one that is cut short or damaged.
func InspectDisk(r io.ReaderAt, size int64, path string) (Disk, error) {
	head := make([]byte, min(size, DiskHead))
	if _, err := r.ReadAt(head, 0); err != nil && err != io.EOF {
		return Disk{}, diskError(err)
	}
	switch fileSystem(head) {
	case FSExt4:
		sb, err := parseSuper(head[superOffset : superOffset+superSize])
		if err == nil {
			err = sb.mountable(size, path)
		}
		return Disk{FS: FSExt4, Size: sb.blocks * sb.blockSize}, err
	case FSErofs:
		sb, err := parseErofs(head, size)
		return Disk{FS: FSErofs, Size: sb.size}, err
	}
	for _, s := range foreign {
		if s.fits(head) && s.hint != "" {
			hint := s.hint
			if bytes.Contains([]byte(hint), []byte("%s")) {
				hint = fmt.Sprintf(hint, path)
			}
			return Disk{}, banger.Errorf(banger.Unsupported, "it is %s; banger boots raw ext4 and erofs file systems", s.name).WithHint("%s", hint)
		}
	}
	if start, count, ok := largestPartition(r, head); ok {
		return Disk{}, banger.Errorf(banger.Unsupported, "it is a disk with partitions; banger boots the file system alone").
			WithHint("cut the largest one out: dd if=%s of=root.img bs=512 skip=%d count=%d conv=sparse", path, start, count)
	}
	return Disk{}, banger.Errorf(banger.Unsupported, "it is neither an ext4 nor an erofs file system")
}

// hasMBR reports whether the first sector is a partition table with something in
// it: bytes that boot loaders put into file systems' first sectors pass.
func hasMBR(head []byte) bool {
	if len(head) < 512 || head[510] != 0x55 || head[511] != 0xAA {
		return false
	}
	used := 0
	for e := 446; e < 510; e += 16 {
		if head[e]&0x7f != 0 {
			return false
		}
		if head[e+4] != 0 && binary.LittleEndian.Uint32(head[e+12:]) != 0 {
			used++
		}
	}
	return used > 0
}

// largestPartition finds the largest partition of a disk, in sectors of 512
// bytes. Sources: UEFI specification 2.10, 5.2.1 and 5.3.2 and 5.3.3.
func largestPartition(r io.ReaderAt, head []byte) (start, count uint64, ok bool) {
	le := binary.LittleEndian
	if len(head) >= 1024 && string(head[512:520]) == "EFI PART" {
		at, n, size := le.Uint64(head[512+72:]), le.Uint32(head[512+80:]), le.Uint32(head[512+84:])
		if size < 128 || size > 4096 || n > 1024 || at > 1<<40 {
			return 0, 0, true
		}
		table := make([]byte, int(n)*int(size))
		if _, err := r.ReadAt(table, int64(at)*512); err != nil && !errors.Is(err, io.EOF) {
			return 0, 0, true
		}
		for e := table; len(e) >= int(size); e = e[size:] {
			first, last := le.Uint64(e[32:]), le.Uint64(e[40:])
			if last >= first && first > 0 && last-first+1 > count {
				start, count = first, last-first+1
			}
		}
		return start, count, true
	}
	if !hasMBR(head) {
		return 0, 0, false
	}
	for e := 446; e < 510; e += 16 {
		if n := uint64(le.Uint32(head[e+12:])); n > count {
			start, count = uint64(le.Uint32(head[e+8:])), n
		}
	}
	return start, count, true
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crc32c is the kernel's crc32c(~0, b), which is not inverted at the end.
func crc32c(b []byte) uint32 { return ^crc32.Checksum(b, castagnoli) }
