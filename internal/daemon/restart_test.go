package daemon

import (
	"banger/internal/hello"
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"

	"banger"
)

// restart restarts the VM and gives what it is then.
func (h *host) restart(name string) (banger.VM, error) {
	return h.client.VMRestart(h.t.Context(), banger.VMStopRequest{Name: name, Seconds: 5}, nil)
}

// withPolicy creates web, which is started again as policy has it.
func (h *host) withPolicy(policy string) banger.VM {
	h.t.Helper()
	spec := testSpec("web")
	spec.Restart = policy
	rec, err := h.client.VMCreate(h.t.Context(), banger.VMCreateRequest{Spec: spec}, nil)
	h.must(err)
	return rec
}

func TestRestart(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	first := h.mustCreate("web", false)
	rec, err := h.restart("web")
	if err != nil || rec.State != banger.Running || rec.Again || rec.Machine.VMM == first.Machine.VMM {
		t.Fatalf("restart: %+v, %v", rec, err)
	}
	if _, err := h.stop(banger.VMStopRequest{Name: "web"}); err != nil {
		t.Fatal(err)
	}
	if rec, err = h.restart("web"); err != nil || rec.State != banger.Running { // one that does not run is started
		t.Errorf("restart of a stopped vm: %+v, %v", rec, err)
	}
	_, err = h.restart("nope")
	wantKind(t, err, banger.NotFound)
}

// A machine that ends by itself is started again as its policy has it, one that
// was asked to end is not.
func TestRestartPolicy(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		policy string
		kill   bool // else the guest powers off
		again  bool
	}{
		{"no", true, false},
		{"on-failure", true, true},
		{"on-failure", false, false},
		{"always", true, true},
		{"always", false, true},
	} {
		t.Run(fmt.Sprintf("%s/kill=%v", c.policy, c.kill), func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.open()
			rec := h.withPolicy(c.policy)
			if c.kill {
				h.must(syscall.Kill(rec.Machine.VMM.PID, syscall.SIGKILL))
			} else {
				h.guestEnds(rec, hello.Poweroff)
			}
			if !c.again {
				got, err := h.client.VMWait(t.Context(), "web")
				if want := map[bool]int{true: 1}[c.kill]; err != nil || alive(got.State) || got.ExitCode != want {
					t.Errorf("%+v, %v, want exit code %d", got, err, want)
				}
				return
			}
			h.eventually(func() error {
				if now := h.show("web"); now.State != banger.Running || now.Machine.VMM == rec.Machine.VMM || now.Restarts != 1 {
					return fmt.Errorf("not started again: %+v", now)
				}
				return nil
			})
			got, err := h.stop(banger.VMStopRequest{Name: "web"})
			if err != nil || got.State != banger.Stopped || got.Again || got.ExitCode != 0 {
				t.Errorf("stopped: %+v, %v", got, err)
			}
			if got, err := h.client.VMWait(t.Context(), "web"); err != nil || got.State != banger.Stopped {
				t.Errorf("waited: %+v, %v", got, err)
			}
		})
	}
}

// A stop in the rest before the next try is the end of the tries.
func TestStopWhileItRests(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	rec := h.withPolicy("always")
	h.must(syscall.Kill(rec.Machine.VMM.PID, syscall.SIGKILL))
	h.eventually(func() error {
		if now := h.show("web"); !now.Again {
			return fmt.Errorf("%+v", now)
		}
		return nil
	})
	if got, err := h.stop(banger.VMStopRequest{Name: "web"}); err != nil || got.Again || alive(got.State) {
		t.Errorf("stopped: %+v, %v", got, err)
	}
}

func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	rec := h.mustCreate("web", false)
	ctx := t.Context()
	for range 2 {
		if rec, err := h.client.VMPause(ctx, "web"); err != nil || rec.State != banger.Paused || rec.Machine == nil {
			t.Fatalf("pause: %+v, %v", rec, err)
		}
	}
	_, err := h.start("web")
	wantKind(t, err, banger.Conflict, "paused", "banger vm resume web")
	h.close()
	h.open() // the next daemon finds it as it is
	h.eventually(func() error {
		if now := h.show("web"); now.State != banger.Paused || now.Machine.VMM != rec.Machine.VMM {
			return fmt.Errorf("adopted: %+v", now)
		}
		return nil
	})
	for range 2 {
		if rec, err := h.client.VMResume(ctx, "web"); err != nil || rec.State != banger.Running {
			t.Fatalf("resume: %+v, %v", rec, err)
		}
	}
	if _, err := h.client.VMPause(ctx, "web"); err != nil {
		t.Fatal(err)
	}
	if rec, err := h.stop(banger.VMStopRequest{Name: "web"}); err != nil || rec.Reason != "stopped" {
		t.Errorf("stop of a paused vm: %+v, %v", rec, err)
	}
	_, err = h.client.VMPause(ctx, "web")
	wantKind(t, err, banger.Conflict, "is stopped")
	_, err = h.client.VMResume(ctx, "web")
	wantKind(t, err, banger.Conflict, "is stopped")
}

func TestRename(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	rec := h.mustCreate("web", true)
	h.mustCreate("db", true)
	ctx := t.Context()
	_, err := h.client.VMRename(ctx, banger.VMRenameRequest{Name: "web", New: "db"})
	wantKind(t, err, banger.Exists)
	_, err = h.client.VMRename(ctx, banger.VMRenameRequest{Name: "web", New: "../x"})
	wantKind(t, err, banger.Invalid)
	got, err := h.client.VMRename(ctx, banger.VMRenameRequest{Name: "web", New: "www"})
	if err != nil || got.Name != "www" || got.Spec.Name != "www" || got.ID != rec.ID || h.disk(rec.ID).Name != "www" {
		t.Errorf("renamed: %+v, %v", got, err)
	}
	h.mustCreate("web", true) // the old name is free
	h.close()
	h.open()
	if got := h.show("www"); got.ID != rec.ID {
		t.Errorf("after a restart: %+v", got)
	}
}

func TestPrune(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	h.mustCreate("new", true)
	h.mustCreate("live", false)
	h.mustCreate("old", false)
	if _, err := h.stop(banger.VMStopRequest{Name: "old"}); err != nil {
		t.Fatal(err)
	}
	for _, dry := range []bool{true, false} {
		gone, err := h.client.VMPrune(t.Context(), banger.VMPruneRequest{DryRun: dry})
		if err != nil || len(gone) != 1 || gone[0].Name != "old" {
			t.Errorf("dry run %v: %+v, %v", dry, gone, err)
		}
	}
	if list, err := h.client.VMList(t.Context()); err != nil || len(list) != 2 {
		t.Errorf("left: %+v, %v", list, err)
	}
}

func TestWait(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	rec := h.mustCreate("web", false)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	_, err := h.client.VMWait(ctx, "web")
	wantKind(t, err, banger.Canceled)
	waited := make(chan error, 1)
	go func() {
		_, err := h.client.VMWait(t.Context(), "web")
		waited <- err
	}()
	h.remove("web")
	if err := <-waited; err != nil && !banger.IsKind(err, banger.NotFound) { // the end comes before the removal
		t.Error(err)
	}
	if _, err := os.Stat(h.layout.VM(rec.ID)); !os.IsNotExist(err) {
		t.Errorf("left: %v", err)
	}
}

// Every state that a record can have is in the table, and none is a dead end
// that cannot be removed or started.
func TestTransitions(t *testing.T) {
	for from, list := range transitions {
		for _, to := range list {
			if _, ok := transitions[to]; !ok {
				t.Errorf("%s leads to %s, which is not in the table", from, to)
			}
		}
		if from != banger.Broken && !alive(from) && !canGo(from, banger.Starting) {
			t.Errorf("%s cannot be started", from)
		}
		if alive(from) && (!canGo(from, banger.Stopped) || !canGo(from, banger.Failed)) {
			t.Errorf("%s cannot end", from)
		}
	}
}

// A guest that reboots is the same VM, with another machine, also when no
// daemon is there to see it.
func TestGuestReboot(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	if err := h.spawn(""); err != nil {
		t.Fatal(err)
	}
	before := h.mustCreate("web", false)
	h.guestEnds(before, hello.Reboot)
	h.eventually(func() error {
		if now := h.show("web"); now.State != banger.Running || now.Machine.VMM == before.Machine.VMM || now.Machine.Shim != before.Machine.Shim {
			return fmt.Errorf("%+v", now)
		}
		return nil
	})
	again := h.show("web")
	h.crash()
	h.guestEnds(again, hello.Reboot)
	h.eventually(func() error {
		_, err := h.exec(again, "true")
		return err
	})
	h.open()
	h.eventually(func() error {
		if now := h.show("web"); now.State != banger.Running || now.Machine.VMM == again.Machine.VMM {
			return fmt.Errorf("%+v", now)
		}
		return nil
	})
	if rec, err := h.stop(banger.VMStopRequest{Name: "web"}); err != nil || rec.Reason != "stopped" {
		t.Errorf("%+v, %v", rec, err)
	}
	h.remove("web")
	h.clean()
}

// A restart that a kill -9 cut off goes on with the next daemon.
func TestKillDuringRestart(t *testing.T) {
	for _, step := range []string{"restart: intended", "stop: intended", "stop: ordered", "restart: stopped", "boot: intended", "boot: spawned"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			if err := h.spawn(""); err != nil {
				t.Fatal(err)
			}
			before := h.mustCreate("web", false)
			h.crash()
			if err := h.spawn(step); err != nil {
				t.Fatal(err)
			}
			_, err := h.restart("web")
			wantKind(t, err, banger.Unavailable)
			h.died()
			h.open()
			h.eventually(func() error {
				// Of one that was not asked to end yet nothing has begun.
				if now := h.show("web"); now.State != banger.Running || step != "restart: intended" && now.Machine.VMM == before.Machine.VMM {
					return fmt.Errorf("%+v", now)
				}
				return nil
			})
			h.remove("web")
			h.clean()
		})
	}
}

// A pause that a kill -9 cut off was never asked for, or is done.
func TestKillDuringPause(t *testing.T) {
	for step, want := range map[string]banger.VMState{"paused: begun": banger.Running, "paused: ordered": banger.Paused} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			if err := h.spawn(step); err != nil {
				t.Fatal(err)
			}
			rec := h.mustCreate("web", false)
			_, err := h.client.VMPause(t.Context(), "web")
			wantKind(t, err, banger.Unavailable)
			h.died()
			h.open()
			if now := h.becomes("web", want); now.Machine.VMM != rec.Machine.VMM {
				t.Errorf("%+v", now)
			}
			h.remove("web")
			h.clean()
		})
	}
}

// A VM whose time is up was asked to end, when it was made: no policy starts it
// again, also where no daemon saw its end.
func TestTimeIsUp(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	create := func(name string, bend func(*banger.VMSpec)) {
		spec := testSpec(name)
		spec.Restart = "always"
		bend(&spec)
		_, err := h.client.VMCreate(t.Context(), banger.VMCreateRequest{Spec: spec}, nil)
		h.must(err)
	}
	ended := func(name, reason string) {
		t.Helper()
		rec, err := h.client.VMWait(t.Context(), name)
		h.must(err)
		if rec.State != banger.Stopped || rec.Reason != reason || rec.Again || rec.Restarts != 0 || rec.ExitCode != 0 {
			t.Errorf("%s is %s (%s), again %v", name, rec.State, rec.Reason, rec.Again)
		}
	}
	create("brief", func(s *banger.VMSpec) { s.Timeout = 1 })
	create("idle", func(s *banger.VMSpec) { s.IdleTimeout = 1 })
	ended("brief", "its time was up")
	ended("idle", "it was idle for 1s")
	_, err := h.start("brief") // has its time again
	h.must(err)
	h.close()
	h.eventually(func() error {
		if pids := h.processes(); len(pids) > 0 {
			return fmt.Errorf("processes %v are left", pids)
		}
		return nil
	})
	h.open()
	ended("brief", "its time was up")
	h.remove("brief")
	h.remove("idle")
	h.clean()
}
