package kernelcat

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"banger"
)

// Where the boot header of an x86 kernel says what the file holds.
// Format: linux/Documentation/arch/x86/boot.rst.
const (
	offSetupSects    = 0x1f1 // sectors of real-mode code after the boot sector; 0 means 4
	offMagic         = 0x202 // "HdrS"
	offVersion       = 0x206 // of the protocol; the payload's place is told since 2.08
	offPayload       = 0x248 // from the start of the protected-mode code
	offPayloadLength = 0x24c
	bootHeaderSize   = 0x250
	payloadVersion   = 0x208
	sector           = 512
)

// Bounds on what is unpacked: Debian's generic kernel is 60 MB, one with
// everything built in and symbols kept about 800 MB.
const (
	maxVmlinux    = 1 << 30
	maxZstdWindow = 128 << 20 // what the kernel's `zstd --ultra -22` asks for
)

// The note by which a kernel can be entered in 32-bit protected mode, as
// QEMU and Firecracker do with an ELF file.
// Format: xen/include/public/elfnote.h, XEN_ELFNOTE_PHYS32_ENTRY.
const (
	pvhOwner = "Xen"
	pvhType  = 18
)

// VmlinuxInfo tells what Vmlinux wrote.
type VmlinuxInfo struct {
	Compression string // none, gzip, zstd or lz4
	Arch        string // as uname -m
	Size        int64  // bytes written
	SHA256      string // of them, hex
	PVH         bool   // has the note of a PVH entry point
}

// ReaderWriterAt is what Vmlinux writes to, in order, and then looks at again.
type ReaderWriterAt interface {
	io.Writer
	io.ReaderAt
}

// Vmlinux takes the ELF kernel out of a bzImage of size bytes and writes it to
// dst, which is empty; an ELF kernel is copied as it is. It holds no more than
// the decompressor's window in memory. The result is an ELF file of an
// architecture that banger runs. A damaged image is an Invalid error, an image
// or compression that cannot be read an Unsupported one. After an error dst
// holds part of a kernel.
func Vmlinux(dst ReaderWriterAt, bzImage io.ReaderAt, size int64) (VmlinuxInfo, error) {
	payload, err := findPayload(bzImage, size)
	if err != nil {
		return VmlinuxInfo{}, err
	}
	sum := sha256.New()
	w := &limitWriter{w: io.MultiWriter(dst, sum), left: maxVmlinux}
	kind, err := unpack(w, payload)
	if w.err != nil {
		return VmlinuxInfo{}, fmt.Errorf("write vmlinux: %w", orExhausted(w.err))
	}
	if err != nil {
		return VmlinuxInfo{}, asInvalid(err, "unpack kernel (%s)", kind)
	}
	info := VmlinuxInfo{Compression: kind, Size: w.n, SHA256: hex.EncodeToString(sum.Sum(nil))}
	f, err := openELF(dst, w.n)
	if err != nil {
		return VmlinuxInfo{}, asInvalid(err, "read unpacked kernel")
	}
	if info.Arch = f.arch(); !knownArch(info.Arch) {
		return VmlinuxInfo{}, banger.Errorf(banger.Unsupported, "the kernel is for %s, which banger does not run", info.Arch)
	}
	if _, info.PVH, err = f.note(pvhOwner, pvhType); err != nil {
		return VmlinuxInfo{}, asInvalid(err, "read unpacked kernel")
	}
	return info, nil
}

func knownArch(arch string) bool {
	for _, a := range machines {
		if a == arch {
			return true
		}
	}
	return false
}

// findPayload returns the packed kernel inside an x86 bzImage.
func findPayload(r io.ReaderAt, size int64) (*io.SectionReader, error) {
	h := make([]byte, bootHeaderSize)
	n, err := r.ReadAt(h[:min(size, bootHeaderSize)], 0)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("read kernel image: %w", err)
	}
	if bytes.HasPrefix(h, []byte("\x7fELF")) {
		return io.NewSectionReader(r, 0, size), nil
	}
	if n < bootHeaderSize || string(h[offMagic:offMagic+4]) != "HdrS" {
		return nil, banger.Errorf(banger.Unsupported, "read kernel image: neither an x86 bzImage nor an ELF file")
	}
	if v := binary.LittleEndian.Uint16(h[offVersion:]); v < payloadVersion {
		return nil, banger.Errorf(banger.Unsupported, "read kernel image: boot protocol %d.%02d does not tell where the kernel is", v>>8, v&0xff)
	}
	setup := int64(h[offSetupSects])
	if setup == 0 {
		setup = 4
	}
	off := (setup+1)*sector + int64(binary.LittleEndian.Uint32(h[offPayload:]))
	length := int64(binary.LittleEndian.Uint32(h[offPayloadLength:]))
	if length == 0 || off > size || length > size-off {
		return nil, banger.Errorf(banger.Invalid, "read kernel image: its header places the kernel at %d+%d, the file has %d bytes", off, length, size)
	}
	return io.NewSectionReader(r, off, length), nil
}

// unpack writes the unpacked payload to w and names its compression.
func unpack(w *limitWriter, payload *io.SectionReader) (kind string, err error) {
	var magic [6]byte
	if _, err := payload.ReadAt(magic[:], 0); err != nil {
		return "unknown", errors.New("the payload is too short")
	}
	m := string(magic[:])
	has := func(prefix string) bool { return len(prefix) <= len(m) && m[:len(prefix)] == prefix }
	switch {
	case has("\x7fELF"):
		_, err := io.Copy(w, payload)
		return "none", err
	case has("\x1f\x8b"):
		return "gzip", unpackGzip(w, payload)
	case has("\x28\xb5\x2f\xfd"):
		return "zstd", sized(w, payload, unpackZstd)
	case has("\x02\x21\x4c\x18"):
		return "lz4", sized(w, payload, unpackLZ4)
	}
	for prefix, name := range map[string]string{"\xfd7zXZ\x00": "xz", "BZh": "bzip2", "\x5d\x00\x00": "lzma", "\x89LZO\x00\r": "lzo"} {
		if has(prefix) {
			return name, banger.Errorf(banger.Unsupported, "banger reads gzip, zstd and lz4 kernels, this one is compressed with %s", name)
		}
	}
	return "unknown", banger.Errorf(banger.Unsupported, "unknown compression: the kernel starts with % x", magic)
}

func unpackGzip(w io.Writer, r io.Reader) error {
	z, err := gzip.NewReader(r)
	if err != nil {
		return err
	}
	z.Multistream(false) // the kernel's build may pad after the one member
	_, err = io.Copy(w, z)
	return err
}

func unpackZstd(w io.Writer, r io.Reader) error {
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(maxZstdWindow), zstd.WithDecoderMaxMemory(maxVmlinux))
	if err != nil {
		return err
	}
	defer z.Close()
	_, err = io.Copy(w, z)
	return err
}

// sized unpacks all but the last four bytes of the payload. Those are the
// unpacked size, which the kernel's build appends to every format that does
// not end with it; so they show whether all of the kernel was there.
func sized(w *limitWriter, payload *io.SectionReader, unpack func(io.Writer, io.Reader) error) error {
	var word [4]byte
	n := payload.Size() - int64(len(word))
	if _, err := payload.ReadAt(word[:], n); err != nil {
		return errors.New("the payload is too short")
	}
	want := int64(binary.LittleEndian.Uint32(word[:]))
	if want > w.left {
		return errTooBig
	}
	w.left = want
	if err := unpack(w, io.NewSectionReader(payload, 0, n)); err != nil {
		return err
	}
	if w.n != want {
		return fmt.Errorf("unpacked to %d bytes, not %d", w.n, want)
	}
	return nil
}

var errTooBig = errors.New("unpacks to more than it may")

// limitWriter writes at most left bytes. It keeps an error of the file below
// it apart from those of the data that is unpacked into it.
type limitWriter struct {
	w       io.Writer
	n, left int64
	err     error
}

func (l *limitWriter) Write(p []byte) (int, error) {
	if int64(len(p)) > l.left {
		return 0, errTooBig
	}
	n, err := l.w.Write(p)
	l.n, l.left, l.err = l.n+int64(n), l.left-int64(n), err
	return n, err
}

// asInvalid gives an error of foreign data the kind Invalid, unless it has a kind.
func asInvalid(err error, format string, args ...any) error {
	var e *banger.Error
	if errors.As(err, &e) {
		return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), err)
	}
	return banger.Errorf(banger.Invalid, "%s: %w", fmt.Sprintf(format, args...), err)
}
