package kernelcat

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"

	"banger"
)

// memFile is a file in memory that is full after max bytes.
type memFile struct {
	bytes.Buffer
	max int
}

func (m *memFile) Write(p []byte) (int, error) {
	if m.Len()+len(p) > m.max {
		return 0, syscall.ENOSPC
	}
	return m.Buffer.Write(p)
}

func (m *memFile) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(m.Bytes()).ReadAt(p, off)
}

// vmlinuxELF makes an ELF kernel with a Linux and, on request, a PVH note, and
// pads it with text that can be compressed.
func vmlinuxELF(machine elf.Machine, pvh bool, pad int) []byte {
	var notes bytes.Buffer
	addNote := func(owner string, kind uint32, desc string) {
		binary.Write(&notes, binary.LittleEndian, []uint32{uint32(len(owner) + 1), uint32(len(desc)), kind})
		for _, s := range []string{owner + "\x00", desc} {
			notes.WriteString(s + strings.Repeat("\x00", -len(s)&3))
		}
	}
	addNote("Linux", 0x100, "odd")
	if pvh {
		addNote("Xen", 18, "\x00\x00\x00\x01\x00\x00\x00\x00")
	}
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Phoff: 64, Phentsize: 56, Phnum: 2}
	copy(h.Ident[:], elf.ELFMAG+"\x02\x01\x01")
	var b bytes.Buffer
	binary.Write(&b, binary.LittleEndian, h)
	binary.Write(&b, binary.LittleEndian, elf.Prog64{Type: uint32(elf.PT_LOAD)})
	binary.Write(&b, binary.LittleEndian, elf.Prog64{Type: uint32(elf.PT_NOTE), Off: uint64(176 + pad), Filesz: uint64(notes.Len())})
	random := rand.New(rand.NewPCG(1, 2))
	for b.Len() < 176+pad {
		b.WriteString("kernel text"[:random.IntN(11)])
		b.WriteByte(byte(random.IntN(4)))
		b.WriteString(strings.Repeat("\x90", random.IntN(min(pad, 500_000))))
	}
	b.Truncate(176 + pad)
	b.Write(notes.Bytes())
	return b.Bytes()
}

// bzImage puts a payload behind an x86 boot header.
func bzImage(payload []byte) []byte {
	const setup = 3
	b := make([]byte, (setup+1)*sector+0x40, (setup+1)*sector+0x40+len(payload)+100)
	b[offSetupSects] = setup
	copy(b[offMagic:], "HdrS")
	binary.LittleEndian.PutUint16(b[offVersion:], 0x20f)
	binary.LittleEndian.PutUint32(b[offPayload:], 0x40)
	binary.LittleEndian.PutUint32(b[offPayloadLength:], uint32(len(payload)))
	return append(append(b, payload...), make([]byte, 100)...)
}

func sizeOf(b []byte) []byte { return binary.LittleEndian.AppendUint32(nil, uint32(len(b))) }

func packGzip(b []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	z.Write(b)
	z.Close()
	return append(out.Bytes(), 0, 0, 0) // padding, as some builds leave
}

func packZstd(b []byte) []byte {
	var out bytes.Buffer
	z, _ := zstd.NewWriter(&out, zstd.WithWindowSize(8<<20))
	z.Write(b)
	z.Close()
	return append(out.Bytes(), sizeOf(b)...)
}

// packLZ4 is legacy LZ4 in blocks of at most 8 MiB, each its own stream if split.
func packLZ4(b []byte, split bool) []byte {
	magic := binary.LittleEndian.AppendUint32(nil, lz4Magic)
	out := bytes.Clone(magic)
	for rest := b; len(rest) > 0; {
		n := min(len(rest), lz4Block)
		packed := lz4Pack(rest[:n])
		out = append(append(out, sizeOf(packed)...), packed...)
		if rest = rest[n:]; split && len(rest) > 0 {
			out = append(out, magic...)
		}
	}
	return append(out, sizeOf(b)...)
}

// lz4Pack is a plain greedy compressor of one block.
func lz4Pack(b []byte) []byte {
	var out []byte
	length := func(n int) {
		for ; n >= 255; n -= 255 {
			out = append(out, 255)
		}
		out = append(out, byte(n))
	}
	sequence := func(lit []byte, off, match int) {
		token := byte(min(len(lit), 15) << 4)
		if off > 0 {
			token |= byte(min(match-4, 15))
		}
		if out = append(out, token); len(lit) >= 15 {
			length(len(lit) - 15)
		}
		if out = append(out, lit...); off > 0 {
			if out = binary.LittleEndian.AppendUint16(out, uint16(off)); match-4 >= 15 {
				length(match - 4 - 15)
			}
		}
	}
	last := make(map[uint32]int)
	start, i := 0, 0
	for i+16 < len(b) {
		key := binary.LittleEndian.Uint32(b[i:])
		from, ok := last[key]
		last[key] = i
		if !ok || i-from > 0xffff {
			i++
			continue
		}
		n := 4
		for i+n < len(b)-5 && b[from+n] == b[i+n] {
			n++
		}
		sequence(b[start:i], i-from, n)
		i += n
		start = i
	}
	sequence(b[start:], 0, 0)
	return out
}

func TestVmlinux(t *testing.T) {
	small := vmlinuxELF(elf.EM_X86_64, true, 1000)
	large := vmlinuxELF(elf.EM_X86_64, false, 9<<20) // two LZ4 blocks
	middle := vmlinuxELF(elf.EM_X86_64, true, 1<<20)
	for _, tt := range []struct {
		name, compression string
		image, want       []byte
		pvh               bool
	}{
		{"plain ELF file", "none", small, small, true},
		{"uncompressed payload", "none", bzImage(small), small, true},
		{"gzip", "gzip", bzImage(packGzip(small)), small, true},
		{"zstd", "zstd", bzImage(packZstd(small)), small, true},
		{"zstd", "zstd", bzImage(packZstd(middle)), middle, true},
		{"lz4", "lz4", bzImage(packLZ4(small, false)), small, true},
		{"lz4 blocks", "lz4", bzImage(packLZ4(large, false)), large, false},
		{"lz4 streams", "lz4", bzImage(packLZ4(large, true)), large, false},
	} {
		out := &memFile{max: 64 << 20}
		info, err := Vmlinux(out, bytes.NewReader(tt.image), int64(len(tt.image)))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		sum := sha256.Sum256(tt.want)
		want := VmlinuxInfo{Compression: tt.compression, Arch: "x86_64", Size: int64(len(tt.want)), SHA256: hex.EncodeToString(sum[:]), PVH: tt.pvh}
		if info != want || !bytes.Equal(out.Bytes(), tt.want) {
			t.Errorf("%s: got %+v, want %+v", tt.name, info, want)
		}
	}
}

func TestVmlinuxBad(t *testing.T) {
	kernel := vmlinuxELF(elf.EM_X86_64, true, 200_000)
	set := func(b []byte, off int, v uint32) []byte {
		b = bytes.Clone(b)
		binary.LittleEndian.PutUint32(b[off:], v)
		return b
	}
	lz4 := packLZ4(kernel, false)
	short := func(b []byte) []byte { return b[:len(b)/2] }
	phdr := 64 + 56 // of the notes
	for _, tt := range []struct {
		name  string
		image []byte
		kind  banger.Kind
	}{
		{"empty", nil, banger.Unsupported},
		{"text", []byte(strings.Repeat("hello ", 1000)), banger.Unsupported},
		{"arm64 Image", append([]byte("MZ"), make([]byte, 5000)...), banger.Unsupported},
		{"old boot protocol", set(bzImage(lz4), offVersion, 0x207), banger.Unsupported},
		{"payload beyond the end", set(bzImage(lz4), offPayload, 1<<31), banger.Invalid},
		{"payload too long", set(bzImage(lz4), offPayloadLength, 1<<32-1), banger.Invalid},
		{"payload empty", set(bzImage(lz4), offPayloadLength, 0), banger.Invalid},
		{"payload of 4 bytes", set(bzImage(lz4), offPayloadLength, 4), banger.Invalid},
		{"payload of 6 bytes", set(bzImage(lz4), offPayloadLength, 6), banger.Invalid},
		{"xz", bzImage([]byte("\xfd7zXZ\x00\x00\x00")), banger.Unsupported},
		{"bzip2", bzImage([]byte("BZh91AY&SY")), banger.Unsupported},
		{"lzma", bzImage([]byte("\x5d\x00\x00\x80\x00\x00")), banger.Unsupported},
		{"unknown payload", bzImage([]byte("what is it")), banger.Unsupported},
		{"gzip truncated", bzImage(short(packGzip(kernel))), banger.Invalid},
		{"zstd truncated", bzImage(short(packZstd(kernel))), banger.Invalid},
		{"lz4 truncated", bzImage(short(lz4)), banger.Invalid},
		{"lz4 without its size", bzImage(lz4[:len(lz4)-4]), banger.Invalid},
		{"lz4 of another size", bzImage(set(lz4, len(lz4)-4, uint32(len(kernel)+1))), banger.Invalid},
		{"lz4 of a smaller size", bzImage(set(lz4, len(lz4)-4, 100)), banger.Invalid},
		{"lz4 of 4 GiB", bzImage(set(lz4, len(lz4)-4, 1<<32-1)), banger.Invalid},
		{"lz4 block of 4 GiB", bzImage(set(lz4, 4, 1<<32-1)), banger.Invalid},
		{"lz4 block of 0", bzImage(set(lz4, 4, 0)), banger.Invalid},
		{"not ELF", bzImage(packGzip([]byte(strings.Repeat("x", 1000)))), banger.Invalid},
		{"ELF header only", bzImage(packGzip(kernel[:64])), banger.Invalid},
		{"ELF cut in its header", bzImage(packGzip(kernel[:40])), banger.Invalid},
		{"notes outside", set(kernel, phdr+8, 1<<31), banger.Invalid},
		{"notes huge", set(kernel, phdr+32, 1<<31), banger.Invalid},
		{"program headers outside", set(kernel, 32, 1<<31), banger.Invalid},
		{"other machine", bzImage(packGzip(vmlinuxELF(elf.EM_RISCV, true, 100))), banger.Unsupported},
	} {
		_, err := Vmlinux(&memFile{max: 64 << 20}, bytes.NewReader(tt.image), int64(len(tt.image)))
		if !banger.IsKind(err, tt.kind) {
			t.Errorf("%s: got %v, want kind %s", tt.name, err, tt.kind)
		}
	}
	image := bzImage(packGzip(kernel))
	_, err := Vmlinux(&memFile{max: 1000}, bytes.NewReader(image), int64(len(image)))
	if !banger.IsKind(err, banger.Exhausted) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("full disk: %v", err)
	}
	if _, err := Vmlinux(&memFile{}, bytes.NewReader(bzImage([]byte("\xfd7zXZ\x00"))), 3000); err == nil || !strings.Contains(err.Error(), "xz") {
		t.Errorf("the error does not name the compression: %v", err)
	}
}

// zeros reads as an endless gzip member of zeros would unpack.
type zeros struct{ left int64 }

func (z *zeros) Read(p []byte) (int, error) {
	if z.left == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), z.left)
	clear(p[:n])
	z.left -= n
	return int(n), nil
}

func TestVmlinuxBomb(t *testing.T) {
	var packed bytes.Buffer
	z, _ := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
	io.Copy(z, &zeros{16 << 20})
	z.Close()
	image := bzImage(packed.Bytes())
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := Vmlinux(&memFile{max: 1 << 20}, bytes.NewReader(image), int64(len(image)))
	runtime.ReadMemStats(&after)
	if err == nil {
		t.Error("a bomb was unpacked")
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > 12<<20 {
		t.Errorf("allocated %d MiB on the way", got>>20)
	}
}

func TestDecodeLZ4(t *testing.T) {
	for _, tt := range []struct {
		name, src, want string
		ok              bool
	}{
		{"literals", "\x50hello", "hello", true},
		{"run", "\x11a\x01\x00\x50bcdef", "aaaaaabcdef", true},
		{"pattern", "\x24ab\x02\x00\x50.....", "ababababab.....", true},
		{"empty", "", "", false},
		{"ends with a match", "\x10a\x01\x00", "", false},
		{"offset 0", "\x10a\x00\x00\x50bcdef", "", false},
		{"offset before the start", "\x10a\x02\x00\x50bcdef", "", false},
		{"literals missing", "\x50hel", "", false},
		{"length missing", "\xf0\xff\xff", "", false},
		{"offset missing", "\x10a\x01", "", false},
		{"match length missing", "\x1fa\x01\x00\xff", "", false},
		{"too long", "\x1fa\x01\x00\xff\x00\x50bcdef", "", false},
	} {
		dst := make([]byte, 64)
		n, err := decodeLZ4(dst, []byte(tt.src))
		if (err == nil) != tt.ok || string(dst[:n]) != tt.want {
			t.Errorf("%s: got %q, %v", tt.name, dst[:n], err)
		}
	}
}

func FuzzVmlinux(f *testing.F) {
	kernel := vmlinuxELF(elf.EM_X86_64, true, 3000)
	for _, seed := range [][]byte{
		kernel, bzImage(kernel), bzImage(packGzip(kernel)), bzImage(packZstd(kernel)), bzImage(packLZ4(kernel, false)),
		moduleELF("depends=virtio_ring", "softdep=pre: a post: b"),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		out := &memFile{max: 1 << 20}
		info, err := Vmlinux(out, bytes.NewReader(b), int64(len(b)))
		if err == nil && (info.Size != int64(out.Len()) || !bytes.HasPrefix(out.Bytes(), []byte(elf.ELFMAG))) {
			t.Errorf("%+v for %d bytes", info, out.Len())
		}
		if err != nil && banger.AsError(err).Kind == banger.Internal {
			t.Errorf("foreign data made an internal error: %v", err)
		}
		if e, err := openELF(bytes.NewReader(b), int64(len(b))); err == nil {
			_, _ = e.section(".modinfo")
		}
	})
}
