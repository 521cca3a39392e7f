package parcel

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"time"
)

// file unpacks a regular file beside its place, and moves it there when it is whole.
func (u *unpacker) file(name string, h *tar.Header) error {
	temp := scratchName()
	f, err := u.at.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = u.data(f, h)
	if err == nil {
		err = u.owner(u.at, temp, h)
	}
	if err == nil {
		err = f.Chmod(u.mode(h)) // after the owner, which takes setuid away
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = u.at.Chtimes(temp, time.Time{}, h.ModTime)
	}
	return u.settle(temp, name, bare(err))
}

// data fills a new file.
func (u *unpacker) data(f *os.File, h *tar.Header) error {
	if u.t.Loose {
		n, err := io.CopyBuffer(&holeWriter{f: f}, u.tr, u.buf)
		u.report.Bytes += n
		if err != nil {
			return err
		}
		return f.Truncate(n)
	}
	all := sparse{size: h.Size, pieces: []piece{{0, h.Size}}}
	if text := h.PAXRecords[sparseKey]; text != "" {
		var err error
		if all, err = parseSparse(text); err != nil {
			return err
		}
		if all.data() != h.Size {
			return errSparse
		}
		if err := f.Truncate(all.size); err != nil {
			return err
		}
	}
	for _, part := range all.pieces {
		if part.offset > 0 {
			if _, err := f.Seek(part.offset, io.SeekStart); err != nil {
				return err
			}
		}
		n, err := io.CopyBuffer(plainWriter{f}, io.LimitReader(u.tr, part.length), u.buf)
		u.report.Bytes += n
		if err == nil && n < part.length {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// holeSize is what is looked at for zeros at a time: a block of most file systems.
const holeSize = 4 << 10

// holeWriter fills a new file, and leaves blocks of zeros out.
type holeWriter struct {
	f  *os.File
	at int64
}

var noData [holeSize]byte

func (w *holeWriter) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		zero, n := w.run(p[done:])
		if !zero {
			if _, err := w.f.WriteAt(p[done:done+n], w.at); err != nil {
				return done, err
			}
		}
		done, w.at = done+n, w.at+int64(n)
	}
	return len(p), nil
}

// run is how much of p is either zeros alone, or blocks with something in them.
func (w *holeWriter) run(p []byte) (zero bool, n int) {
	for n < len(p) {
		part := p[n:min(len(p), n+holeSize-int((w.at+int64(n))%holeSize))]
		z := bytes.Equal(part, noData[:len(part)])
		if n > 0 && z != zero {
			break
		}
		zero, n = z, n+len(part)
	}
	return zero, n
}
