package shim

import (
	"context"
	"testing"
	"time"

	"banger"
	"banger/internal/guest/sshd"
	"banger/internal/hello"
	"banger/internal/vmm"
	"banger/internal/vmm/fakevmm"
)

// answer reads until the answer to the order comes.
func (r *rig) answer(c *Client, id int64) Status {
	r.t.Helper()
	for {
		s := r.expect(c, Running)
		if s.Answer != nil && s.Answer.ID == id {
			return s
		}
	}
}

func TestPause(t *testing.T) {
	clock := make(chan time.Time, 8)
	r := newRig(t, &fakevmm.Driver{Agent: func(ctx context.Context, g *fakevmm.Guest) {
		if _, _, err := sshd.Ask(ctx, g, hello.Boot); err != nil {
			return
		}
		srv := &sshd.Server{
			SetClock: func(now time.Time) error { clock <- now; return nil },
			Shutdown: func(string) error {
				time.AfterFunc(10*time.Millisecond, func() { g.End(vmm.Exit{Guest: vmm.GuestShutdown}) })
				return nil
			},
		}
		_ = srv.Serve(ctx, g)
	}})
	c := r.dial()
	r.expect(c, Running)
	for i, pause := range []bool{true, true, false, false, true} { // what is so already stays so
		order := c.Resume
		if pause {
			order = c.Pause
		}
		if err := order(int64(i + 1)); err != nil {
			t.Fatal(err)
		}
		if s := r.answer(c, int64(i+1)); s.Paused != pause || s.Answer.Error != nil {
			t.Errorf("%d: %+v", i, s)
		}
	}
	select {
	case now := <-clock:
		if time.Since(now).Abs() > patience {
			t.Errorf("the guest was told %s", now)
		}
	case <-time.After(patience):
		t.Error("the guest was not told the time after a pause")
	}
	if err := c.Stop(patience); err != nil {
		t.Fatal(err)
	}
	if s := r.expect(c, Ended); s.End.Reason != "stopped" { // gently, though it was paused
		t.Errorf("ended: %+v", s.End)
	}
}

func TestPauseRefused(t *testing.T) {
	r := newRig(t, &fakevmm.Driver{Agent: guest(false), Stubborn: banger.Errorf(banger.Unsupported, "not this one")})
	c := r.dial()
	r.expect(c, Running)
	if err := c.Pause(7); err != nil {
		t.Fatal(err)
	}
	if s := r.answer(c, 7); s.Paused || s.Answer.Error == nil || s.Answer.Error.Kind != banger.Unsupported {
		t.Errorf("%+v", s)
	}

	r = newRig(t, &fakevmm.Driver{Agent: fakevmm.Silent})
	c = r.dial()
	r.expect(c, booting)
	if err := c.Pause(8); err != nil {
		t.Fatal(err)
	}
	for s := r.expect(c, booting); ; s = r.expect(c, booting) {
		if s.Answer != nil {
			if s.Paused || s.Answer.Error == nil || s.Answer.Error.Kind != banger.Conflict {
				t.Errorf("in the boot: %+v", s)
			}
			return
		}
	}
}

// A guest that reboots gets another machine, and can still be stopped.
func TestGuestReboots(t *testing.T) {
	machines := 0
	r := newRig(t, &fakevmm.Driver{Agent: func(ctx context.Context, g *fakevmm.Guest) {
		machines++ // one at a time
		if _, _, err := sshd.Ask(ctx, g, hello.Boot); err != nil {
			return
		}
		first := machines == 1
		srv := &sshd.Server{Shutdown: func(string) error {
			time.AfterFunc(10*time.Millisecond, func() { g.End(vmm.Exit{Guest: vmm.GuestShutdown}) })
			return nil
		}}
		if first {
			time.AfterFunc(100*time.Millisecond, func() { g.End(vmm.Exit{Guest: vmm.GuestReset}) })
		}
		_ = srv.Serve(ctx, g)
	}})
	c := r.dial()
	r.expect(c, Running)
	if s := r.expect(c, Starting); s.Reboots != 1 || s.Boot.Agent != 0 {
		t.Errorf("rebooting: %+v", s)
	}
	if s := r.expect(c, Running); s.Reboots != 1 {
		t.Errorf("rebooted: %+v", s)
	}
	if err := c.Stop(patience); err != nil {
		t.Fatal(err)
	}
	if s := r.expect(c, Ended); s.End.State != banger.Stopped || s.End.Reason != "stopped" {
		t.Errorf("ended: %+v", s.End)
	}
}
