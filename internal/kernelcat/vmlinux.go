package kernelcat

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"

	"banger"
)

// maxVmlinux bounds what is unpacked: Debian's generic kernel has 66 MB, one
// with everything built in and its symbols kept about 800 MB.
const maxVmlinux = 1 << 30

// The note by which a kernel can be entered in 32-bit protected mode, as
// QEMU and Firecracker do with an ELF file.
// Format: xen/include/public/elfnote.h, XEN_ELFNOTE_PHYS32_ENTRY.
const (
	pvhOwner = "Xen"
	pvhType  = 18
)

// VmlinuxInfo tells what Vmlinux wrote.
type VmlinuxInfo struct {
	Compression string // none, gzip, xz, lz4, zstd, bzip2 or lzma
	Arch        string // as uname -m, or the machine's name in ELF where Linux has none that banger knows
	Version     string // as uname -r, from the image itself; empty if it does not tell
	Size        int64  // bytes written
	SHA256      string // of them, hex
	PVH         bool   // has the note of a PVH entry point
	Config      []byte // the build configuration that CONFIG_IKCONFIG embeds, as text; nil if there is none
}

// ReaderWriterAt is what Vmlinux writes to, in order, and then looks at again.
type ReaderWriterAt interface {
	io.Writer
	io.ReaderAt
}

// Vmlinux takes the ELF kernel out of a bzImage of size bytes and writes it to
// dst, which is empty; an ELF kernel is copied as it is. It holds no more than
// the decompressor's window in memory, which is at most 128 MiB and no more of
// it than the kernel has bytes. The kernel may be for any machine, see
// CheckHost. A damaged image is an Invalid error, an image or compression that
// cannot be read an Unsupported one. After an error dst holds part of a kernel.
func Vmlinux(ctx context.Context, dst ReaderWriterAt, bzImage io.ReaderAt, size int64) (VmlinuxInfo, error) {
	img, err := openImage(bzImage, size)
	if err != nil {
		return VmlinuxInfo{}, err
	}
	in := &input{ctx: ctx, r: img.payload}
	out := newOutput(ctx, dst)
	kind, err := unpack(out, in)
	switch {
	case ctx.Err() != nil:
		return VmlinuxInfo{}, fmt.Errorf("unpack kernel: %w", ctx.Err())
	case out.err != nil:
		return VmlinuxInfo{}, fmt.Errorf("write vmlinux: %w", orExhausted(out.err))
	case in.err != nil:
		return VmlinuxInfo{}, fmt.Errorf("read kernel image: %w", in.err)
	case err != nil:
		return VmlinuxInfo{}, asInvalid(err, "unpack kernel (%s)", kind)
	}
	return describe(dst, out, kind, img.version)
}

// describe tells what is in dst, all of which came through out; version is
// what the packed image says of itself.
func describe(dst io.ReaderAt, out *output, kind, version string) (VmlinuxInfo, error) {
	info := VmlinuxInfo{Compression: kind, Version: version, Size: out.n, SHA256: hex.EncodeToString(out.sum.Sum(nil))}
	f, err := openELF(dst, out.n)
	if err != nil {
		return VmlinuxInfo{}, asInvalid(err, "read unpacked kernel")
	}
	info.Arch = f.arch()
	if _, info.PVH, err = f.note(pvhOwner, pvhType); err != nil {
		return VmlinuxInfo{}, asInvalid(err, "read unpacked kernel")
	}
	if v := bannerVersion(dst, out.banner.at); info.Version == "" {
		info.Version = v
	} else if v != "" && v != info.Version {
		return VmlinuxInfo{}, banger.Errorf(banger.Invalid, "the image says that it is kernel %s, it holds kernel %s", info.Version, v)
	}
	info.Config = embeddedConfig(dst, out.n, out.config.at)
	return info, nil
}

// input reads the packed kernel. It keeps an error of the file below it apart
// from those of the data that is read from it.
type input struct {
	ctx context.Context
	r   *io.SectionReader
	err error
}

func (in *input) Read(p []byte) (int, error) {
	if err := in.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := in.r.Read(p)
	if err != nil && err != io.EOF {
		in.err = err
	}
	return n, err
}

// output takes the unpacked kernel, at most left bytes of it, and learns on
// the way what would else need a second pass. It keeps an error of the file
// below it apart from those of the data that is unpacked into it.
type output struct {
	ctx     context.Context
	w       io.Writer
	sum     hash.Hash
	banner  mark
	config  mark
	n, left int64
	err     error
}

func newOutput(ctx context.Context, w io.Writer) *output {
	return &output{ctx: ctx, w: w, sum: sha256.New(), banner: mark{word: bannerWord}, config: mark{word: configStart}, left: maxVmlinux}
}

var errTooBig = errors.New("unpacks to more than it may")

func (o *output) Write(p []byte) (int, error) {
	if err := o.ctx.Err(); err != nil {
		return 0, err
	}
	if int64(len(p)) > o.left {
		return 0, errTooBig
	}
	// Hashing takes as long as writing and both only read p.
	var hashed sync.WaitGroup
	hashed.Go(func() { o.sum.Write(p) })
	o.banner.write(p)
	o.config.write(p)
	n, err := o.w.Write(p)
	hashed.Wait()
	o.n, o.left, o.err = o.n+int64(n), o.left-int64(n), err
	return n, err
}

// maxMarks is how many places of a word are noted. A kernel has two of its banner.
const maxMarks = 16

// mark notes where its word is in a stream, also where two writes share it.
type mark struct {
	word string
	at   []int64 // the first maxMarks places, from the start of the stream
	n    int64   // bytes written
	tail []byte  // the last of them, one fewer than the word has
}

func (m *mark) write(p []byte) {
	// No part of the seam has the whole word, so no place is found twice.
	short := len(m.word) - 1
	seam := append(m.tail, p[:min(len(p), short)]...)
	m.find(seam, m.n-int64(len(m.tail)))
	m.find(p, m.n)
	m.n += int64(len(p))
	last := p
	if len(p) < short {
		last = seam
	}
	m.tail = append(make([]byte, 0, 2*short), last[max(0, len(last)-short):]...)
}

// find notes the places in b, which is at off in the stream.
func (m *mark) find(b []byte, off int64) {
	word := []byte(m.word)
	for len(m.at) < maxMarks {
		i := bytes.Index(b, word)
		if i < 0 {
			return
		}
		m.at = append(m.at, off+int64(i))
		b, off = b[i+1:], off+int64(i+1)
	}
}

// asInvalid gives an error of foreign data the kind Invalid, unless it has a kind.
func asInvalid(err error, format string, args ...any) error {
	var e *banger.Error
	if errors.As(err, &e) {
		return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), err)
	}
	return banger.Errorf(banger.Invalid, "%s: %w", fmt.Sprintf(format, args...), err)
}
