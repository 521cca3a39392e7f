package hello

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// readSize is one read: a virtio-serial port gives at most 4 KiB at a time.
const readSize = 4 << 10

// past is a deadline that has gone by: it ends a read or write that waits.
var past = time.Unix(1, 0)

// lines cuts a stream into lines. What was read beyond the last line that was
// taken stays in buf, across timeouts too.
type lines struct {
	s    Stream
	max  int // of a line, with its newline
	buf  []byte
	skip bool // inside a line that is too long
}

// take gives the next line that is wholly in the buffer, without its newline.
// Lines that are empty or too long are left out.
func (l *lines) take() (string, bool) {
	for {
		i := bytes.IndexByte(l.buf, '\n')
		if i < 0 {
			if len(l.buf) >= l.max {
				l.buf, l.skip = l.buf[:0], true
			}
			return "", false
		}
		line := l.buf[:i]
		l.buf = l.buf[i+1:]
		if l.skip || i == 0 || i >= l.max {
			l.skip = false
			continue
		}
		return string(line), true
	}
}

// next waits for a line until the time given; zero is for ever. The error of a
// time that went by is os.ErrDeadlineExceeded, of a ctx that ended its cause.
func (l *lines) next(ctx context.Context, until time.Time) (string, error) {
	for {
		if line, ok := l.take(); ok {
			return line, nil
		}
		if err := l.s.SetReadDeadline(until); err != nil {
			return "", err
		}
		if ctx.Err() != nil { // after the deadline was set: see watch
			return "", context.Cause(ctx)
		}
		n := len(l.buf)
		l.buf = append(l.buf, make([]byte, readSize)...)
		m, err := l.s.Read(l.buf[n:])
		l.buf = l.buf[:n+m]
		if m > 0 {
			continue
		}
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		if err != nil {
			return "", err
		}
	}
}

// send writes one line, a newline in front of it, behind the filler if asked.
func send(ctx context.Context, s Stream, until time.Time, filler bool, words ...string) error {
	var b bytes.Buffer
	if filler {
		b.Write(bytes.Repeat([]byte{'\n'}, fillerSize))
	}
	fmt.Fprintf(&b, "\n%s %s\n", magic, strings.Join(words, " "))
	if err := s.SetWriteDeadline(until); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if _, err := s.Write(b.Bytes()); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	return nil
}

// fillerSize ends every frame that may be under way: its data and its header.
const fillerSize = MaxFrame + 64

// watch makes every wait on s end when ctx does. Waits check ctx after they
// have set their own deadline, so none slips through. The function it returns
// ends the watch and takes the deadlines away.
func watch(ctx context.Context, s Stream) (done func()) {
	over := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(over)
		_ = s.SetReadDeadline(past)
		_ = s.SetWriteDeadline(past)
	})
	return func() {
		if !stop() {
			<-over
		}
		_ = s.SetReadDeadline(time.Time{})
		_ = s.SetWriteDeadline(time.Time{})
	}
}

// words splits a line of ours after its magic into at most n words.
func words(line string, n int) []string {
	rest, ok := strings.CutPrefix(line, magic+" ")
	if !ok {
		return nil
	}
	return strings.SplitN(rest, " ", n)
}

// isNonce reports whether w has the form of a nonce: 16 hex digits.
func isNonce(w string) bool {
	_, err := hex.DecodeString(w)
	return err == nil && len(w) == 16
}

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// session is the stream after the handshake: first what was read already.
type session struct {
	Stream
	rest []byte
}

func (s *session) Read(p []byte) (int, error) {
	if len(s.rest) > 0 {
		n := copy(p, s.rest)
		s.rest = s.rest[n:]
		return n, nil
	}
	return s.Stream.Read(p)
}
