package oci

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/mikelolasagasti/xz"

	"banger"
)

// compression is how a stream is packed.
type compression int

const (
	plain compression = iota
	gzipped
	zstandard
	xzipped
	bzipped
)

// peekSize is how many bytes compressionOf looks at.
const peekSize = 6

// compressionOf tells a compression by the first bytes of a stream.
func compressionOf(b []byte) compression {
	switch {
	case bytes.HasPrefix(b, []byte{0x1f, 0x8b}):
		return gzipped
	case bytes.HasPrefix(b, []byte{0x28, 0xb5, 0x2f, 0xfd}),
		len(b) >= 4 && b[0]&0xf0 == 0x50 && bytes.HasPrefix(b[1:], []byte{0x2a, 0x4d, 0x18}): // a skippable frame
		return zstandard
	case bytes.HasPrefix(b, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return xzipped
	case bytes.HasPrefix(b, []byte("BZh")):
		return bzipped
	}
	return plain
}

// unpack starts to unpack a stream that is packed; done, which may be nil, is to
// be called at the end. What comes out of a stream that is digested has a digest
// of its own that settles what it is, so checksums of the format are not compared.
func unpack(kind compression, in *bufio.Reader, digested bool) (out io.Reader, done func(), err error) {
	switch kind {
	case gzipped:
		out, err = newGunzip(in)
		return out, nil, err
	case zstandard:
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(maxZstdWindow), zstd.IgnoreChecksum(digested))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	case xzipped:
		out, err = xz.NewReader(in, maxXZDict)
		return out, nil, err
	case bzipped:
		return bzip2.NewReader(in), nil, nil
	}
	return in, nil, nil
}

// maxXZDict is how far back xz data may refer, which has to be held in memory;
// xz -9 asks for 64 MiB.
const maxXZDict = 64 << 20

// Unpacked is a stream without its compression. Packed says whether it had one.
type Unpacked struct {
	*bufio.Reader
	Packed bool

	done func()
}

// Unpack takes the compression off a stream: gzip, zstd, xz, bzip2 or none, told
// by its first bytes. Damage is an Invalid error in the place of io.EOF; errors
// of r itself come as they are.
func Unpack(r io.Reader) (*Unpacked, error) {
	src := &faultReader{r: r}
	in := bufio.NewReaderSize(src, 128<<10)
	magic, err := in.Peek(peekSize)
	if err != nil && err != io.EOF {
		return nil, err
	}
	kind := compressionOf(magic)
	if kind == plain {
		return &Unpacked{Reader: in}, nil
	}
	out, done, err := unpack(kind, in, false)
	if err != nil {
		return nil, src.explain(err)
	}
	return &Unpacked{Reader: bufio.NewReaderSize(&packedReader{src, out}, 128<<10), Packed: true, done: done}, nil
}

// Close lets go of the decompressor; the stream itself is the caller's.
func (u *Unpacked) Close() error {
	if u.done != nil {
		u.done()
		u.done = nil
	}
	return nil
}

// faultReader remembers the error of a stream, so that it is told from damage.
type faultReader struct {
	r   io.Reader
	err error
}

func (f *faultReader) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err != nil && err != io.EOF {
		f.err = err
	}
	return n, err
}

func (f *faultReader) explain(err error) error {
	switch {
	case f.err != nil:
		return f.err
	case errors.Is(err, zstd.ErrWindowSizeExceeded), errors.Is(err, xz.ErrMemlimit):
		return banger.Errorf(banger.Unsupported, "it needs more than %d MiB to be unpacked", maxXZDict>>20)
	case errors.Is(err, xz.ErrOptions), errors.Is(err, xz.ErrUnsupportedCheck):
		return banger.Errorf(banger.Unsupported, "compressed in a way that banger does not know: %w", err)
	}
	return banger.Errorf(banger.Invalid, "damaged compression: %w", err)
}

// packedReader reads what comes out of a decompressor.
type packedReader struct {
	src *faultReader
	out io.Reader
}

func (p *packedReader) Read(b []byte) (int, error) {
	n, err := p.out.Read(b)
	if err != nil && err != io.EOF {
		err = p.src.explain(err)
	}
	return n, err
}

// gunzip reads gzip members until something follows that is none, and stops
// there: some tools pad, and what a layer holds is settled by its digests.
type gunzip struct {
	in *bufio.Reader
	z  *gzip.Reader
}

func newGunzip(in *bufio.Reader) (*gunzip, error) {
	z, err := gzip.NewReader(in)
	if err != nil {
		return nil, err
	}
	z.Multistream(false)
	return &gunzip{in, z}, nil
}

func (g *gunzip) Read(p []byte) (int, error) {
	for {
		n, err := g.z.Read(p)
		if n > 0 && err == io.EOF {
			err = nil // the next Read says it again
		}
		if n > 0 || err != io.EOF {
			return n, err
		}
		magic, perr := g.in.Peek(2)
		if perr != nil && perr != io.EOF {
			return 0, perr
		}
		if !bytes.Equal(magic, []byte{0x1f, 0x8b}) {
			return 0, io.EOF
		}
		if err := g.z.Reset(g.in); err != nil {
			return 0, err
		}
		g.z.Multistream(false)
	}
}
