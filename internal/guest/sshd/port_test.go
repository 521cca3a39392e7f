package sshd

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/hello"
)

func TestOpenPortWaits(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := OpenPort(ctx, "banger.test"); !errors.Is(err, os.ErrNotExist) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// The master of a terminal stands in for the port: as long as nobody has the
// other side open, poll gives POLLHUP there too.
func TestWaitHost(t *testing.T) {
	tt, err := openTTY()
	if err != nil {
		t.Fatal(err)
	}
	port, err := newPort(tt.master)
	if err != nil {
		t.Fatal(err)
	}
	defer port.Close()
	if err := port.WaitHost(t.Context()); err != nil { // connected
		t.Fatal(err)
	}
	tt.slave.Close()
	why := errors.New("enough")
	for range 2 { // the wake-up of the first is gone at the second
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(30*time.Millisecond, func() { cancel(why) })
		began := time.Now()
		if err := port.WaitHost(ctx); !errors.Is(err, why) || time.Since(began) < 20*time.Millisecond {
			t.Errorf("got %v after %v", err, time.Since(began))
		}
	}
	done := make(chan error)
	go func() { done <- port.WaitHost(t.Context()) }()
	slave, err := os.OpenFile(tt.name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	_, _ = io.WriteString(slave, "hello\n")
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A port is tried again while it comes up, and while the agent before this one
// still holds it.
func TestKeepTrying(t *testing.T) {
	dev, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	soon := []error{os.ErrNotExist, &os.PathError{Op: "open", Path: "/dev/vport0p1", Err: unix.ENXIO}, &os.PathError{Op: "open", Path: "/dev/vport0p1", Err: unix.EBUSY}}
	tries := 0
	try := func() (*os.File, error) {
		if tries++; tries <= len(soon) {
			return nil, soon[tries-1]
		}
		return dev, nil
	}
	if f, err := keepTrying(t.Context(), try); err != nil || f != dev || tries != len(soon)+1 {
		t.Errorf("got %v, %v after %d tries", f, err, tries)
	}
	tries = 0
	if _, err := keepTrying(t.Context(), func() (*os.File, error) { tries++; return nil, unix.EACCES }); !errors.Is(err, unix.EACCES) || tries != 1 {
		t.Errorf("got %v after %d tries", err, tries)
	}
}

// comingPort is a port whose hosts come one by one. A read gives EOF at once
// while there is none, as the driver has it.
type comingPort struct {
	net.Conn
	hosts chan net.Conn
	waits int
}

func (p *comingPort) WaitHost(ctx context.Context) error {
	p.waits++
	select {
	case p.Conn = <-p.hosts:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// goneHost is one that has left at once.
type goneHost struct{ net.Conn }

func (goneHost) Read([]byte) (int, error)    { return 0, io.EOF }
func (goneHost) Write(p []byte) (int, error) { return len(p), nil }

// EOF means that no host is there, not that none will be: the agent sleeps until
// the next one comes, and says hello anew.
func TestAskWithoutHost(t *testing.T) {
	here, wire := pair(t)
	p := &comingPort{hosts: make(chan net.Conn, 3)}
	for _, host := range []net.Conn{goneHost{here}, goneHost{here}, here} {
		p.hosts <- host
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	answered := make(chan error, 1)
	go func() {
		h := &hello.Host{Config: func(context.Context, string) (hello.Config, error) { return hello.Config{ID: "cafe"}, nil }}
		_, err := h.Answer(ctx, wire)
		answered <- err
	}()
	cfg, _, err := Ask(t.Context(), p, hello.Agent)
	if err != nil {
		cancel(err) // nobody speaks to the host
	}
	if err != nil || cfg.ID != "cafe" || p.waits != 3 {
		t.Errorf("got %+v, %v after %d waits", cfg, err, p.waits)
	}
	if err := <-answered; err != nil {
		t.Error(err)
	}
	why := errors.New("enough")
	cancel(why)
	if _, _, err := Ask(ctx, p, hello.Agent); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
}
