package fakevmm

import (
	"context"
	"errors"
	"io"
	"os"
	"syscall"
	"testing"
	"time"

	"banger"
	"banger/internal/vmm"
)

func spec(t *testing.T) vmm.Spec {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return vmm.Spec{ID: "a", CPUs: 1, Memory: 64 << 20, Kernel: "/k", RunDir: dir}
}

func start(t *testing.T, d *Driver, s vmm.Spec) vmm.Machine {
	t.Helper()
	m, err := d.Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = m.Kill()
		<-m.Done()
	})
	return m
}

func TestFaults(t *testing.T) {
	refused := errors.New("no")
	if _, err := (&Driver{Refuse: refused}).Start(t.Context(), spec(t)); !errors.Is(err, refused) {
		t.Errorf("refuse: got %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := (&Driver{Hang: true}).Start(ctx, spec(t)); !banger.IsKind(err, banger.Canceled) {
		t.Errorf("hang: got %v", err)
	}
	dead := vmm.Exit{Signal: syscall.SIGSEGV}
	if e := start(t, &Driver{DieAfter: time.Millisecond, Exit: dead}, spec(t)).Exit(); e != dead {
		t.Errorf("die: %+v", e)
	}
	m := start(t, &Driver{DieOnDial: true, Exit: dead}, spec(t))
	if _, err := m.Dial(t.Context()); !banger.IsKind(err, banger.Unavailable) || m.Exit() != dead {
		t.Errorf("die on dial: %v", err)
	}
	m = start(t, &Driver{Deaf: true}, spec(t))
	_ = m.Powerdown(t.Context())
	select {
	case <-m.Done():
		t.Error("a deaf machine heard the power button")
	default:
	}
	s, seen := spec(t), &counter{want: 1 << 20, enough: make(chan struct{})}
	s.Console = seen
	m = start(t, &Driver{Console: []byte("boot\n"), Flood: true}, s)
	<-seen.enough
	_ = m.Kill()
	if e := m.Exit(); e.Signal != syscall.SIGKILL {
		t.Errorf("kill: %+v", e)
	}
}

func TestAgents(t *testing.T) {
	for name, tt := range map[string]struct {
		agent func(context.Context, *Guest)
		reply string // to "hello"
	}{
		"echo": {nil, "hello"}, "silent": {Silent, ""}, "stuck": {Stuck, ""}, "garbage": {Garbage([]byte("\xff\x00")), "\xff\x00"},
	} {
		m := start(t, &Driver{Agent: tt.agent}, spec(t))
		for range 2 { // one client after the other
			c, err := m.Dial(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := m.Dial(t.Context()); !banger.IsKind(err, banger.Conflict) {
				t.Errorf("%s: second client: %v", name, err)
			}
			// What must not come is given little time, what must come enough.
			wait := 20 * time.Millisecond
			if tt.reply != "" {
				wait = 5 * time.Second
			}
			_ = c.SetDeadline(time.Now().Add(wait))
			go func() { _, _ = io.WriteString(c, "hello") }()
			got := make([]byte, max(1, len(tt.reply)))
			if n, _ := io.ReadFull(c, got); string(got[:n]) != tt.reply {
				t.Errorf("%s: got %q, want %q", name, got[:n], tt.reply)
			}
			_, _ = c.Close(), c.Close()
		}
		c, err := m.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Powerdown(t.Context()); err != nil || m.Exit().Guest != vmm.GuestShutdown {
			t.Errorf("%s: powerdown: %v", name, err)
		}
		// The end of the machine ends its streams.
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: stream outlives the machine", name)
		}
		_ = c.Close()
	}
}

// A machine that is a process ends with it, and it with the machine.
func TestProcess(t *testing.T) {
	s := spec(t)
	m := start(t, &Driver{Process: []string{"sleep", "60"}}, s)
	p := m.Process()
	if now, err := vmm.ProcessOf(p.PID); err != nil || now != p {
		t.Fatalf("process %+v: %+v, %v", p, now, err)
	}
	_ = m.Kill()
	if e := m.Exit(); e.Signal != syscall.SIGKILL {
		t.Errorf("kill: %+v", e)
	}
	if _, err := vmm.ProcessOf(p.PID); err == nil {
		t.Error("the process outlives the machine")
	}
	if m = start(t, &Driver{Process: []string{"false"}}, spec(t)); m.Exit() != (vmm.Exit{Code: 1}) {
		t.Errorf("exit of the process: %+v", m.Exit())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (&Driver{Process: []string{"sleep", "60"}, Hang: true}).Start(ctx, spec(t)); !banger.IsKind(err, banger.Canceled) {
		t.Errorf("hang: %v", err)
	}
	if _, err := (&Driver{Process: []string{"/no/such"}}).Start(t.Context(), spec(t)); err == nil {
		t.Error("started a program that is not there")
	}
}

type counter struct {
	n, want int
	enough  chan struct{}
}

func (c *counter) Write(p []byte) (int, error) {
	if before := c.n; before < c.want && before+len(p) >= c.want {
		close(c.enough)
	}
	c.n += len(p)
	return len(p), nil
}
