package rootfs

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"banger"
)

// erofsHead is the start of an erofs file system of so many blocks.
func erofsHead(blocks uint32, incompat uint32) []byte {
	b := make([]byte, int(blocks)*blockSize)
	le := binary.LittleEndian
	sb := b[superOffset:]
	le.PutUint32(sb, erofsMagic)
	le.PutUint32(sb[8:], erofsChecksum)
	sb[12] = 12
	le.PutUint32(sb[36:], blocks)
	le.PutUint32(sb[80:], incompat)
	le.PutUint32(sb[4:], crc32c(b[superOffset:blockSize]))
	return b
}

// partitioned is a disk with a partition table.
func partitioned(gpt bool) []byte {
	b := make([]byte, 1<<20)
	le := binary.LittleEndian
	b[510], b[511] = 0x55, 0xAA
	b[446+4] = 0x83
	le.PutUint32(b[446+8:], 2048)
	le.PutUint32(b[446+12:], 4096)
	b[462+4] = 0x82
	le.PutUint32(b[462+8:], 9000)
	le.PutUint32(b[462+12:], 100)
	if gpt {
		b[446+4] = 0xEE
		copy(b[512:], "EFI PART")
		le.PutUint64(b[512+72:], 2)
		le.PutUint32(b[512+80:], 128)
		le.PutUint32(b[512+84:], 128)
		for i, p := range [][2]uint64{{34, 2047}, {4096, 9999}, {2048, 4095}} {
			e := b[1024+128*i:]
			e[0] = 1
			le.PutUint64(e[32:], p[0])
			le.PutUint64(e[40:], p[1])
		}
	}
	return b
}

func at(offset int, magic string) []byte {
	b := make([]byte, 128<<10)
	copy(b[offset:], magic)
	return b
}

func TestInspectDisk(t *testing.T) {
	t.Parallel()
	ext4 := smallImage(t)
	bend := func(offset int, values ...byte) []byte {
		b := bytes.Clone(ext4)
		copy(b[superOffset+offset:], values)
		return b
	}
	erofs := erofsHead(3, 0)
	spoiled := bytes.Clone(erofs)
	spoiled[superOffset+40] ^= 1
	for name, c := range map[string]struct {
		b     []byte
		fs    string // empty: an error
		kind  banger.Kind
		words string // of the error and its hint
	}{
		"ext4":           {b: ext4, fs: FSExt4},
		"erofs":          {b: erofs, fs: FSErofs},
		"longer":         {b: append(bytes.Clone(ext4), make([]byte, 5000)...), fs: FSExt4},
		"cut short":      {b: ext4[:len(ext4)-1], kind: banger.Invalid, words: "cut short"},
		"erofs cut":      {b: erofs[:2*blockSize], kind: banger.Invalid, words: "cut short"},
		"erofs damaged":  {b: spoiled, kind: banger.Invalid, words: "damaged"},
		"erofs features": {b: erofsHead(3, 0x100), kind: banger.Unsupported, words: "0x100"},
		"erofs devices":  {b: erofsHead(3, erofsDevices), kind: banger.Unsupported, words: "features"},
		"not clean":      {b: bend(0x3A, 0), kind: banger.Conflict, words: "e2fsck -fy my.img"},
		"errors":         {b: bend(0x3A, 3), kind: banger.Conflict, words: "has errors"},
		"journal":        {b: bend(0x60, incompatRecover|0x42), kind: banger.Conflict, words: "not unmounted cleanly"},
		"encrypt":        {b: bend(0x62, 1), kind: banger.Unsupported, words: "feature encrypt"},
		"unknown":        {b: bend(0x63, 0x80), kind: banger.Unsupported, words: "0x80000000"},
		"64k blocks":     {b: bend(0x18, 6), kind: banger.Unsupported, words: "65536"},
		"no inodes":      {b: bend(0x28, 0, 0, 0, 0), kind: banger.Invalid, words: "makes no sense"},
		"inode size":     {b: bend(0x58, 0xff), kind: banger.Invalid, words: "make no sense"},
		"qcow2":          {b: at(0, "QFI\xfb"), kind: banger.Unsupported, words: "qcow2 qemu-img convert -O raw my.img"},
		"vmdk":           {b: at(0, "KDMV"), kind: banger.Unsupported, words: "VMDK"},
		"vdi":            {b: at(0x40, "\x7f\x10\xda\xbe"), kind: banger.Unsupported, words: "VDI"},
		"squashfs":       {b: at(0, "hsqs"), kind: banger.Unsupported, words: "unsquashfs -d DIR my.img"},
		"btrfs":          {b: at(0x10040, "_BHRfS_M"), kind: banger.Unsupported, words: "btrfs"},
		"iso":            {b: at(0x8001, "CD001"), kind: banger.Unsupported, words: "ISO"},
		"partitions":     {b: partitioned(false), kind: banger.Unsupported, words: "partitions dd if=my.img of=root.img bs=512 skip=2048 count=4096"},
		"GPT":            {b: partitioned(true), kind: banger.Unsupported, words: "partitions skip=4096 count=5904"},
		"nothing":        {b: nil, kind: banger.Unsupported, words: "neither"},
		"zeros":          {b: make([]byte, 1<<20), kind: banger.Unsupported, words: "neither"},
		"text":           {b: bytes.Repeat([]byte("text "), 1000), kind: banger.Unsupported, words: "neither"},
	} {
		got, err := InspectDisk(bytes.NewReader(c.b), int64(len(c.b)), "my.img")
		if known := IsDisk(c.b[:min(len(c.b), DiskHead)]); known != (name != "nothing" && name != "zeros" && name != "text") {
			t.Errorf("%s: IsDisk says %v", name, known)
		}
		if c.fs != "" {
			if err != nil || got.FS != c.fs || got.Size <= 0 || got.Size > int64(len(c.b)) {
				t.Errorf("%s: %+v, %v", name, got, err)
			}
			continue
		}
		if !banger.IsKind(err, c.kind) {
			t.Errorf("%s: %v is not %s", name, err, c.kind)
			continue
		}
		said := err.Error() + " " + banger.AsError(err).Hint
		for w := range strings.FieldsSeq(c.words) {
			if !strings.Contains(said, w) && name != "no inodes" {
				t.Errorf("%s: %q does not say %q", name, said, w)
			}
		}
	}
}

// What tools of others make is taken, and their checksums are right.
func TestInspectDisksOfOthers(t *testing.T) {
	t.Parallel()
	dir := sampleDir(t)
	for _, args := range [][]string{
		{"mke2fs", "-q", "-F", "-t", "ext4", "-d", dir, "IMAGE", "24M"}, {"mke2fs", "-q", "-F", "-t", "ext2", "IMAGE", "8M"},
		{"mkfs.erofs", "--quiet", "IMAGE", dir}, {"mkfs.erofs", "--quiet", "-zlz4hc", "IMAGE", dir},
	} {
		path := filepath.Join(t.TempDir(), "image")
		for i := range args {
			args[i] = strings.Replace(args[i], "IMAGE", path, 1)
		}
		program := args[0]
		if program == "mke2fs" {
			program = tool(t, "mke2fs")
		}
		if out, err := exec.Command(program, args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s; run: apt-get install -y --no-install-recommends e2fsprogs erofs-utils", args, err, out)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		want := map[bool]string{true: FSErofs, false: FSExt4}[args[0] == "mkfs.erofs"]
		if got, err := InspectDisk(bytes.NewReader(b), int64(len(b)), path); err != nil || got.FS != want || got.Size != int64(len(b)) {
			t.Errorf("%q: %+v of %d bytes, %v", args, got, len(b), err)
		}
		if want == FSExt4 && args[3] == "ext4" {
			b[superOffset+0x78] ^= 1 // the label
			if _, err := InspectDisk(bytes.NewReader(b), int64(len(b)), path); !banger.IsKind(err, banger.Invalid) {
				t.Errorf("a spoiled superblock: %v", err)
			}
		}
	}
}
