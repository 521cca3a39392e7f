package hello

import (
	"encoding/binary"
	"fmt"
	"io"
)

// yamux frames: version, type, flags (2), stream id (4), length (4), then for
// a data frame that many bytes. See spec.md of github.com/hashicorp/yamux.
const (
	headerSize = 12
	typeAt     = 1
	flagsAt    = 2
	lengthAt   = 8

	typeData   = 0
	typeWindow = 1
	typeGoAway = 3
	flagSYN    = 1
)

// Guard checks the yamux frames that are read from r and ends with an error at
// one that neither side of ours sends: of a foreign version, with more than
// MaxFrame bytes of data, a ping (yamux answers each from a goroutine of its
// own, without bound), and where opens is false a stream that the peer opens.
// Without it, also, half a header that a dead session left behind could be
// completed by a hello to a frame of hundreds of megabytes.
func Guard(r io.Reader, opens bool) io.Reader { return &guard{r: r, opens: opens} }

type guard struct {
	r     io.Reader
	opens bool
	head  [headerSize]byte
	have  int    // bytes of head
	body  uint32 // bytes of data still to come
	err   error
}

func (g *guard) Read(p []byte) (int, error) {
	if g.err != nil {
		return 0, g.err
	}
	n, err := g.r.Read(p)
	if g.err = g.check(p[:n]); g.err != nil {
		return 0, g.err
	}
	return n, err
}

func (g *guard) check(p []byte) error {
	for len(p) > 0 {
		if g.body > 0 {
			n := min(int(g.body), len(p))
			g.body, p = g.body-uint32(n), p[n:]
			continue
		}
		n := copy(g.head[g.have:], p)
		g.have, p = g.have+n, p[n:]
		if g.head[0] != 0 {
			return fmt.Errorf("read a frame: version %d", g.head[0])
		}
		if g.have < headerSize {
			continue
		}
		g.have = 0
		size := binary.BigEndian.Uint32(g.head[lengthAt:])
		switch t := g.head[typeAt]; {
		case t != typeData && t != typeWindow && t != typeGoAway:
			return fmt.Errorf("read a frame: type %d", t)
		case g.head[flagsAt+1]&flagSYN != 0 && !g.opens:
			return fmt.Errorf("read a frame: the peer opens a stream")
		case t == typeData && size > MaxFrame:
			return fmt.Errorf("read a frame: %d bytes of data, more than %d", size, MaxFrame)
		case t == typeData:
			g.body = size
		}
	}
	return nil
}

// Chunk writes to w in pieces of at most MaxFrame bytes, so that a yamux
// stream makes no longer frames of them.
func Chunk(w io.Writer, p []byte) (int, error) {
	done := 0
	for {
		n, err := w.Write(p[done:min(len(p), done+MaxFrame)])
		done += n
		if err != nil || done >= len(p) {
			return done, err
		}
	}
}
