package kernelcat

import (
	"io"
	"sync"
)

// The buffers of a readAhead: larger ones do not fit the processor's caches.
const (
	aheadSize  = 256 << 10
	aheadCount = 4
)

// readAhead reads from r in a goroutine of its own, so that unpacking an
// archive goes on while what came out of it is written.
type readAhead struct {
	free, full chan []byte // buffers
	last       error       // of r, once full is closed
	now        []byte      // the buffer being read from, nil for none
	rest       []byte      // what is left to be read of it
	stop       chan struct{}
	ended      sync.WaitGroup
}

func newReadAhead(r io.Reader) *readAhead {
	a := &readAhead{free: make(chan []byte, aheadCount), full: make(chan []byte, aheadCount), stop: make(chan struct{})}
	for range aheadCount {
		a.free <- make([]byte, aheadSize)
	}
	a.ended.Go(func() { a.run(r) })
	return a
}

func (a *readAhead) run(r io.Reader) {
	defer close(a.full)
	for a.last == nil {
		var p []byte
		select {
		case p = <-a.free:
		case <-a.stop:
			return
		}
		n := 0
		for n < len(p) && a.last == nil {
			var m int
			m, a.last = r.Read(p[n:])
			n += m
		}
		a.full <- p[:n]
	}
}

func (a *readAhead) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if a.now != nil {
			a.free <- a.now[:aheadSize]
			a.now = nil
		}
		b, ok := <-a.full
		if !ok {
			return 0, a.last
		}
		a.now, a.rest = b, b
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// Close ends the reading, once a Read of r that is under way is over. No Read
// may follow.
func (a *readAhead) Close() error {
	close(a.stop)
	a.ended.Wait()
	return nil
}
