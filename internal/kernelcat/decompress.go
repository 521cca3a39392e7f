package kernelcat

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/mikelolasagasti/xz"
	"github.com/ulikunitz/xz/lzma"

	"banger"
)

// maxWindow bounds how far back packed data may refer to, which a decompressor
// has to hold in memory. The most that a kernel's build asks for is 128 MiB
// (`zstd -22 --ultra`, and `xz --lzma2=dict=128MiB` since Linux 6.12).
const maxWindow = 128 << 20

// formats are the compressions of linux/init/Kconfig, KERNEL_GZIP and those after it. The
// build appends the unpacked size to those that do not end with it themselves.
var formats = []struct {
	name, magic string
	sizeWord    bool
	unpack      func(*output, io.Reader) error // nil: not supported
}{
	{"none", "\x7fELF", false, copyAll},
	{"gzip", "\x1f\x8b", false, unpackGzip},
	{"xz", "\xfd7zXZ\x00", true, unpackXZ},
	{"lz4", "\x02\x21\x4c\x18", true, unpackLZ4},
	{"zstd", "\x28\xb5\x2f\xfd", true, unpackZstd},
	{"bzip2", "BZh", true, unpackBzip2},
	{"lzma", "\x5d\x00\x00", true, unpackLZMA}, // has no magic: these are its usual parameters
	{"lzo", "\x89LZO\x00\r", true, nil},
}

// unpack writes the unpacked payload to w and names its compression.
func unpack(w *output, in *input) (kind string, err error) {
	var magic [6]byte
	if _, err := in.r.ReadAt(magic[:], 0); err != nil {
		return "unknown", atEnd(err, in)
	}
	for _, f := range formats {
		switch {
		case string(magic[:len(f.magic)]) != f.magic:
		case f.unpack == nil:
			return f.name, banger.Errorf(banger.Unsupported, "banger reads gzip, xz, lz4, zstd, bzip2 and lzma kernels, this one is compressed with %s", f.name)
		case f.sizeWord:
			return f.name, sized(w, in, f.unpack)
		default:
			return f.name, f.unpack(w, in)
		}
	}
	return "unknown", banger.Errorf(banger.Unsupported, "unknown compression: the kernel starts with % x", magic)
}

// sized unpacks all but the last four bytes of the payload. Those are the
// unpacked size, so they show whether all of the kernel was there.
func sized(w *output, in *input, unpack func(*output, io.Reader) error) error {
	var word [4]byte
	n := in.r.Size() - int64(len(word))
	if _, err := in.r.ReadAt(word[:], n); err != nil {
		return atEnd(err, in)
	}
	want := int64(binary.LittleEndian.Uint32(word[:]))
	if want > w.left {
		return errTooBig
	}
	w.left = want
	if err := unpack(w, io.LimitReader(in, n)); err != nil {
		return err
	}
	if w.n != want {
		return fmt.Errorf("unpacked to %d bytes, not %d", w.n, want)
	}
	return nil
}

// atEnd tells an error of the file from a payload that ends too early.
func atEnd(err error, in *input) error {
	if err != io.EOF {
		in.err = err
	}
	return errors.New("the payload is too short")
}

// copyAll copies in pieces that are worth to be hashed beside the writing.
func copyAll(w *output, r io.Reader) error {
	_, err := io.CopyBuffer(w, struct{ io.Reader }{r}, make([]byte, 256<<10))
	return err
}

func unpackGzip(w *output, r io.Reader) error {
	z, err := gzip.NewReader(r)
	if err != nil {
		return err
	}
	z.Multistream(false) // the kernel's build may pad after the one member
	return copyAll(w, z)
}

func unpackZstd(w *output, r io.Reader) error {
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderMaxMemory(maxVmlinux))
	if err != nil {
		return err
	}
	defer z.Close()
	return copyAll(w, z)
}

// unpackXZ uses a library that knows the filters for machine code, which
// github.com/ulikunitz/xz does not: every kernel is packed with `xz --x86`.
func unpackXZ(w *output, r io.Reader) error {
	z, err := xz.NewReader(r, maxWindow)
	if err == nil {
		err = copyAll(w, z)
	}
	if errors.Is(err, xz.ErrOptions) || errors.Is(err, xz.ErrUnsupportedCheck) || errors.Is(err, xz.ErrMemlimit) {
		return banger.Errorf(banger.Unsupported, "%w", err)
	}
	return err
}

func unpackBzip2(w *output, r io.Reader) error {
	return copyAll(w, bzip2.NewReader(r))
}

// unpackLZMA gives the library a header that asks for no larger dictionary than
// there is to unpack: nothing can refer further back, and `lzma -9` asks for 64 MiB.
// Format: lzma-file-format.txt of XZ Utils: properties, dictionary size (4 bytes), unpacked size (8 bytes).
func unpackLZMA(w *output, r io.Reader) error {
	var header [lzma.HeaderLen]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return err
	}
	dict := binary.LittleEndian.Uint32(header[1:])
	if dict <= maxWindow {
		binary.LittleEndian.PutUint32(header[1:], uint32(min(int64(dict), w.left)))
	}
	z, err := lzma.ReaderConfig{DictCap: maxWindow}.NewReader(bufio.NewReader(io.MultiReader(bytes.NewReader(header[:]), r)))
	if err != nil {
		return err
	}
	return copyAll(w, z)
}

// unwrapped reads what a file holds that may be packed as a whole, with gzip,
// zstd or xz. done ends the reading.
func unwrapped(r io.Reader) (out io.Reader, done func(), err error) {
	in := bufio.NewReaderSize(r, 64<<10)
	magic, err := in.Peek(6)
	if err != nil && err != io.EOF {
		return nil, nil, err
	}
	none := func() {}
	switch {
	case bytes.HasPrefix(magic, []byte("\x1f\x8b")):
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, nil, err
		}
		z.Multistream(false) // builds may pad after the one member
		return z, none, nil
	case bytes.HasPrefix(magic, []byte("\x28\xb5\x2f\xfd")):
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	case bytes.HasPrefix(magic, []byte("\xfd7zXZ\x00")):
		out, err = xz.NewReader(in, maxWindow)
		return out, none, err
	}
	return in, none, nil
}
