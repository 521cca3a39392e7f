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

// openArchive unpacks an archive, in the way that its first bytes tell: zstd,
// gzip or not at all. Errors of r stay what they are; those of the data are
// Invalid. r is read in a goroutine of its own, until Close, which waits for a
// Read of it that is under way.
func openArchive(r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(markErrors{r}, aheadSize)
	head, err := br.Peek(tarMagicOff + len(tarMagic))
	var of readError
	switch {
	case errors.As(err, &of):
		return nil, of.error
	case bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd")):
		// More goroutines than one use twice the time of a processor to be no faster.
		z, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxBundleWindow))
		if err != nil {
			return nil, unpackError(err)
		}
		return &openedArchive{newReadAhead(plainBody{z}), z.Close}, nil
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, unpackError(err)
		}
		return newReadAhead(plainBody{z}), nil
	case err == nil && string(head[tarMagicOff:]) == tarMagic:
		return newReadAhead(plainBody{br}), nil
	}
	return nil, banger.Errorf(banger.Invalid, "it is no archive: it is neither tar nor packed with zstd or gzip, and begins with %.16q", head)
}

// openedArchive is an archive whose decompressor has to be let go.
type openedArchive struct {
	*readAhead
	release func()
}

func (a *openedArchive) Close() error {
	defer a.release()
	return a.readAhead.Close()
}

// plainBody is what comes out of a decompressor.
type plainBody struct{ r io.Reader }

func (b plainBody) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err != nil && err != io.EOF {
		err = unpackError(err)
	}
	return n, err
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
