package kernelcat

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"reflect"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

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
		packed := make([]byte, lz4.CompressBlockBound(n))
		m, _ := lz4.CompressBlock(rest[:n], packed, nil)
		packed = packed[:m]
		out = append(append(out, sizeOf(packed)...), packed...)
		if rest = rest[n:]; split && len(rest) > 0 {
			out = append(out, magic...)
		}
	}
	return append(out, sizeOf(b)...)
}

// withVersion puts a version into the boot header of a bzImage, as its build does.
func withVersion(image []byte, version string) []byte {
	const at = 0x260
	image = bytes.Clone(image)
	binary.LittleEndian.PutUint16(image[offKernelVersion:], at-sector)
	copy(image[at:], version+"\x00")
	return image
}

// ikconfig is what CONFIG_IKCONFIG puts into a kernel.
func ikconfig(text string) string {
	var b bytes.Buffer
	z, _ := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	z.Write([]byte(text))
	z.Close()
	return configStart + b.String() + configEnd
}

// unpackImage is Vmlinux with all in memory.
func unpackImage(t testing.TB, image []byte) (VmlinuxInfo, []byte, error) {
	out := &memFile{max: 64 << 20}
	info, err := Vmlinux(t.Context(), out, bytes.NewReader(image), int64(len(image)))
	return info, out.Bytes(), err
}

func TestVmlinux(t *testing.T) {
	small := vmlinuxELF(elf.EM_X86_64, true, 1000)
	large := vmlinuxELF(elf.EM_X86_64, false, 9<<20) // two LZ4 blocks
	middle := vmlinuxELF(elf.EM_X86_64, true, 1<<20)
	foreign := vmlinuxELF(elf.EM_AARCH64, false, 1000)
	for _, tt := range []struct {
		name, compression string
		image, want       []byte
		pvh               bool
		arch              string
	}{
		{"plain ELF file", "none", small, small, true, "x86_64"},
		{"plain ELF file of another machine", "none", foreign, foreign, false, "aarch64"},
		{"uncompressed payload", "none", bzImage(small), small, true, "x86_64"},
		{"gzip", "gzip", bzImage(packGzip(small)), small, true, "x86_64"},
		{"zstd", "zstd", bzImage(packZstd(small)), small, true, "x86_64"},
		{"zstd", "zstd", bzImage(packZstd(middle)), middle, true, "x86_64"},
		{"lz4", "lz4", bzImage(packLZ4(small, false)), small, true, "x86_64"},
		{"lz4 blocks", "lz4", bzImage(packLZ4(large, false)), large, false, "x86_64"},
		{"lz4 streams", "lz4", bzImage(packLZ4(large, true)), large, false, "x86_64"},
	} {
		info, got, err := unpackImage(t, tt.image)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		sum := sha256.Sum256(tt.want)
		want := VmlinuxInfo{Compression: tt.compression, Arch: tt.arch, Size: int64(len(tt.want)), SHA256: hex.EncodeToString(sum[:]), PVH: tt.pvh}
		if !reflect.DeepEqual(info, want) || !bytes.Equal(got, tt.want) {
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
	phdr := 64 + 56 // of the notes
	for _, tt := range []struct {
		name  string
		image []byte
		kind  banger.Kind
	}{
		{"empty", nil, banger.Unsupported},
		{"text", []byte(strings.Repeat("hello ", 1000)), banger.Unsupported},
		{"cut in its header", bzImage(lz4)[:offPayload], banger.Invalid},
		{"old boot protocol", set(bzImage(lz4), offVersion, 0x207), banger.Unsupported},
		{"payload beyond the end", set(bzImage(lz4), offPayload, 1<<31), banger.Invalid},
		{"payload too long", set(bzImage(lz4), offPayloadLength, 1<<32-1), banger.Invalid},
		{"payload empty", set(bzImage(lz4), offPayloadLength, 0), banger.Invalid},
		{"payload of 4 bytes", set(bzImage(lz4), offPayloadLength, 4), banger.Invalid},
		{"payload of 6 bytes", set(bzImage(lz4), offPayloadLength, 6), banger.Invalid},
		{"lzo", bzImage([]byte("\x89LZO\x00\r\n\x1a\n")), banger.Unsupported},
		{"unknown payload", bzImage([]byte("what is it")), banger.Unsupported},
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
	} {
		if _, _, err := unpackImage(t, tt.image); !banger.IsKind(err, tt.kind) {
			t.Errorf("%s: got %v, want kind %s", tt.name, err, tt.kind)
		}
	}
}

// What is no bzImage is called by its name.
func TestVmlinuxForeign(t *testing.T) {
	at := func(off int, magic string) []byte {
		b := append([]byte("MZ"), make([]byte, 5000)...)
		copy(b[off:], magic)
		return b
	}
	for _, tt := range []struct {
		name  string
		image []byte
	}{
		{"an arm64 Image", at(0x38, "ARM\x64")},
		{"a RISC-V Image", at(0x38, "RSC\x05")},
		{"an EFI zboot image", at(4, "zimg")},
		{"an EFI program", at(0, "MZ")},
		{"a U-Boot image", at(0, "\x27\x05\x19\x56")},
		{"a gzip file", packGzip(make([]byte, 5000))},
	} {
		_, _, err := unpackImage(t, tt.image)
		if e := banger.AsError(err); e == nil || e.Kind != banger.Unsupported || !strings.Contains(e.Msg, "it is "+tt.name+",") || e.Hint == "" {
			t.Errorf("%s: %+v", tt.name, e)
		}
	}
}

// brokenFile is a file on a disk that fails.
type brokenFile struct{ *bytes.Reader }

func (b brokenFile) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > 100_000 {
		return 0, syscall.EIO
	}
	return b.Reader.ReadAt(p, off)
}

// canceler is a file whose first write cancels.
type canceler struct {
	memFile
	cancel context.CancelFunc
}

func (c *canceler) Write(p []byte) (int, error) {
	c.cancel()
	return c.memFile.Write(p)
}

// An error of the host is not taken for one of the image.
func TestVmlinuxHostErrors(t *testing.T) {
	random := make([]byte, 300_000) // does not get smaller
	rand.NewChaCha8([32]byte{}).Read(random)
	kernel := append(vmlinuxELF(elf.EM_X86_64, true, 100), random...)
	for _, payload := range [][]byte{kernel, packGzip(kernel), packZstd(kernel), packLZ4(kernel, false)} {
		image := bzImage(payload)
		size := int64(len(image))
		_, err := Vmlinux(t.Context(), &memFile{max: 1000}, bytes.NewReader(image), size)
		if !banger.IsKind(err, banger.Exhausted) || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("full disk: %v", err)
		}
		_, err = Vmlinux(t.Context(), &memFile{max: 64 << 20}, brokenFile{bytes.NewReader(image)}, size)
		if !errors.Is(err, syscall.EIO) || banger.IsKind(err, banger.Invalid) {
			t.Errorf("broken disk: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		out := &canceler{memFile{max: 64 << 20}, cancel}
		if _, err = Vmlinux(ctx, out, bytes.NewReader(image), size); !errors.Is(err, context.Canceled) || out.Len() > lz4Block {
			t.Errorf("canceled after %d bytes: %v", out.Len(), err)
		}
	}
}

func TestVmlinuxBomb(t *testing.T) {
	var packed bytes.Buffer
	z, _ := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
	z.Write(make([]byte, 16<<20))
	z.Close()
	image := bzImage(packed.Bytes())
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := Vmlinux(t.Context(), &memFile{max: 1 << 20}, bytes.NewReader(image), int64(len(image)))
	runtime.ReadMemStats(&after)
	if err == nil {
		t.Error("a bomb was unpacked")
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > 12<<20 {
		t.Errorf("allocated %d MiB on the way", got>>20)
	}
}

func FuzzVmlinux(f *testing.F) {
	kernel := vmlinuxELF(elf.EM_X86_64, true, 3000)
	seeds := [][]byte{kernel, bzImage(kernel), bzImage(packLZ4(kernel, true)), moduleELF("depends=virtio_ring", "softdep=pre: a post: b")}
	for _, name := range packers {
		seeds = append(seeds, withVersion(bzImage(packed(f, name)), "6.1.0-test (builder@host)"))
	}
	for _, seed := range seeds {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		out := &memFile{max: 1 << 20}
		info, err := Vmlinux(context.Background(), out, bytes.NewReader(b), int64(len(b)))
		if err == nil && (info.Size != int64(out.Len()) || !bytes.HasPrefix(out.Bytes(), []byte(elf.ELFMAG))) {
			t.Errorf("%+v for %d bytes", info, out.Len())
		}
		if info.Version != "" && !validVersion(info.Version) || len(info.Config) > maxConfig {
			t.Errorf("version %q, configuration of %d bytes", info.Version, len(info.Config))
		}
		if err != nil && banger.AsError(err).Kind == banger.Internal {
			t.Errorf("foreign data made an internal error: %v", err)
		}
		if e, err := openELF(bytes.NewReader(b), int64(len(b))); err == nil {
			_, _ = e.section(".modinfo")
		}
	})
}
