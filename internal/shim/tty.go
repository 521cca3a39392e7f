package shim

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"banger/internal/state"
)

// Limits of who sits at the serial console.
const (
	maxViewers = 8
	// viewerQueue is how many writes of the guest a viewer may be behind; what
	// is more is lost to it. The guest never waits.
	viewerQueue = 256
	viewerWait  = 5 * time.Second // for a viewer to take one
)

// tty joins the clients of a socket to the serial console: each gets what the
// guest says from then on, and what any of them writes is typed.
type tty struct {
	listener net.Listener
	input    *os.File // where the VMM reads what is typed; also one after a reboot
	keys     *os.File // the other end

	mu      sync.Mutex
	viewers map[net.Conn]chan []byte // nil once closed
	running sync.WaitGroup
}

// openTTY makes the socket, in the machine's run directory.
func openTTY(dir string) (*tty, error) {
	path := filepath.Join(dir, state.TTYSocket)
	_ = os.Remove(path) // of an earlier run whose shim was killed
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen for the console's viewers: %w", err)
	}
	t := &tty{listener: l, viewers: map[net.Conn]chan []byte{}}
	if t.input, t.keys, err = os.Pipe(); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("make the console's keyboard: %w", err)
	}
	t.running.Go(t.serve)
	return t, nil
}

// Write shows what the guest says. It never fails and never waits.
func (t *tty) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var b []byte
	for _, queue := range t.viewers {
		if b == nil {
			b = slices.Clone(p)
		}
		select {
		case queue <- b:
		default:
		}
	}
	return len(p), nil
}

// serve takes clients until close.
func (t *tty) serve() {
	for {
		c, err := t.listener.Accept()
		if err != nil {
			return
		}
		t.mu.Lock()
		if t.viewers == nil || len(t.viewers) >= maxViewers {
			_ = c.Close()
		} else {
			queue := make(chan []byte, viewerQueue)
			t.viewers[c] = queue
			t.running.Go(func() { t.show(c, queue) })
			t.running.Go(func() { t.typed(c) })
		}
		t.mu.Unlock()
	}
}

func (t *tty) show(c net.Conn, queue <-chan []byte) {
	for b := range queue {
		_ = c.SetWriteDeadline(time.Now().Add(viewerWait))
		if _, err := c.Write(b); err != nil {
			break
		}
	}
	_ = c.Close() // and so typed ends
}

func (t *tty) typed(c net.Conn) {
	_, _ = io.Copy(struct{ io.Writer }{t.keys}, c)
	t.mu.Lock()
	defer t.mu.Unlock()
	if queue, ok := t.viewers[c]; ok {
		delete(t.viewers, c)
		close(queue)
	}
}

// close ends all clients. What the guest said before is shown to them.
func (t *tty) close() {
	_ = t.listener.Close()
	_ = t.keys.Close()
	_ = t.input.Close()
	t.mu.Lock()
	left := t.viewers
	t.viewers = nil
	for _, queue := range left {
		close(queue)
	}
	t.mu.Unlock()
	defer time.AfterFunc(viewerWait, func() {
		for c := range left {
			_ = c.Close()
		}
	}).Stop()
	t.running.Wait()
}
