package kernelcat

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"banger"
)

// Where the boot header of an x86 kernel says what the file holds.
// Format: linux/Documentation/arch/x86/boot.rst.
const (
	offSetupSects    = 0x1f1 // sectors of real-mode code after the boot sector; 0 means 4
	offMagic         = 0x202 // "HdrS"
	offVersion       = 0x206 // of the protocol; the payload's place is told since 2.08
	offKernelVersion = 0x20e // of the text that starts with uname -r, less 0x200; 0 means none
	offPayload       = 0x248 // from the start of the protected-mode code
	offPayloadLength = 0x24c
	bootHeaderSize   = 0x250
	payloadVersion   = 0x208
	sector           = 512
)

// image is a kernel image that is understood.
type image struct {
	payload *io.SectionReader // the kernel, packed or not
	version string            // as uname -r, if the header tells
}

// openImage reads the header of an x86 bzImage; an ELF file has none.
func openImage(r io.ReaderAt, size int64) (image, error) {
	h := make([]byte, bootHeaderSize)
	n, err := r.ReadAt(h[:min(size, bootHeaderSize)], 0)
	if err != nil && err != io.EOF {
		return image{}, fmt.Errorf("read kernel image: %w", err)
	}
	if bytes.HasPrefix(h, []byte("\x7fELF")) {
		return image{payload: io.NewSectionReader(r, 0, size)}, nil
	}
	if string(h[offMagic:offMagic+4]) != "HdrS" {
		return image{}, foreign(h)
	}
	if n < bootHeaderSize {
		return image{}, banger.Errorf(banger.Invalid, "read kernel image: it ends in its header")
	}
	if v := binary.LittleEndian.Uint16(h[offVersion:]); v < payloadVersion {
		return image{}, banger.Errorf(banger.Unsupported, "read kernel image: boot protocol %d.%02d does not tell where the kernel is", v>>8, v&0xff)
	}
	setup := int64(h[offSetupSects])
	if setup == 0 {
		setup = 4
	}
	off := (setup+1)*sector + int64(binary.LittleEndian.Uint32(h[offPayload:]))
	length := int64(binary.LittleEndian.Uint32(h[offPayloadLength:]))
	if length == 0 || off > size || length > size-off {
		return image{}, banger.Errorf(banger.Invalid, "read kernel image: its header places the kernel at %d+%d, the file has %d bytes", off, length, size)
	}
	img := image{payload: io.NewSectionReader(r, off, length)}
	if p := int64(binary.LittleEndian.Uint16(h[offKernelVersion:])); p != 0 {
		img.version, err = headerVersion(io.NewSectionReader(r, sector, setup*sector), p)
	}
	return img, err
}

// headerVersion is the first word of the text at off in the real-mode code:
// the rest tells who built the kernel and when.
func headerVersion(realMode *io.SectionReader, off int64) (string, error) {
	b := make([]byte, maxName+1)
	n, err := realMode.ReadAt(b, off)
	if err != nil && err != io.EOF {
		return "", fmt.Errorf("read kernel image: %w", err)
	}
	word := b[:n]
	if i := bytes.IndexAny(word, " \x00"); i >= 0 {
		word = word[:i]
	}
	if !validVersion(string(word)) {
		return "", banger.Errorf(banger.Invalid, "read kernel image: its header says %q, which is no kernel version", word)
	}
	return string(word), nil
}

// foreigners are other forms of kernels, by what they have at an offset.
// Formats: linux/Documentation/arch/{arm64/booting.rst,riscv/boot-image-header.rst},
// linux/drivers/firmware/efi/libstub/zboot-header.S.
var foreigners = []struct {
	off         int
	magic, name string
}{
	{0x38, "ARM\x64", "an arm64 Image"},
	{0x38, "RSC\x05", "a RISC-V Image"},
	{4, "zimg", "an EFI zboot image"},
	{0, "MZ", "an EFI program"},
	{0, "\x27\x05\x19\x56", "a U-Boot image"},
	{0, "\x1f\x8b", "a gzip file"},
}

// foreign says what an image is that is neither an ELF file nor a bzImage.
func foreign(header []byte) error {
	for _, f := range foreigners {
		if bytes.HasPrefix(header[f.off:], []byte(f.magic)) {
			return banger.Errorf(banger.Unsupported, "read kernel image: it is %s, banger reads x86 bzImages and ELF files", f.name).
				WithHint("take the vmlinux of the same build")
		}
	}
	return banger.Errorf(banger.Unsupported, "read kernel image: neither an x86 bzImage nor an ELF file")
}
