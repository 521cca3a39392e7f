package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"banger"
	"banger/internal/hello"
)

func TestRun(t *testing.T) {
	noLeaks(t)
	r := newRig(t)
	r.boot()
	c := r.dial()
	for _, tc := range []struct {
		name      string
		req       Request
		out, errs string
		exit      Exit
	}{
		{"output", Request{Argv: []string{"sh", "-c", "echo out; echo err >&2; exit 42"}}, "out\n", "err\n", Exit{Code: 42}},
		{"stdin", Request{Argv: []string{"cat"}, Stdin: strings.NewReader("in")}, "in", "", Exit{}},
		{"no stdin", Request{Argv: []string{"cat"}}, "", "", Exit{}},
		{"environment", Request{Argv: []string{"sh", "-c", "echo $IMAGE $A; pwd"}, Env: []string{"A=b"}, Dir: "/usr"}, "yes b\n/usr\n", "", Exit{}},
		{"command", Request{Command: "echo a | tr a b"}, "b\n", "", Exit{}},
		{"killed", Request{Argv: []string{"sh", "-c", "kill -9 $$"}}, "", "", Exit{Code: 137, Signal: "KILL"}},
		{"killed by a signal of our own name", Request{Argv: []string{"sh", "-c", "kill -XCPU $$"}}, "", "", Exit{Code: 152, Signal: "XCPU@banger"}},
		{"not found", Request{Argv: []string{"/no/such"}}, "", "banger: run \"/no/such\": no such file\n", Exit{Code: 127}},
		{"terminal", Request{Argv: []string{"sh", "-c", "stty size; echo $TERM"}, TTY: true, Term: "vt52", Rows: 33, Cols: 99}, "33 99\r\nvt52\r\n", "", Exit{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out, errs, exit := run(t, c, tc.req)
			if out != tc.out || errs != tc.errs || exit != tc.exit {
				t.Errorf("got %q, %q, %+v", out, errs, exit)
			}
		})
	}
}

func TestRunBig(t *testing.T) {
	r := newRig(t)
	r.boot()
	c := r.dial()
	data := make([]byte, 4<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	out, _, _ := run(t, c, Request{Argv: []string{"cat"}, Stdin: bytes.NewReader(data)})
	if sha256.Sum256([]byte(out)) != sha256.Sum256(data) {
		t.Errorf("got %d bytes", len(out))
	}
	_, err := c.Run(t.Context(), Request{Argv: []string{"echo", strings.Repeat("x", hello.MaxExec)}})
	if !banger.IsKind(err, banger.Invalid) {
		t.Errorf("too long: %v", err)
	}
	if out, _, _ := run(t, c, Request{Argv: []string{"echo", strings.Repeat("x", 100<<10)}}); len(out) != 100<<10+1 {
		t.Errorf("long: got %d bytes", len(out))
	}
}

// started is a writer that tells of the first bytes.
type started struct {
	once sync.Once
	ch   chan struct{}
	b    bytes.Buffer
}

func (s *started) Write(p []byte) (int, error) {
	s.once.Do(func() { close(s.ch) })
	return s.b.Write(p)
}

// then does fn after the first bytes, if they come before the test ends.
func (s *started) then(t *testing.T, fn func()) {
	go func() {
		select {
		case <-s.ch:
			fn()
		case <-t.Context().Done():
		}
	}()
}

func TestRunSignalsAndResize(t *testing.T) {
	noLeaks(t)
	r := newRig(t)
	r.boot()
	c := r.dial()
	out := &started{ch: make(chan struct{})}
	signals, resize := make(chan os.Signal, 1), make(chan WindowSize, 1)
	out.then(t, func() {
		resize <- WindowSize{Rows: 44, Cols: 111}
		close(resize)
	})
	exit, err := c.Run(t.Context(), Request{
		Argv: []string{"bash", "-c", "trap 'stty size; exit 3' WINCH; echo ready; while :; do sleep 0.02; done"}, TTY: true, Rows: 1, Cols: 1,
		Stdout: out, Signals: signals, Resize: resize,
	})
	if err != nil || exit.Code != 3 || !strings.Contains(out.b.String(), "44 111") {
		t.Errorf("got %q, %+v, %v", out.b.String(), exit, err)
	}
	out = &started{ch: make(chan struct{})}
	out.then(t, func() { signals <- syscall.SIGTERM })
	exit, err = c.Run(t.Context(), Request{Argv: []string{"sh", "-c", "echo ready; exec sleep 60"}, Stdout: out, Signals: signals})
	if err != nil || exit != (Exit{Code: 143, Signal: "TERM"}) {
		t.Errorf("got %+v, %v", exit, err)
	}
}

func TestRunEnds(t *testing.T) {
	noLeaks(t)
	r := newRig(t)
	r.boot()
	t.Run("by ctx", func(t *testing.T) {
		why := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		out := &started{ch: make(chan struct{})}
		out.then(t, func() { cancel(why) })
		_, err := r.dial().Run(ctx, Request{Argv: []string{"sh", "-c", "echo ready; exec sleep 60"}, Stdout: out})
		if !errors.Is(err, why) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("by a reader that is gone", func(t *testing.T) {
		pr, pw := io.Pipe()
		pr.Close()
		_, err := r.dial().Run(t.Context(), Request{Argv: []string{"yes"}, Stdout: pw})
		if !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("by the machine", func(t *testing.T) {
		out := &started{ch: make(chan struct{})}
		out.then(t, r.port.cut)
		_, err := r.dial().Run(t.Context(), Request{Argv: []string{"sh", "-c", "echo ready; exec sleep 60"}, Stdout: out})
		if !banger.IsKind(err, banger.Unavailable) {
			t.Errorf("got %v", err)
		}
	})
}

func TestControl(t *testing.T) {
	noLeaks(t)
	r := newRig(t)
	r.boot()
	c := r.dial()
	h, err := c.Health(t.Context())
	if err != nil || h.Version != "1.2.3" || h.Init != `test\x1b[2J` || !h.Ready || h.UptimeMS <= 0 {
		t.Errorf("got %+v, %v", h, err)
	}
	if err := c.Shutdown(t.Context(), hello.Poweroff); err == nil || err.Error() != `shut the guest down: shut down: no \apoweroff` {
		t.Errorf("got %v", err)
	}
	if err := c.Shutdown(t.Context(), "explode"); err == nil {
		t.Error("shut down to explode")
	}
	f, err := c.SFTP()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if st, err := f.Stat(r.socket); err != nil || st.Mode()&os.ModeSocket == 0 {
		t.Errorf("got %v, %v", st, err)
	}
}

func TestDialFails(t *testing.T) {
	noLeaks(t)
	r := newRig(t)
	r.boot()
	other := newRig(t)
	bad := r.opts
	bad.HostKey = other.opts.HostKey
	if _, err := Dial(t.Context(), r.socket, bad); !banger.IsKind(err, banger.Conflict) {
		t.Errorf("another host key: %v", err)
	}
	bad = r.opts
	bad.Signer = other.opts.Signer
	if _, err := Dial(t.Context(), r.socket, bad); !banger.IsKind(err, banger.Unavailable) || !strings.Contains(err.Error(), "authenticate") {
		t.Errorf("another user key: %v", err)
	}
	if _, err := Dial(t.Context(), filepath.Join(t.TempDir(), "none"), r.opts); !banger.IsKind(err, banger.Unavailable) {
		t.Errorf("no socket: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, other.socket, other.opts); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no guest: %v", err)
	}
}

// Hosts, agents and connections come and go.
func TestTransportReconnects(t *testing.T) {
	noLeaks(t)
	r := newRig(t)
	stop := r.boot()
	for i := range 6 {
		c := r.dial()
		if out, _, _ := run(t, c, Request{Command: "echo hi"}); out != "hi\n" {
			t.Fatalf("%d: got %q", i, out)
		}
		if i%2 == 0 {
			r.port.cut()
			r.expect(Lost)
			r.expect(Ready)
		} else {
			stop()
			stop = r.boot() // its hello breaks the session of the transport
		}
		if _, err := c.Run(t.Context(), Request{Command: "true"}); err == nil {
			t.Error("the connection survived its session")
		}
	}
}

// A second shim takes the place of one that died.
func TestTransportReplaced(t *testing.T) {
	r := newRig(t)
	r.boot()
	run(t, r.dial(), Request{Command: "true"})
	if err := r.stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("Serve: %v", err)
	}
	l, err := net.Listen("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	tr := &Transport{Dial: r.port.dial, Config: r.tr.Config, Event: r.tr.Event, Resume: true}
	done := make(chan error)
	go func() { done <- tr.Serve(ctx, l) }()
	defer func() { cancel(); <-done }()
	r.expect(Ready)
	run(t, r.dial(), Request{Command: "true"})
}

func TestParallel(t *testing.T) {
	noLeaks(t)
	r := newRig(t)
	r.boot()
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			c, err := Connect(t.Context(), r.socket)
			if err != nil {
				t.Errorf("%d: %v", i, err)
				return
			}
			defer c.Close()
			b := make([]byte, 8)
			if _, err := io.ReadFull(c, b); err != nil || string(b) != "SSH-2.0-" {
				t.Errorf("%d: %q, %v", i, b, err)
			}
		})
	}
	wg.Wait()
	client := r.dial()
	for i := range 32 {
		wg.Go(func() {
			exit, err := client.Run(t.Context(), Request{Argv: []string{"sh", "-c", fmt.Sprintf("exit %d", i)}})
			if err != nil || exit.Code != i {
				t.Errorf("%d: %+v, %v", i, exit, err)
			}
		})
	}
	wg.Wait()
}
