package shim

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger"
	"banger/internal/guest/sshd"
	"banger/internal/hello"
	"banger/internal/state"
	"banger/internal/vmm"
	"banger/internal/vmm/fakevmm"
)

// obedient is a guest that powers off when it is asked to; before that it reboots
// so many times by itself.
func obedient(reboots int) *fakevmm.Driver {
	return &fakevmm.Driver{Agent: func(ctx context.Context, g *fakevmm.Guest) {
		if _, _, err := sshd.Ask(ctx, g, hello.Boot); err != nil {
			return
		}
		if reboots > 0 {
			reboots--
			time.AfterFunc(50*time.Millisecond, func() { g.End(vmm.Exit{Guest: vmm.GuestReset}) })
		}
		srv := &sshd.Server{SetClock: func(time.Time) error { return nil }, Shutdown: func(string) error {
			time.AfterFunc(10*time.Millisecond, func() { g.End(vmm.Exit{Guest: vmm.GuestShutdown}) })
			return nil
		}}
		_ = srv.Serve(ctx, g)
	}}
}

// limited starts a shim with limits.
func limited(t *testing.T, d *fakevmm.Driver, timeout, idle time.Duration) *rig {
	t.Helper()
	r := prepare(t)
	r.spec.Timeout, r.spec.IdleTimeout = timeout, idle
	if err := state.WriteRecord(filepath.Join(r.dir, state.BootFile), r.spec); err != nil {
		t.Fatal(err)
	}
	r.run(d)
	return r
}

// A machine whose time is up is stopped as by an order, with nobody there.
func TestTimeIsUp(t *testing.T) {
	t.Parallel()
	for name, reboots := range map[string]int{"": 0, "of a guest that reboots": 1} {
		r := limited(t, obedient(reboots), 1500*time.Millisecond, 0)
		if s := r.ended(); s.End.State != banger.Stopped || s.End.Reason != "its time was up" || !s.End.Expired || s.Reboots != reboots {
			t.Errorf("%s: %+v after %d reboots", name, s.End, s.Reboots)
		}
	}
}

// A machine that is paused when its time is up is stopped all the same.
func TestTimeIsUpPaused(t *testing.T) {
	t.Parallel()
	r := limited(t, obedient(0), 500*time.Millisecond, 0)
	c := r.dial()
	r.expect(c, Running)
	if err := c.Pause(1); err != nil {
		t.Fatal(err)
	}
	if s := r.ended(); s.End.Reason != "its time was up" || s.Expired == "" {
		t.Errorf("ended: %+v", s)
	}
}

// An order that came before is the reason.
func TestStoppedInTime(t *testing.T) {
	t.Parallel()
	r := limited(t, obedient(0), time.Hour, time.Hour)
	c := r.dial()
	r.expect(c, Running)
	if err := c.Stop(patience); err != nil {
		t.Fatal(err)
	}
	if s := r.ended(); s.End.Reason != "stopped" || s.End.Expired {
		t.Errorf("ended: %+v", s.End)
	}
}

// A machine that is used is not idle: while there is a session, and while its
// VMM works or it is paused.
func TestIdle(t *testing.T) {
	t.Parallel()
	r := limited(t, obedient(0), 0, time.Second)
	control := r.dial()
	r.expect(control, Running)
	client, err := net.Dial("unix", filepath.Join(r.spec.Machine.RunDir, state.AgentSocket))
	if err != nil {
		t.Fatal(err)
	}
	stays := func(why string) {
		t.Helper()
		select {
		case err := <-r.done:
			r.done <- err
			t.Fatalf("ended while %s", why)
		case <-time.After(2 * time.Second):
		}
	}
	stays("it had a session")
	if err := control.Pause(1); err != nil {
		t.Fatal(err)
	}
	r.answer(control, 1)
	_ = client.Close()
	stays("it was paused")
	if err := control.Resume(2); err != nil {
		t.Fatal(err)
	}
	if s := r.ended(); s.End.State != banger.Stopped || s.End.Reason != "it was idle for 1s" || !s.End.Expired {
		t.Errorf("ended: %+v", s.End)
	}
}

func TestBusyIsNotIdle(t *testing.T) {
	t.Parallel()
	busy := obedient(0)
	busy.Process = []string{"sh", "-c", "while :; do :; done"}
	r := limited(t, busy, 3*time.Second, time.Second)
	if s := r.ended(); s.End.Reason != "its time was up" { // and not before that
		t.Errorf("ended: %+v", s.End)
	}
}

// A guest that does not obey is killed, and the reason says both.
func TestOverdue(t *testing.T) {
	t.Parallel()
	s := &Shim{asked: timeIsUp, expired: true}
	s.overdue(limitGrace)
	if !strings.HasPrefix(s.asked, "its time was up; killed: the guest did not stop within 30s") {
		t.Errorf("reason %q", s.asked)
	}
}
