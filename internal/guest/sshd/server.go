// Package sshd is the SSH server that runs in the guest.
//
// It is reached through one raw port (see package hello): a handshake, then a
// yamux session in which each stream begins with the line "CONNECT 22", as on
// Firecracker's vsock. When the host goes away or starts anew, the session and
// everything in it ends and the handshake begins again.
package sshd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"

	"banger/internal/hello"
)

// Server is the guest's agent. The zero value of each field is usable.
type Server struct {
	Version string // of banger-guest, for the health answer
	Init    string // what runs as pid 1, for the health answer
	// Ready tells whether the machine's init has finished. Nil: always.
	Ready func() bool
	// Shutdown starts to power the machine off or to reboot it, as how is
	// hello.Poweroff or hello.Reboot, and returns. Nil: refused.
	Shutdown func(how string) error
	// Look says what is in the place of something that a client waits for, in a
	// few words; none mean that it is there. nil: there is no way to know.
	Look func(ctx context.Context, want string) (seen string, err error)
	// Greeted is told that a host has answered. nil: nobody wants to know.
	Greeted func()
	// SetClock sets the machine's clock. nil: it has no way to.
	SetClock func(now time.Time) error
	// Grow lets the file system of the machine's own disk have all of it. nil: it
	// has no way to.
	Grow func() error
	// Mount mounts a folder of the host, which serves it as 9P2000.L on the other
	// end of stream. What it returns is closed once the stream is of no use to it
	// any more. With an error it has let go of it. nil: it has no way to.
	Mount func(m hello.Mount, stream net.Conn) (over <-chan struct{}, err error)
	// SFTP is the command line that runs SFTP on its stdin and stdout, for
	// logins of another user than the agent's. Nil: refused for those.
	SFTP []string
	// Copy is the command line that runs ServeCopy, for copies as another user
	// than the agent's. Nil: refused for those.
	Copy []string
	// Launch is the command line that runs Launch, in front of its arguments: once
	// a folder of the host is mounted, programs are started by it. Nil: they never are.
	Launch []string
	Etc    string       // the directory of passwd and group; empty: /etc
	Log    *slog.Logger // nil: none

	grace    time.Duration   // zero is hangUpGrace
	drain    time.Duration   // zero is drainMax
	ending   <-chan struct{} // closed when Serve is to return
	running  sync.WaitGroup  // streams, and processes of sessions
	forkLock sync.Mutex      // see startCalm
	mounted  atomic.Bool     // a folder of the host is, or is about to be

	ticketLock sync.Mutex
	tickets    map[string]*ticket // orders that wait for their stream, by token

	jobLock sync.Mutex
	jobs    []*job // programs that were detached, the oldest first
}

// Port is the raw port to the host.
type Port interface {
	hello.Stream
	// WaitHost waits until a host is connected. Ports that cannot tell return
	// at once.
	WaitHost(ctx context.Context) error
}

// helloWait bounds how long a stream may take to say where it goes.
const helloWait = 10 * time.Second

// Ask says hello on the port, for as many hosts as come and go, until one has
// answered. See hello.Ask.
func Ask(ctx context.Context, port Port, stage string) (hello.Config, hello.Stream, error) {
	for {
		if err := port.WaitHost(ctx); err != nil {
			return hello.Config{}, nil, err
		}
		cfg, st, err := hello.Ask(ctx, port, stage)
		if !errors.Is(err, io.EOF) || ctx.Err() != nil {
			return cfg, st, err
		}
	}
}

// Serve serves one host after the other on the port until ctx ends, whose
// cause it returns, or the port breaks. It returns when all that it started
// has ended.
func (s *Server) Serve(ctx context.Context, port Port) error {
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.ending = ctx.Done()
	defer s.running.Wait()
	defer s.endJobs()
	defer cancel(nil) // before that wait
	catchIgnored()
	defer protect()()
	for {
		cfg, st, err := Ask(ctx, port, hello.Agent)
		if err != nil {
			return err
		}
		s.Log.Debug("host is there", "id", cfg.ID)
		if s.Greeted != nil {
			s.Greeted()
		}
		err = s.session(ctx, cfg, st)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		s.Log.Debug("host is gone", "err", err)
	}
}

// session serves one host until it goes away. It does not wait for what it
// started: a new host is not to suffer from a process that ends slowly.
func (s *Server) session(ctx context.Context, cfg hello.Config, st hello.Stream) error {
	id, err := newIdentity(cfg)
	if err != nil {
		s.Log.Error("use the configuration", "err", err) // and refuse each connection: the host sees why
	}
	mux, err := yamux.Server(&link{st, hello.Guard(st, true), hello.Join(st)}, muxConfig())
	if err != nil {
		return err
	}
	defer mux.Close()
	for {
		c, err := mux.AcceptStreamWithContext(ctx)
		if err != nil {
			return err
		}
		s.running.Go(func() {
			defer c.Close()
			if err := s.stream(&chunked{c}, id); err != nil {
				s.Log.Debug("stream ended", "err", err)
			}
		})
	}
}

func muxConfig() *yamux.Config {
	c := yamux.DefaultConfig()
	c.EnableKeepAlive = false // a machine that is paused must not lose its connections
	c.ConnectionWriteTimeout = 24 * time.Hour
	c.MaxStreamWindowSize = 4 << 20
	c.LogOutput = io.Discard
	return c
}

// stream answers the CONNECT line of one stream and hands it to its service.
func (s *Server) stream(c net.Conn, id *identity) error {
	if err := c.SetDeadline(time.Now().Add(helloWait)); err != nil {
		return err
	}
	port, err := hello.ReadConnect(c)
	if err != nil {
		return err
	}
	switch port {
	case hello.SSHPort:
		if _, err := fmt.Fprintf(c, "OK %d\n", port); err != nil {
			return err
		}
		return s.ssh(c, id)
	case hello.DataPort:
		if _, err := fmt.Fprintf(c, "OK %d\n", port); err != nil {
			return err
		}
		return s.data(c)
	default: // closed without an answer, as Firecracker does
		return fmt.Errorf("connect to port %d: nothing there", port)
	}
}

// link is the port as a yamux session sees it. Close ends the session's reads
// and writes but keeps the port open: it can be opened only once.
type link struct {
	hello.Stream
	guard  io.Reader
	frames io.Writer
}

func (l *link) Read(p []byte) (int, error)  { return l.guard.Read(p) }
func (l *link) Write(p []byte) (int, error) { return l.frames.Write(p) }

func (l *link) Close() error {
	past := time.Unix(1, 0)
	return errors.Join(l.SetReadDeadline(past), l.SetWriteDeadline(past))
}

// chunked keeps the frames of a stream short. See hello.MaxFrame.
type chunked struct{ net.Conn }

func (c *chunked) Write(p []byte) (int, error) { return hello.Chunk(c.Conn, p) }
