package hello

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// lossy carries bytes between two sides, and on the way loses, repeats and
// invents some for as long as it has trouble left.
type lossy struct {
	mu      sync.Mutex
	rnd     *rand.Rand
	trouble int
}

func (l *lossy) mangle(p []byte) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.trouble == 0 || len(p) < 2 {
		return p
	}
	l.trouble--
	at := l.rnd.IntN(len(p))
	switch l.rnd.IntN(5) {
	case 0:
		return p[at:] // lost beginning
	case 1:
		return p[:at] // lost end
	case 2:
		return append(append([]byte{}, p...), p...) // twice
	case 3:
		return nil
	default:
		return append([]byte("\x00\x00\x00\x01garbage\nbanger1 go 0123456789abcdef\nbanger1"), p[at:]...)
	}
}

func (l *lossy) carry(to, from net.Conn) {
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		if err != nil {
			to.Close()
			return
		}
		if _, err := to.Write(l.mangle(buf[:n])); err != nil {
			return
		}
	}
}

// quick is a first wait for tests.
const quick = 30 * time.Millisecond

// TestLossy lets both sides find each other through trouble: neither may think
// itself in a session without the other.
func TestLossy(t *testing.T) {
	for seed := range uint64(40) {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			guest, g2 := pair(t)
			host, h2 := pair(t)
			l := &lossy{rnd: rand.New(rand.NewPCG(seed, 1)), trouble: 4}
			var wg sync.WaitGroup
			wg.Go(func() { l.carry(h2, g2) })
			wg.Go(func() { l.carry(g2, h2) })
			defer wg.Wait()
			defer guest.Close()
			defer host.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			wg.Go(func() { echoGuest(ctx, guest) })
			h := testHost(t)
			h.wait = quick
			for !pinged(ctx, t, h, host) { // the session broke: as new
				h.Resume = true
			}
		})
	}
}

// pinged reports whether the guest is in the session that the host is in.
func pinged(ctx context.Context, t *testing.T, h *Host, s Stream) bool {
	st, err := h.Answer(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Write([]byte("\x00ping")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	_ = st.SetReadDeadline(time.Now().Add(time.Second))
	_, err = io.ReadFull(st, b)
	return err == nil && string(b) == "\x00ping"
}

// echoGuest is in a session as long as frames come (a zero first), as a yamux
// server would, and says hello anew otherwise.
func echoGuest(ctx context.Context, s Stream) {
	for {
		_, st, err := ask(ctx, s, Agent, quick)
		if err != nil {
			return
		}
		b := make([]byte, 5)
		for {
			if _, err := io.ReadFull(st, b[:1]); err != nil {
				return
			}
			if b[0] != 0 {
				break // the host is not in a session
			}
			if _, err := io.ReadFull(st, b[1:]); err != nil {
				return
			}
			if _, err := st.Write(b); err != nil {
				return
			}
		}
	}
}

// fake is a stream that reads from a script and throws away what is written.
type fake struct{ io.Reader }

func (fake) Write(p []byte) (int, error)      { return len(p), nil }
func (fake) SetReadDeadline(time.Time) error  { return nil }
func (fake) SetWriteDeadline(time.Time) error { return nil }

func FuzzAnswer(f *testing.F) {
	f.Add([]byte("\nbanger1 hello 0123456789abcdef boot\nbanger1 go 0123456789abcdef\nbanger1 fail {\"message\":\"x\"}\n"))
	f.Add([]byte("banger1 hello 0123456789abcdef agent\nbanger1 hello"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h := testHost(t)
		h.Fail = func(m string) {
			if len(m) > MaxMessage {
				t.Errorf("%d bytes of failure", len(m))
			}
		}
		if _, err := h.Answer(t.Context(), fake{&script{b}}); err == nil {
			t.Error("a script cannot know the nonce")
		}
	})
}

func FuzzAsk(f *testing.F) {
	f.Add([]byte("banger1 reset\nbanger1 ok 0123456789abcdef 0123456789abcdef {}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, _, err := Ask(t.Context(), fake{&script{b}}, Agent); err == nil {
			t.Error("a script cannot know the nonce")
		}
	})
}

func FuzzGuard(f *testing.F) {
	f.Add([]byte(frame(0, 1, 3, "abc")))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := io.Copy(io.Discard, Guard(&script{b}, true))
		if n > int64(len(b)) || err == nil && n != int64(len(b)) {
			t.Errorf("%d of %d bytes, %v", n, len(b), err)
		}
	})
}

// script reads in small pieces and then ends.
type script struct{ b []byte }

func (s *script) Read(p []byte) (int, error) {
	if len(s.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), 5)], s.b)
	s.b = s.b[n:]
	return n, nil
}
