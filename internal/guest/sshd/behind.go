package sshd

import "io"

// behind writes in a goroutine of its own, in pieces of one size, while its
// caller makes the next piece.
type behind struct {
	full  chan []byte // to be written
	free  chan []byte
	cur   []byte
	ended chan struct{} // closed when nothing more is written
	err   error         // why; to be read after ended
}

// writeBehind begins to write what it will be given to w, which belongs to it
// until it is closed.
func writeBehind(w io.Writer, size int) *behind {
	const pieces = 2 // one is written while the other one is filled
	b := &behind{full: make(chan []byte, pieces), free: make(chan []byte, pieces), ended: make(chan struct{})}
	for range pieces {
		b.free <- make([]byte, 0, size)
	}
	go b.run(w)
	return b
}

func (b *behind) run(w io.Writer) {
	defer close(b.ended)
	for piece := range b.full {
		if _, b.err = w.Write(piece); b.err != nil {
			return
		}
		b.free <- piece[:0]
	}
}

// Write takes over p. An error is that of an earlier piece.
func (b *behind) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		if b.cur == nil {
			select {
			case b.cur = <-b.free:
			case <-b.ended:
				return done, b.err
			}
		}
		n := copy(b.cur[len(b.cur):cap(b.cur)], p[done:])
		b.cur = b.cur[:len(b.cur)+n]
		done += n
		if len(b.cur) == cap(b.cur) {
			b.full <- b.cur // there is room for all that were free
			b.cur = nil
		}
	}
	return done, nil
}

// Close writes what is left, and waits until all is written or a write failed.
func (b *behind) Close() error {
	if len(b.cur) > 0 {
		b.full <- b.cur
	}
	close(b.full)
	<-b.ended
	return b.err
}
