package shim

import (
	"context"
	"errors"
	"fmt"
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

	"banger"
	"banger/internal/agent"
	"banger/internal/guest/sshd"
	"banger/internal/hello"
	"banger/internal/state"
	"banger/internal/vmm"
	"banger/internal/vmm/fakevmm"
)

const patience = 10 * time.Second

// rig is a shim that runs in this process.
type rig struct {
	t    *testing.T
	dir  string // the VM's
	spec Spec
	stop context.CancelCauseFunc
	done chan error
}

// newRig starts a shim with the driver.
func newRig(t *testing.T, d *fakevmm.Driver) *rig {
	t.Helper()
	r := prepare(t)
	r.run(d)
	return r
}

// prepare makes what the daemon makes for a boot.
func prepare(t *testing.T) *rig {
	t.Helper()
	base, err := os.MkdirTemp("/tmp", "bs-") // sockets have short paths
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	r := &rig{t: t, dir: base + "/vm"}
	for _, dir := range []string{r.dir, base + "/run"} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	private, public, err := agent.NewHostKey()
	if err != nil {
		t.Fatal(err)
	}
	user, err := agent.LoadOrCreateUserKey(base + "/key")
	if err != nil {
		t.Fatal(err)
	}
	r.spec = Spec{
		Machine: vmm.Spec{ID: "a", CPUs: 1, Memory: 128 << 20, Kernel: "/k", RunDir: base + "/run"},
		UserKey: base + "/key", HostKey: public,
		Hello: hello.Config{ID: "a", HostKey: private, AuthorizedKeys: []string{string(ssh.MarshalAuthorizedKey(user.PublicKey()))}},
	}
	if err := state.WriteRecord(filepath.Join(r.dir, state.BootFile), r.spec); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) socket() string { return filepath.Join(r.spec.Machine.RunDir, state.ShimSocket) }

func (r *rig) run(d vmm.Driver) {
	r.t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: r.socket(), Net: "unix"})
	if err != nil {
		r.t.Fatal(err)
	}
	// Not t.Context: that ends before the clean-up.
	ctx, cancel := context.WithCancelCause(context.Background())
	r.stop, r.done = cancel, make(chan error, 1)
	go func() {
		r.done <- (&Shim{Dir: r.dir, Driver: d}).Run(ctx, l)
		_ = l.Close()
	}()
	r.t.Cleanup(func() {
		cancel(errors.New("the test is over"))
		select {
		case <-r.done:
		case <-time.After(patience):
			r.t.Error("Run does not return")
		}
	})
}

// ended waits until Run has returned, and gives exit.json.
func (r *rig) ended() Status {
	r.t.Helper()
	select {
	case err := <-r.done:
		r.done <- err
		if err != nil {
			r.t.Errorf("run: %v", err)
		}
	case <-time.After(patience):
		r.t.Fatal("Run does not return")
	}
	var s Status
	if err := state.ReadRecord(filepath.Join(r.dir, state.ExitFile), &s); err != nil {
		r.t.Fatal(err)
	}
	if s.Phase != Ended || s.End == nil || s.End.Time.IsZero() {
		r.t.Errorf("exit.json: %+v", s)
	}
	if _, err := os.Stat(r.spec.Machine.RunDir); !os.IsNotExist(err) {
		r.t.Errorf("the run directory is left: %v", err)
	}
	return s
}

func (r *rig) dial() *Client {
	r.t.Helper()
	c, err := Dial(r.t.Context(), r.socket())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	return c
}

// booting is Starting with the VMM there.
const booting Phase = "booting"

// expect reads until a status of the phase comes.
func (r *rig) expect(c *Client, p Phase) Status {
	r.t.Helper()
	_ = c.c.SetReadDeadline(time.Now().Add(patience))
	for {
		s, err := c.Next()
		if err != nil {
			r.t.Fatalf("wait for %s: %v", p, err)
		}
		if s.Phase == p || p == booting && s.Phase == Starting && s.Machine != nil {
			return s
		}
	}
}

// guest is pid 1 and the agent; deaf ones do not power off.
func guest(deaf bool) func(context.Context, *fakevmm.Guest) {
	return func(ctx context.Context, g *fakevmm.Guest) {
		if _, _, err := sshd.Ask(ctx, g, hello.Boot); err != nil {
			return
		}
		srv := &sshd.Server{Shutdown: func(string) error {
			if !deaf {
				// After the answer has left: a machine that is off sends none.
				time.AfterFunc(10*time.Millisecond, func() { g.End(vmm.Exit{Guest: vmm.GuestShutdown}) })
			}
			return nil
		}}
		_ = srv.Serve(ctx, g)
	}
}

func TestLife(t *testing.T) {
	r := newRig(t, &fakevmm.Driver{Agent: guest(false), Console: []byte("boot\n")})
	c := r.dial()
	s := r.expect(c, Running)
	if m := s.Machine; m == nil || m.Shim.PID != os.Getpid() || m.BootID == "" || m.Accel != "tcg" || s.Boot.Agent < s.Boot.Init {
		t.Errorf("running: %+v", s)
	}
	late := r.dial() // a daemon that comes later learns the same
	if now := r.expect(late, Running); *now.Machine != *s.Machine {
		t.Errorf("late: %+v", now)
	}
	if err := c.Stop(patience); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*Client{c, late} {
		if s := r.expect(c, Ended); s.End.State != banger.Stopped || s.End.Reason != "stopped" {
			t.Errorf("ended: %+v", s.End)
		}
		if _, err := c.Next(); err == nil {
			t.Error("a word after the end")
		}
	}
	if s := r.ended(); s.End.Reason != "stopped" {
		t.Errorf("exit.json: %+v", s.End)
	}
	if b, err := os.ReadFile(filepath.Join(r.dir, state.ConsoleLog)); string(b) != "boot\n" {
		t.Errorf("console %q, %v", b, err)
	}
}

// How a machine ends is told in words.
func TestEnds(t *testing.T) {
	die := func(e vmm.Exit) *fakevmm.Driver {
		return &fakevmm.Driver{Agent: fakevmm.Silent, DieAfter: time.Millisecond, Exit: e}
	}
	says := func(what string) func(context.Context, *fakevmm.Guest) {
		return func(ctx context.Context, g *fakevmm.Guest) {
			if _, _, err := hello.Ask(ctx, g, hello.Boot); err == nil {
				_ = hello.Fail(g, what)
				g.End(vmm.Exit{Guest: vmm.GuestShutdown})
			}
		}
	}
	refused := banger.Errorf(banger.Unsupported, "no VMM").WithHint("get one")
	for name, tt := range map[string]struct {
		driver *fakevmm.Driver
		state  banger.VMState
		reason string
	}{
		"refused":  {&fakevmm.Driver{Refuse: refused}, banger.Failed, "no VMM"},
		"code":     {die(vmm.Exit{Code: 3, Output: "bad disk"}), banger.Failed, "the VMM ended with code 3: bad disk"},
		"signal":   {die(vmm.Exit{Signal: syscall.SIGSEGV}), banger.Failed, "the VMM was ended by SIGSEGV"},
		"panic":    {die(vmm.Exit{Guest: vmm.GuestPanic, Panic: "not syncing"}), banger.Failed, "the guest's kernel panicked: not syncing"},
		"shutdown": {die(vmm.Exit{Guest: vmm.GuestShutdown}), banger.Stopped, "the guest powered off"},
		"reset":    {die(vmm.Exit{Guest: vmm.GuestReset}), banger.Failed, "the guest rebooted before its agent answered"},
		"on dial":  {&fakevmm.Driver{DieOnDial: true, Exit: vmm.Exit{Code: 1}}, banger.Failed, "the VMM ended with code 1: "},
		"fail":     {&fakevmm.Driver{Agent: says("no disk\x1b[2J")}, banger.Failed, `the guest could not boot: no disk\x1b[2J`},
	} {
		t.Run(name, func(t *testing.T) {
			for range 10 { // who is the first to hear of the end is chance
				r := newRig(t, tt.driver)
				s := r.ended()
				if s.End.State != tt.state || s.End.Reason != tt.reason {
					t.Fatalf("got %s: %q, want %s: %q", s.End.State, s.End.Reason, tt.state, tt.reason)
				}
				if e := s.End.Error; (e != nil) != (tt.driver.Refuse != nil) || e != nil && (e.Kind != banger.Unsupported || e.Hint != "get one") {
					t.Errorf("error %+v", e)
				}
			}
		})
	}
}

// Orders to a machine in each of its phases.
func TestOrders(t *testing.T) {
	kill := func(c *Client) error { return c.Kill() }
	stop := func(c *Client) error { return c.Stop(300 * time.Millisecond) }
	for name, tt := range map[string]struct {
		driver *fakevmm.Driver
		phase  Phase
		order  func(*Client) error
		reason string
	}{
		"kill in the start":  {&fakevmm.Driver{Hang: true, Process: []string{"sleep", "60"}}, Starting, kill, "killed"},
		"stop in the start":  {&fakevmm.Driver{Hang: true}, Starting, stop, "stopped"},
		"kill in the boot":   {&fakevmm.Driver{Agent: fakevmm.Silent}, booting, kill, "killed"},
		"stop in the boot":   {&fakevmm.Driver{Agent: fakevmm.Stuck}, booting, stop, "stopped"},
		"a deaf boot":        {&fakevmm.Driver{Agent: fakevmm.Silent, Deaf: true}, booting, stop, "killed: the guest did not stop within 300ms"},
		"kill":               {&fakevmm.Driver{Agent: guest(false)}, Running, kill, "killed"},
		"a deaf guest":       {&fakevmm.Driver{Agent: guest(true), Deaf: true}, Running, stop, "killed: the guest did not stop within 300ms"},
		"a process":          {&fakevmm.Driver{Agent: guest(true), Process: []string{"sleep", "60"}}, Running, kill, "killed"},
		"stop, then kill":    {&fakevmm.Driver{Agent: guest(true), Deaf: true}, Running, func(c *Client) error { return errors.Join(c.Stop(time.Hour), c.Kill()) }, "killed"},
		"no order, then one": {&fakevmm.Driver{Agent: guest(false)}, Running, func(c *Client) error { return errors.Join(c.send(order{}), c.Kill()) }, "killed"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, tt.driver)
			c := r.dial()
			r.expect(c, tt.phase)
			if err := tt.order(c); err != nil {
				t.Fatal(err)
			}
			if s := r.expect(c, Ended); s.End.State != banger.Stopped || s.End.Reason != tt.reason || s.End.Error != nil {
				t.Errorf("got %+v, want %q", s.End, tt.reason)
			}
			r.ended()
		})
	}
}

// A guest that runs cannot make its end a failed boot.
func TestLateFail(t *testing.T) {
	served := make(chan struct{})
	r := newRig(t, &fakevmm.Driver{Agent: func(ctx context.Context, g *fakevmm.Guest) {
		select {
		case <-served: // the second session
			_ = hello.Fail(g, "a lie")
			<-ctx.Done()
		default:
			if _, _, err := hello.Ask(ctx, g, hello.Agent); err == nil {
				close(served)
			}
		}
	}})
	c := r.dial()
	r.expect(c, Running)
	<-served
	if err := c.Stop(300 * time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if s := r.expect(c, Ended); s.End.State != banger.Stopped || s.Guest != "" {
		t.Errorf("got %+v", s)
	}
}

// The shim itself is told to end, as at the host's shutdown.
func TestSignalled(t *testing.T) {
	r := newRig(t, &fakevmm.Driver{Agent: fakevmm.Silent, Process: []string{"sleep", "60"}})
	s := r.expect(r.dial(), booting)
	r.stop(errors.New("terminated"))
	if s = r.ended(); s.End.State != banger.Stopped || s.End.Reason != "terminated" {
		t.Errorf("got %+v", s.End)
	}
	if _, err := vmm.ProcessOf(s.Machine.VMM.PID); err == nil {
		t.Error("the VMM is left")
	}
}

// Whoever connects while the machine ends learns of it: on the connection, or
// from exit.json once that breaks.
func TestConnectAtTheEnd(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 20 {
		r := newRig(t, &fakevmm.Driver{Agent: fakevmm.Silent})
		first := r.dial()
		r.expect(first, Starting)
		var all sync.WaitGroup
		for i := range 10 {
			all.Go(func() {
				if i == 5 {
					_ = first.Kill()
				}
				c, err := Dial(context.Background(), r.socket())
				for err == nil {
					var s Status
					if s, err = c.Next(); err == nil && s.Phase == Ended {
						_ = c.Close()
						return
					}
				}
				var s Status
				if err := state.ReadRecord(filepath.Join(r.dir, state.ExitFile), &s); err != nil || s.Phase != Ended {
					t.Errorf("neither told nor written: %+v, %v", s, err)
				}
			})
		}
		all.Wait()
		r.ended()
	}
	for end := time.Now().Add(patience); runtime.NumGoroutine() > before+20; time.Sleep(5 * time.Millisecond) { // connections of clean-ups
		if time.Now().After(end) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}

// What boot.json must not say, and what a shim without it does.
func TestBadBoot(t *testing.T) {
	for name, content := range map[string]string{
		"absent": "", "empty": " ", "truncated": `{"machine": {`, "no fields": "{}", "null": "null",
		"relative": `{"machine": {"ID": "a", "RunDir": "run"}}`,
	} {
		r := prepare(t)
		path := filepath.Join(r.dir, state.BootFile)
		_ = os.Remove(path)
		if content != "" {
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		r.run(&fakevmm.Driver{})
		select {
		case err := <-r.done:
			r.done <- nil
			if err == nil || !strings.Contains(err.Error(), state.BootFile) {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(patience):
			t.Fatalf("%s: the shim runs", name)
		}
	}
}

// The two files of the log never hold more than their bound, whatever is
// written, and what is written last is there.
func TestConsole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console.log")
	size := func(path string) int64 {
		fi, err := os.Stat(path)
		if err != nil {
			return 0
		}
		return fi.Size()
	}
	c, err := openConsole(path)
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Repeat("x", 9999) + "\n"
	for i := range 400 {
		if n, err := fmt.Fprintf(c, "%06d %s", i, line); err != nil || n != len(line)+7 {
			t.Fatalf("write: %d, %v", n, err)
		}
		if a, b := size(path), size(path+".1"); a > consoleMax || b > consoleMax {
			t.Fatalf("after %d lines: %d and %d bytes", i, a, b)
		}
	}
	if b, _ := os.ReadFile(path); !strings.Contains(string(b), "\n000399 ") {
		t.Error("the last line is missing")
	}
	if b, _ := os.ReadFile(path + ".1"); len(b) < consoleMax*9/10 {
		t.Errorf("only %d bytes were put aside", len(b))
	}
	_ = c.Close()
	if c, err = openConsole(path); err != nil { // the next boot keeps what this one said
		t.Fatal(err)
	}
	if size(path) != 0 || size(path+".1") == 0 {
		t.Errorf("new log: %d and %d bytes", size(path), size(path+".1"))
	}
	// A disk that is full, or gone: the guest's console goes on.
	_ = c.f.Close()
	if n, err := c.Write([]byte("word")); n != 4 || err != nil {
		t.Errorf("write without a file: %d, %v", n, err)
	}
	_ = c.Close()
}
