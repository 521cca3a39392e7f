package kernelcat

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"banger"
)

// maxBundleWindow is what a decompressor of a bundle may hold in memory. zstd
// needs 8 MiB up to level 19 and 32 MiB at level 20.
const maxBundleWindow = 32 << 20

// tarMagic is at offset 257 of an archive. Format: POSIX.1, pax; ustar and GNU's alike.
const (
	tarMagic    = "ustar"
	tarMagicOff = 257
)

// decompress unpacks an archive, in the way that its first bytes tell: zstd,
// gzip or not at all. Errors of r stay what they are; those of the data are
// Invalid. The archive is read in a goroutine of its own, until Close.
func decompress(r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(markErrors{r}, 256<<10)
	head, err := br.Peek(tarMagicOff + len(tarMagic))
	var of readError
	switch {
	case errors.As(err, &of):
		return nil, of.error
	case bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd")):
		var z *zstd.Decoder
		// Blocks are read, decoded and put together side by side.
		z, err = zstd.NewReader(br, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxWindow(maxBundleWindow))
		if err != nil {
			return nil, err
		}
		return &plainBody{r: z, close: z.Close}, nil
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, unpackError(err)
		}
		return &plainBody{r: z}, nil
	case err == nil && string(head[tarMagicOff:]) == tarMagic:
		return &plainBody{r: br}, nil
	}
	return nil, banger.Errorf(banger.Invalid, "it is no archive: it is neither tar nor packed with zstd or gzip, and begins with %.16q", head)
}

// plainBody is what comes out of a decompressor.
type plainBody struct {
	r     io.Reader
	close func() // may be nil
}

func (b *plainBody) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err != nil && err != io.EOF {
		err = unpackError(err)
	}
	return n, err
}

// Close ends the reading, as soon as a Read of the archive that is under way is over.
func (b *plainBody) Close() error {
	if b.close != nil {
		b.close()
	}
	return nil
}

func unpackError(err error) error {
	var of readError
	switch {
	case errors.As(err, &of):
		return of.error
	case errors.Is(err, zstd.ErrWindowSizeExceeded):
		return banger.Errorf(banger.Invalid, "it takes more than %d MiB of memory to unpack", maxBundleWindow>>20).
			WithHint("it has to be packed with zstd -19 or less, without --long")
	}
	return banger.Errorf(banger.Invalid, "%w", err)
}

// readError is an error of the source of an archive, not of its data.
type readError struct{ error }

// markErrors makes the errors of a reader readErrors.
type markErrors struct{ r io.Reader }

func (m markErrors) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if err != nil && err != io.EOF {
		err = readError{err}
	}
	return n, err
}
