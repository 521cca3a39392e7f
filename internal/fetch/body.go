package fetch

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"net/http"
	"os"
	"sync/atomic"

	"banger"
)

// maxRequests bounds the requests for one file, however much progress each of
// them makes: a server that sends a byte at a time must come to an end.
const maxRequests = 100

// Request makes one request for a file with the header h on top of its own
// (Range, If-Range). It returns answers of the statuses 200 and 206 only, all
// others are a *StatusError.
type Request func(ctx context.Context, h http.Header) (*http.Response, error)

// Body is a file that is being read. A connection that breaks or stalls is made
// anew, and goes on at the same byte of the same version of the file.
//
// It is for one goroutine, apart from Offset and Size; cancel the context it was
// opened with to end a Read from another one.
type Body struct {
	ctx     context.Context
	ask     Request
	opts    Options
	retry   Retry
	explain func(error) error // nil: errors stay as they are
	release func()            // nil: nothing to let go of

	begun   bool // version and header are those of the first answer
	version version
	header  http.Header

	size atomic.Int64 // -1 while unknown
	off  atomic.Int64
	sum  maphash.Hash // of the bytes read

	body  io.ReadCloser // nil between connections
	exact bool          // the length of body is known from its header
	lost  error         // why there is no connection
	tries int           // requests since the last byte
	total int           // requests
	err   error         // of the next Read
}

// Resume opens a file that somebody else knows how to ask for; Client.Open is
// for plain URLs. Of the options, Origin is of no use here. Errors are those of
// ask, of the connection, or *banger.Error for what the server sends wrongly;
// Explain makes them fit for the user.
func Resume(ctx context.Context, ask Request, o Options, r Retry) (*Body, error) {
	b := &Body{ctx: ctx, ask: ask, opts: o, retry: r}
	b.size.Store(-1)
	if o.Size > 0 {
		b.size.Store(o.Size)
		if o.Max > 0 && o.Size > o.Max {
			return nil, tooLong(o.Max)
		}
	}
	if err := b.connect(); err != nil {
		return nil, err
	}
	return b, nil
}

// Size is the length of the whole file in bytes, -1 while it is unknown.
func (b *Body) Size() int64 { return b.size.Load() }

// Offset is how many bytes have been read.
func (b *Body) Offset() int64 { return b.off.Load() }

// ContentType is the media type that the server gave, "" if none. It proves
// nothing: a server may call an archive anything, and a network's login page
// comes as text/html.
func (b *Body) ContentType() string { return mediaType(b.header) }

// ETag is the entity tag that the server gave, "" if none.
func (b *Body) ETag() string { return b.version.etag }

// Read implements io.Reader. io.EOF means that all bytes of the file were read,
// as far as the server or Options.Size told how many there are.
func (b *Body) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	for len(p) > 0 {
		if b.body == nil {
			if err := b.connect(); err != nil {
				return 0, b.end(err)
			}
		}
		n, err := b.next(p)
		if n > 0 {
			b.tries = 0
			b.off.Add(int64(n))
			_, _ = b.sum.Write(p[:n]) // it never fails
		}
		var own *banger.Error
		switch {
		case err == io.EOF, errors.As(err, &own):
			return n, b.end(err)
		case err != nil:
			b.drop(err)
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, nil
}

// next reads from the connection. It never returns bytes beyond the end of the
// file, and io.EOF only for that end.
func (b *Body) next(p []byte) (int, error) {
	size, end, beyond := b.Size(), b.Size(), error(nil)
	switch {
	case size >= 0:
		beyond = banger.Errorf(banger.Invalid, "the server sends more than %d bytes", size)
	case b.opts.Max > 0:
		end, beyond = b.opts.Max, tooLong(b.opts.Max)
	}
	if beyond != nil {
		left := end - b.Offset()
		if left == 0 {
			return 0, b.tail(beyond)
		}
		p = p[:min(int64(len(p)), left)]
	}
	n, err := b.body.Read(p)
	if err != io.EOF {
		return n, err
	}
	switch off := b.Offset() + int64(n); {
	case size < 0 && !b.exact:
		b.size.Store(off)
		return n, io.EOF
	case off == size:
		return n, io.EOF
	}
	return n, io.ErrUnexpectedEOF
}

// tail checks at the end of the file that the server does not go on.
func (b *Body) tail(beyond error) error {
	if b.Size() >= 0 && b.exact {
		return io.EOF
	}
	n, err := io.ReadFull(b.body, make([]byte, 1))
	switch {
	case n > 0:
		return beyond
	case b.Size() < 0 && err == io.EOF:
		b.size.Store(b.Offset())
		return io.EOF
	case b.Size() < 0:
		return err
	}
	return io.EOF // all bytes are here, whatever becomes of the connection
}

// end makes err what every further Read returns, and lets go of everything.
func (b *Body) end(err error) error {
	if err != io.EOF && b.explain != nil {
		err = b.explain(err)
	}
	b.err = err
	b.drop(err)
	if b.release != nil {
		b.release()
	}
	return err
}

// drop gives the connection up.
func (b *Body) drop(why error) {
	b.lost = why
	if b.body != nil {
		b.body.Close() // nothing more is wanted of it
		b.body = nil
	}
}

// Close ends the reading and lets go of the connection. It is idempotent, and
// needs not be called after an error or io.EOF.
func (b *Body) Close() error {
	if b.err == nil {
		b.err = os.ErrClosed
		b.drop(b.err)
		if b.release != nil {
			b.release()
		}
	}
	return nil
}

// connect makes a connection that goes on at the offset.
func (b *Body) connect() error {
	for {
		if b.lost != nil {
			if err := b.again(b.lost); err != nil {
				return err
			}
		}
		b.tries++
		b.total++
		if b.lost = b.request(); b.lost == nil {
			return nil
		}
	}
}

// again waits for the next try, or returns the error if there is none.
func (b *Body) again(err error) error {
	if !transient(b.ctx, err, b.Offset() > 0) {
		return err
	}
	if size := b.Size(); size >= 0 && b.Offset() > 0 {
		err = fmt.Errorf("%w after %d of %d bytes", bare(err), b.Offset(), size)
	}
	if b.total >= maxRequests {
		return fmt.Errorf("%w (%d requests)", bare(err), b.total)
	}
	return b.retry.again(b.ctx, b.tries, err)
}

func (b *Body) request() error {
	h := b.opts.Header.Clone()
	if h == nil {
		h = http.Header{}
	}
	if off := b.Offset(); off > 0 {
		h.Del("If-None-Match")
		h.Set("Range", rangeHeader(off))
		if c := b.version.condition(); c != "" && !b.opts.Immutable {
			h.Set("If-Range", c)
		}
	}
	resp, err := b.ask(b.ctx, h)
	if s := statusOf(err); s != nil && s.Code == http.StatusRequestedRangeNotSatisfiable && b.Offset() > 0 {
		return b.unsatisfied(s)
	}
	if err != nil {
		return err
	}
	if err := b.take(resp); err != nil {
		resp.Body.Close() // err is the one that counts
		return err
	}
	b.body = resp.Body
	return nil
}

// unsatisfied judges the answer that there is nothing after the offset. It is
// right where a connection broke between the last byte and the end of an
// answer of unknown length.
func (b *Body) unsatisfied(s *StatusError) error {
	r, ok := parseRange(s.Header.Get("Content-Range"))
	if ok && r.first < 0 && r.total == b.Offset() && b.Size() < 0 {
		b.size.Store(r.total)
		b.body, b.exact = http.NoBody, true
		return nil
	}
	return changed("it is shorter now")
}

// take checks that an answer goes on with the same file, and brings its body to the offset.
func (b *Body) take(resp *http.Response) error {
	v := versionOf(resp.Header)
	if b.begun && !b.opts.Immutable && b.version.differs(v) {
		return changed("its ETag or date is another one")
	}
	b.exact = resp.ContentLength >= 0
	var err error
	if resp.StatusCode == http.StatusPartialContent {
		err = b.takeRange(resp)
	} else {
		err = b.takeWhole(resp)
	}
	if err == nil && !b.begun {
		b.begun, b.version, b.header = true, v, resp.Header
	}
	return err
}

func (b *Body) takeRange(resp *http.Response) error {
	said := resp.Header.Get("Content-Range")
	r, ok := parseRange(said)
	switch off := b.Offset(); {
	case !ok, r.first != off, off == 0,
		b.exact && resp.ContentLength != r.last-r.first+1,
		r.total < 0 && b.Size() < 0: // nobody would know where it ends
		return banger.Errorf(banger.Invalid, "the server sends the range %.80q, asked for was byte %d and what follows", said, off)
	case r.total < 0:
		return nil
	}
	return b.takeSize(resp, r.total)
}

// takeWhole skips what has been read already: a server without ranges starts
// over. What is skipped must be what was read.
func (b *Body) takeWhole(resp *http.Response) error {
	if b.exact {
		if err := b.takeSize(resp, resp.ContentLength); err != nil {
			return err
		}
	}
	off := b.Offset()
	if off == 0 {
		return nil
	}
	var again maphash.Hash
	again.SetSeed(b.sum.Seed())
	if _, err := io.CopyN(&again, resp.Body, off); err == io.EOF {
		return io.ErrUnexpectedEOF
	} else if err != nil {
		return err
	}
	if again.Sum64() != b.sum.Sum64() {
		return changed("its bytes are other ones")
	}
	return nil
}

// takeSize notes the length of the whole file, which never changes.
func (b *Body) takeSize(resp *http.Response, n int64) error {
	switch known := b.Size(); {
	case known >= 0 && n != known && b.begun && b.opts.Size <= 0:
		return changed(fmt.Sprintf("%d bytes instead of %d", n, known))
	case known >= 0 && n != known:
		return wrongSize(resp, n, known)
	case b.opts.Max > 0 && n > b.opts.Max:
		return tooLong(b.opts.Max)
	}
	b.size.Store(n)
	return nil
}
