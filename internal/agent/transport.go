// Package agent is the host's side of the guest agent: transport, SSH client, exec.
//
// Everything that comes from the guest is untrusted: it is bounded here, and
// its texts are made printable before they go into an error.
package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"banger/internal/hello"
)

// Transport shows the guest's one raw port as Firecracker's CONNECT socket:
// each connection to the socket becomes one stream to the guest.
type Transport struct {
	// Dial connects to the raw port. It is called again whenever the session
	// with the guest broke.
	Dial func(ctx context.Context) (net.Conn, error)
	// Config makes what the guest is told at each hello.
	Config func(ctx context.Context, stage string) (hello.Config, error)
	// Event is told what happens, one event at a time; it must not block for
	// long. May be nil.
	Event func(Event)
	// Resume says that the guest was started by somebody before: it may be in
	// the middle of a session.
	Resume bool
	Log    *slog.Logger // nil: none

	slots chan struct{}

	mu      sync.Mutex
	mux     *yamux.Session // nil while there is no session
	changed chan struct{}  // closed when mux changes
}

// EventKind says what has happened.
type EventKind string

// The kinds of events.
const (
	Booting EventKind = "booting" // pid 1 of the guest has its configuration
	Ready   EventKind = "ready"   // the agent answers: connections work
	Lost    EventKind = "lost"    // the session with the agent broke; Text says how
	Failed  EventKind = "failed"  // pid 1 of the guest cannot go on; Text says why
)

// Event is one thing that happened to the guest.
type Event struct {
	Kind EventKind
	Text string // printable, bounded; from the guest if Failed
}

// Limits of the transport.
const (
	// maxStreams bounds the connections at a time. yamux has room for 256 that
	// the guest has not answered, and blocks for ever beyond.
	maxStreams = 200
	// window is what a stream may hold for a client that does not read: the
	// memory that the guest can make the host use is maxStreams of it.
	window = 1 << 20
	// lineWait bounds how long a client may take to say its CONNECT.
	lineWait = 10 * time.Second
	// answerWait bounds how long the guest may take to answer one: it may be
	// starved of CPU, but one that is stopped must not hang a client for ever.
	answerWait = 20 * time.Second
	// sessionWait bounds how long a CONNECT waits for the agent to come up.
	sessionWait = 30 * time.Second
)

// The pause before the next try to reach the guest doubles while tries fail or
// their sessions break at once: no event tells when a machine monitor listens
// again, and a hostile guest must not keep the host busy.
const (
	firstPause = 5 * time.Millisecond
	lastPause  = time.Second
)

// Serve answers connections to l and keeps the session with the guest, anew
// whenever it breaks, until ctx ends; then it closes l and all connections,
// waits for all that it started, and returns the cause of ctx. A Transport
// serves once.
func (t *Transport) Serve(ctx context.Context, l net.Listener) error {
	if t.Log == nil {
		t.Log = slog.New(slog.DiscardHandler)
	}
	t.changed = make(chan struct{})
	t.slots = make(chan struct{}, maxStreams)
	ctx, cancel := context.WithCancelCause(ctx)
	defer context.AfterFunc(ctx, func() { l.Close() })()
	defer l.Close()
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel(nil)
	running.Go(func() { t.keep(ctx) })
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return err
		}
		select {
		case t.slots <- struct{}{}:
			running.Go(func() {
				defer func() { <-t.slots }()
				if err := t.connection(ctx, c); err != nil {
					t.Log.Debug("connection ended", "err", err)
				}
			})
		default:
			c.Close()
		}
	}
}

// keep keeps a session with the guest up until ctx ends.
func (t *Transport) keep(ctx context.Context) {
	pause := firstPause
	for host := t.host(); ; host.Resume = true {
		began := time.Now()
		err := t.session(ctx, host)
		if ctx.Err() != nil {
			return
		}
		t.Log.Debug("session ended", "err", err)
		if time.Since(began) > lastPause {
			pause = firstPause
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
			pause = min(2*pause, lastPause)
		}
	}
}

func (t *Transport) host() *hello.Host {
	return &hello.Host{
		Config: t.Config,
		Resume: t.Resume,
		Done: func(stage string) {
			if stage == hello.Boot { // the agent counts when it can be reached
				t.event(Booting, "")
			}
		},
		Fail: func(msg string) { t.event(Failed, clean(msg)) },
	}
}

func (t *Transport) event(kind EventKind, text string) {
	if t.Event != nil {
		t.Event(Event{kind, text})
	}
}

// session connects to the port and stays until the session broke.
func (t *Transport) session(ctx context.Context, host *hello.Host) error {
	c, err := t.Dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	st, err := host.Answer(ctx, c)
	if err != nil {
		return err
	}
	guard := &watched{r: hello.Guard(st, false)}
	mux, err := yamux.Client(&link{c, guard, hello.Join(c)}, muxConfig())
	if err != nil {
		return err
	}
	defer mux.Close()
	t.set(mux)
	t.event(Ready, "")
	select {
	case <-ctx.Done():
		// Its reader is to end first: from the start of a Close until yamux's
		// reader has ended, all who read from a stream spin, and starve it.
		c.Close()
		<-mux.CloseChan()
	case <-mux.CloseChan():
	}
	t.set(nil)
	mux.Close() // waits for its reader
	if ctx.Err() == nil {
		t.event(Lost, clean(guard.reason()))
	}
	return guard.err
}

func muxConfig() *yamux.Config {
	c := yamux.DefaultConfig()
	c.EnableKeepAlive = false // a machine that is paused must not lose its connections
	c.ConnectionWriteTimeout = 24 * time.Hour
	c.StreamOpenTimeout = 0 // it would end the whole session
	c.MaxStreamWindowSize = window
	c.LogOutput = io.Discard
	return c
}

func (t *Transport) set(mux *yamux.Session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mux = mux
	close(t.changed)
	t.changed = make(chan struct{})
}

// errNoSession says that the guest's agent is not there.
var errNoSession = errors.New("the guest's agent does not answer")

// wait waits for a session.
func (t *Transport) wait(ctx context.Context) (*yamux.Session, error) {
	limit := time.NewTimer(sessionWait)
	defer limit.Stop()
	for {
		t.mu.Lock()
		mux, changed := t.mux, t.changed
		t.mu.Unlock()
		if mux != nil && !mux.IsClosed() {
			return mux, nil
		}
		select {
		case <-changed:
		case <-limit.C:
			return nil, errNoSession
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// link is the raw port as a yamux session sees it.
type link struct {
	net.Conn
	r io.Reader
	w io.Writer
}

func (l *link) Read(p []byte) (int, error)  { return l.r.Read(p) }
func (l *link) Write(p []byte) (int, error) { return l.w.Write(p) }

// watched remembers what ended the reading. Its error may be looked at when
// the reader is done.
type watched struct {
	r   io.Reader
	err error
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if err != nil && w.err == nil {
		w.err = err
	}
	return n, err
}

func (w *watched) reason() string {
	if w.err == nil || errors.Is(w.err, net.ErrClosed) || errors.Is(w.err, io.EOF) {
		return "the connection ended"
	}
	return w.err.Error()
}
