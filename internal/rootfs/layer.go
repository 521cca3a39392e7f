package rootfs

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"banger"
)

// budget is what all layers of one image may still use together.
type budget struct {
	stream  atomic.Int64 // bytes of tar
	data    atomic.Int64 // bytes of file contents, holes included
	headers atomic.Int64 // bytes of names, targets and attributes
	entries atomic.Int64
	limits  Limits
}

func newBudget(l Limits) *budget {
	b := &budget{limits: l}
	b.stream.Store(l.Bytes)
	b.data.Store(l.Bytes)
	b.headers.Store(l.Headers)
	b.entries.Store(int64(l.Entries))
	return b
}

// charge takes n from a counter before the bytes are read: the header of a
// sparse file can claim exabytes in three blocks. A negative n is refused too.
func charge(counter *atomic.Int64, n int64) bool {
	for {
		left := counter.Load()
		if n < 0 || n > left {
			return false
		}
		if counter.CompareAndSwap(left, left-n) {
			return true
		}
	}
}

// source is the stream of one layer. It ends with ctx, keeps within the
// budget, and remembers its error: archive/tar hides some.
type source struct {
	ctx     context.Context
	r       io.Reader
	budget  *budget
	literal bool // no name is a whiteout
	read    int64
	told    int64
	tell    func(read int64) // may be nil
	err     error            // anything but the end of the stream
}

// tellEvery is how many bytes pass between two reports of progress.
const tellEvery = 4 << 20

func (s *source) Read(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	if s.ctx.Err() != nil {
		s.err = context.Cause(s.ctx)
		return 0, s.err
	}
	n, err := s.r.Read(p)
	s.read += int64(n)
	if !charge(&s.budget.stream, int64(n)) {
		s.err = invalid("the layers are larger than %d bytes", s.budget.limits.Bytes)
		return 0, s.err
	}
	if s.tell != nil && s.read-s.told >= tellEvery {
		s.told = s.read
		s.tell(s.read)
	}
	if err != nil && err != io.EOF {
		var e *banger.Error
		if !errors.As(err, &e) && s.ctx.Err() == nil {
			err = banger.Errorf(banger.Unavailable, "read: %w", err)
		}
		s.err = err
	}
	return n, err
}

// readLayer parses one layer: contents of files go into the image through
// data, headers are returned. Errors name the entry, not the layer.
func readLayer(src *source, data *dataWriter) ([]entry, error) {
	// Reads of file contents are at least this large and pass it by.
	tr := tar.NewReader(bufio.NewReaderSize(src, 32<<10))
	var entries []entry
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		// Names outside the layer are confined by cleanName.
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return nil, src.explain(err, "after entry %d", len(entries))
		}
		e, skip, err := readEntry(src, tr, h, data)
		if err != nil {
			return nil, src.explain(err, "entry %s", shown(h.Name))
		}
		if !skip {
			entries = append(entries, e)
		}
	}
	// What follows the end marker has no meaning, but a verifying reader tells
	// only at the end of the stream whether all before it was genuine.
	if _, err := io.Copy(io.Discard, src); err != nil {
		return nil, src.explain(err, "after the last entry")
	}
	return entries, nil
}

// explain makes an error of reading a tar presentable. An error of the stream
// itself goes before what archive/tar made of it.
func (s *source) explain(err error, format string, args ...any) error {
	if s.err != nil {
		return s.err
	}
	var e *banger.Error
	where := fmt.Sprintf(format, args...)
	switch {
	case errors.As(err, &e):
		return fmt.Errorf("%s: %w", where, err)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return invalid("%s: the tar is truncated", where)
	}
	return invalid("%s: %w", where, err)
}

// readEntry takes over one header and, of a regular file, the contents.
func readEntry(src *source, tr *tar.Reader, h *tar.Header, data *dataWriter) (e entry, skip bool, err error) {
	b := src.budget
	if !charge(&b.entries, 1) {
		return e, false, invalid("the layers have more than %d entries", b.limits.Entries)
	}
	e, skip, err = newEntry(h, b.limits, src.literal)
	if err != nil || skip {
		return e, skip, err
	}
	size := len(e.name) + len(e.link)
	if e.ino != nil {
		size += len(e.ino.target)
		for _, x := range e.ino.xattrs {
			size += len(x.name) + len(x.value)
		}
	}
	if !charge(&b.headers, int64(size)) {
		return e, false, invalid("the names and attributes of all entries are longer than %d bytes", b.limits.Headers)
	}
	if e.ino == nil || e.ino.mode&typeMask != typeRegular {
		return e, false, nil
	}
	if !charge(&b.data, e.ino.size) {
		return e, false, invalid("its %d bytes are more than is left of the limit of %d for all files", e.ino.size, b.limits.Bytes)
	}
	e.ino.extents, err = data.add(e.ino.size, tr)
	return e, false, err
}
