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
	// Stage is told each stage of the guest (hello.Boot, hello.Agent) when its
	// handshake is complete; at hello.Agent connections work. Fail is told why
	// pid 1 of the guest cannot go on, Lost how the session with the agent
	// broke, in printable and bounded text. They are called one at a time and
	// must not block for long. Each may be nil.
	Stage func(stage string)
	Fail  func(text string)
	Lost  func(text string)
	// Resume says that the guest was started by somebody before: it may be in
	// the middle of a session.
	Resume bool
	Log    *slog.Logger // nil: none

	slots   chan struct{}
	base    context.Context // from Start to Close
	cancel  context.CancelCauseFunc
	running sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	mux     *yamux.Session // nil while there is no session
	changed chan struct{}  // closed when mux changes
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

// errClosed is the cause of the end of what a Transport does.
var errClosed = errors.New("the transport is closed")

// Start begins to keep a session with the guest, until ctx ends or Close. It
// is called once, before Serve.
func (t *Transport) Start(ctx context.Context) {
	if t.Log == nil {
		t.Log = slog.New(slog.DiscardHandler)
	}
	t.changed = make(chan struct{})
	t.slots = make(chan struct{}, maxStreams)
	t.base, t.cancel = context.WithCancelCause(ctx)
	t.running.Go(func() { t.keep(t.base) })
}

// Close ends the session and every Serve and waits for all that they started.
// It may be called again.
func (t *Transport) Close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.cancel(errClosed)
	t.running.Wait()
}

// Serve answers connections to l until ctx ends or Close; then it closes l and
// its connections, waits for them, and returns the cause.
func (t *Transport) Serve(ctx context.Context, l net.Listener) error {
	defer l.Close()
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return errClosed
	}
	t.running.Add(1)
	t.mu.Unlock()
	defer t.running.Done()

	ctx, cancel := context.WithCancelCause(ctx)
	defer context.AfterFunc(t.base, func() { cancel(context.Cause(t.base)) })()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	var connections sync.WaitGroup
	defer connections.Wait()
	defer cancel(nil)
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
			connections.Go(func() {
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
				tell(t.Stage, stage)
			}
		},
		Fail: func(msg string) { tell(t.Fail, clean(msg)) },
	}
}

func tell(f func(string), text string) {
	if f != nil {
		f(text)
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
	mux, err := yamux.Client(&link{c, guard}, muxConfig())
	if err != nil {
		return err
	}
	defer mux.Close()
	t.set(mux)
	tell(t.Stage, hello.Agent)
	select {
	case <-ctx.Done():
	case <-mux.CloseChan():
	}
	t.set(nil)
	mux.Close() // waits for its reader
	if ctx.Err() == nil {
		tell(t.Lost, clean(guard.reason()))
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
}

func (l *link) Read(p []byte) (int, error) { return l.r.Read(p) }

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
