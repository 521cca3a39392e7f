package agent

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"banger/internal/guest/sshd"
	"banger/internal/hello"
)

func pair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	t.Cleanup(func() { ends[0].Close(); ends[1].Close() })
	return ends[0], ends[1]
}

// port plays the machine monitor: it carries bytes between the guest's port
// and one host at a time. A host that goes loses what was under way, and the
// guest is not told, the hardest case.
type port struct {
	t     testing.TB
	guest net.Conn // the guest's end
	far   net.Conn

	mu      sync.Mutex
	now     net.Conn // the host's side that is carried for
	carried sync.WaitGroup
}

func newPort(t testing.TB) *port {
	p := &port{t: t}
	p.guest, p.far = pair(t)
	return p
}

// dial is what Transport.Dial is.
func (p *port) dial(context.Context) (net.Conn, error) {
	p.cut()
	ours, theirs := pair(p.t)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = ours
	_ = p.far.SetDeadline(time.Time{})
	p.carried.Go(func() {
		_, _ = io.Copy(ours, p.far)
		ours.Close()
	})
	p.carried.Go(func() {
		_, _ = io.Copy(p.far, ours)
		_ = p.far.SetDeadline(time.Unix(1, 0)) // the host is gone
	})
	return theirs, nil
}

// cut takes the host's connection away.
func (p *port) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now != nil {
		p.now.Close()
		p.now = nil
	}
	_ = p.far.SetDeadline(time.Unix(1, 0))
	p.carried.Wait()
}

// WaitHost makes it a port of the guest: one that cannot tell.
type guestPort struct{ net.Conn }

func (guestPort) WaitHost(context.Context) error { return nil }

// rig is a transport, and what it takes to reach a guest through it.
type rig struct {
	look   func(context.Context, string) (string, error) // of the agent
	t      testing.TB
	port   *port
	tr     *Transport
	socket string
	opts   Options
	cfg    hello.Config
	events chan Event
	etc    string // of the guest
	mount  func(hello.Mount, net.Conn) (<-chan struct{}, error)
	stop   func() error // ends the transport
}

// newRig starts a transport. There is no guest yet.
func newRig(t testing.TB) *rig {
	t.Helper()
	private, public, err := NewHostKey()
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, port: newPort(t), socket: filepath.Join(t.TempDir(), "s"), events: make(chan Event, 100)}
	if r.opts.HostKey, _, _, _, err = ssh.ParseAuthorizedKey([]byte(public)); err != nil {
		t.Fatal(err)
	}
	if r.opts.Signer, err = LoadOrCreateUserKey(filepath.Join(t.TempDir(), "key")); err != nil {
		t.Fatal(err)
	}
	// The guest's root, as which programs run by default, is whoever runs the
	// tests: an agent that is not root can run them as itself alone.
	r.etc = t.TempDir()
	passwd := fmt.Sprintf("root:x:%d:%d::%s:/bin/sh\n", os.Getuid(), os.Getgid(), r.etc)
	if err := os.WriteFile(filepath.Join(r.etc, "passwd"), []byte(passwd), 0o600); err != nil {
		t.Fatal(err)
	}
	r.cfg = hello.Config{ID: "0123456789ab", HostKey: private, AuthorizedKeys: []string{string(ssh.MarshalAuthorizedKey(r.opts.Signer.PublicKey()))},
		Env: []string{"IMAGE=yes"}}
	l, err := net.Listen("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	r.tr = &Transport{
		Dial:   r.port.dial,
		Config: func(context.Context, string) (hello.Config, error) { return r.cfg, nil },
		Event:  func(e Event) { r.events <- e },
	}
	ctx, cancel := context.WithCancel(context.Background()) // ends in the clean-up, which t.Context would precede
	done := make(chan error, 1)
	go func() { done <- r.tr.Serve(ctx, l) }()
	r.stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(8 * time.Second):
			return fmt.Errorf("Serve does not return")
		}
	})
	t.Cleanup(func() {
		_ = r.stop()
		r.port.cut()
	})
	return r
}

// boot starts the guest's agent and waits until it is there.
func (r *rig) boot() (stop func()) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	srv := &sshd.Server{Version: "1.2.3", Init: "test\x1b[2J", Etc: r.etc, Look: r.look}
	srv.Mount = r.mount
	srv.Shutdown = func(how string) error { return fmt.Errorf("no \x07%s", how) }
	done := make(chan struct{})
	go func() { _ = srv.Serve(ctx, guestPort{r.port.guest}); close(done) }()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	r.t.Cleanup(stop)
	r.expect(Ready)
	return stop
}

// expect waits for an event of the kind.
func (r *rig) expect(kind EventKind) Event {
	r.t.Helper()
	for {
		select {
		case e := <-r.events:
			if e.Kind == kind {
				return e
			}
		case <-time.After(8 * time.Second):
			r.t.Fatalf("no event %s", kind)
		}
	}
}

func (r *rig) dial() *Client {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Second)
	defer cancel()
	c, err := Dial(ctx, r.socket, r.opts)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	return c
}

// run runs a program and gives its output.
func run(t testing.TB, c *Client, req Request) (string, string, Exit) {
	t.Helper()
	var out, errs bytes.Buffer
	req.Stdout, req.Stderr = &out, &errs
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	exit, err := c.Run(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), exit
}

// noLeaks checks at the end of the test that it left no goroutine.
func noLeaks(t testing.TB) {
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		for end := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				buf := make([]byte, 1<<20)
				all := string(buf[:runtime.Stack(buf, true)])
				t.Errorf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, strings.TrimSpace(all))
				return
			}
		}
	})
}
