package hello

import (
	"encoding/binary"
	"io"
)

// FullFrame is the data of a frame that is 64 KiB with its header. Linux passes
// what is written to a port on in pieces of 32 KiB (drivers/char/virtio_console.c),
// and one more piece for a few bytes costs a guest as much as a large one.
const FullFrame = MaxFrame - headerSize

// Join gives a writer for a yamux session, which writes the header of a data
// frame and then its data: they go to w together. It is for one goroutine, as
// yamux has one that writes.
func Join(w io.Writer) io.Writer { return &joiner{w: w} }

type joiner struct {
	w    io.Writer
	held []byte // the header of a frame whose data come next
}

func (j *joiner) Write(p []byte) (int, error) {
	if len(j.held) > 0 {
		frame := append(j.held, p...)
		j.held = frame[:0]
		n, err := j.w.Write(frame)
		return max(0, n-headerSize), err
	}
	if len(p) == headerSize && p[typeAt] == typeData && binary.BigEndian.Uint32(p[lengthAt:]) > 0 {
		j.held = append(j.held, p...)
		return len(p), nil
	}
	return j.w.Write(p)
}
