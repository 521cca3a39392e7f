package oci

import "io"

// ahead reads on, in a goroutine of its own, while what came before is worked on.
// It gives out what has come, and does not wait for more.
type ahead struct {
	full   chan piece  // read, in order; closed when the goroutine has ended
	free   chan []byte // to be read into
	stop   chan struct{}
	closed bool
	cur    piece
	rest   []byte // of cur, not given out yet
}

// piece is some of the stream, and the error that came with it.
type piece struct {
	data []byte
	err  error
}

// How far a stream is read ahead: each of its two goroutines has a buffer while
// one waits.
const (
	aheadBuffers = 3
	aheadSize    = 128 << 10
)

// readAhead begins to read r, which belongs to it until it is closed.
func readAhead(r io.Reader) *ahead {
	a := &ahead{full: make(chan piece, aheadBuffers), free: make(chan []byte, aheadBuffers), stop: make(chan struct{})}
	for range aheadBuffers {
		a.free <- make([]byte, aheadSize)
	}
	go a.run(r)
	return a
}

func (a *ahead) run(r io.Reader) {
	defer close(a.full)
	for {
		var p piece
		select {
		case buf := <-a.free:
			p = a.fill(r, buf)
		case <-a.stop:
			return
		}
		a.full <- p // there is room for all that were free
		if p.err != nil {
			return
		}
	}
}

// fill reads into a buffer until it is full, or the other side has nothing to do.
func (a *ahead) fill(r io.Reader, buf []byte) piece {
	var p piece
	for len(p.data) < len(buf) && p.err == nil && (len(p.data) == 0 || len(a.full) > 0) {
		var n int
		n, p.err = r.Read(buf[len(p.data):])
		p.data = buf[:len(p.data)+n]
	}
	return p
}

// Read gives out what has been read; after Close it does not.
func (a *ahead) Read(b []byte) (int, error) {
	for len(a.rest) == 0 {
		if a.cur.err != nil {
			return 0, a.cur.err
		}
		if a.cur.data != nil {
			a.free <- a.cur.data[:aheadSize]
		}
		next, ok := <-a.full
		if !ok {
			next.err = io.ErrClosedPipe
		}
		a.cur, a.rest = next, next.data
	}
	n := copy(b, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// Close ends the goroutine, once the Read that it is in has returned. It is
// idempotent, and for the goroutine that reads.
func (a *ahead) Close() {
	if !a.closed {
		a.closed = true
		close(a.stop)
	}
	for range a.full { // until it has ended
	}
}
