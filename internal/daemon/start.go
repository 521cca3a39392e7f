package daemon

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/shim"
)

// start boots a VM and waits until its agent answers. A VM that runs is left
// as it is, and one that somebody else starts is waited for. A boot that goes
// wrong, or whose caller goes away, leaves no machine.
func (d *Daemon) start(ctx context.Context, v *vm, p progress) (banger.VM, error) {
	ours, err := d.begin(ctx, v, p)
	if err != nil {
		return v.record(), fmt.Errorf("start vm %q: %w", v.record().Name, err)
	}
	p(banger.Progress{Step: "boot " + v.record().Name})
	rec, err := v.wait(ctx, func(rec banger.VM) bool { return rec.State == banger.Running || !alive(rec.State) })
	if err != nil {
		if ours != nil && v.abandon(ours, banger.Stopped, "its start was given up") { // else the boot is somebody else's
			_, _ = v.waitEnd(d.life, ours)
		}
		return v.record(), fmt.Errorf("start vm %q: %w", rec.Name, err)
	}
	if rec.State != banger.Running {
		return rec, v.bootError(rec)
	}
	d.Log.Info("vm running", "vm", rec.Name, "accel", rec.Machine.Accel, "boot", v.last().Boot)
	// What had failed before is not the affair of who starts a VM that runs.
	return d.waitCapabilities(ctx, v, wanted(v.record(), ours != nil), p)
}

// begin boots a VM that has no machine, and returns the machine. It is nil
// where the VM has one already.
func (d *Daemon) begin(ctx context.Context, v *vm, p progress) (*shim.Client, error) {
	for {
		rec := v.record()
		free := func() {}
		if !alive(rec.State) && rec.State != banger.Broken {
			unpromise, err := d.promiseMemory(rec, false)
			if err != nil {
				return nil, err
			}
			defer unpromise()
			// Before the VM is held: it can be stopped and removed while it waits.
			if free, err = d.bootSlot(ctx, v, p); err != nil {
				return nil, err
			}
		}
		unlock, err := d.hold(ctx, v)
		if err != nil {
			free()
			return nil, err
		}
		if rec = v.record(); !alive(rec.State) {
			defer unlock()
			c, err := d.bootHeld(ctx, v)
			if err != nil {
				free()
				return nil, err
			}
			d.tasks.Go(func() { v.leaveSlot(c, free) })
			return c, nil
		}
		unlock() // a machine can be stopped while it is waited for
		free()
		if rec.State == banger.Paused {
			return nil, banger.Errorf(banger.Conflict, "it is paused").WithHint("banger vm resume %s", rec.Name)
		}
		if rec.State != banger.Stopping {
			return nil, nil
		}
		if _, err := v.wait(ctx, func(rec banger.VM) bool { return rec.State != banger.Stopping }); err != nil {
			return nil, err
		}
	}
}

// bootHeld boots a VM that is held and has no machine, if the memory is still there.
func (d *Daemon) bootHeld(ctx context.Context, v *vm) (*shim.Client, error) {
	rec := v.record()
	if rec.State == banger.Broken {
		return nil, banger.Errorf(banger.Conflict, "%s", rec.Problem).WithHint("banger vm rm %s", rec.ID)
	}
	unpromise, err := d.promiseMemory(rec, false)
	if err != nil {
		return nil, err
	}
	defer unpromise()
	return d.boot(ctx, v)
}

// overdue ends a machine whose guest does not answer in time.
func (v *vm) overdue(c *shim.Client) {
	limit := time.Duration(cmp.Or(v.record().Spec.BootTimeout, defaultBoot)) * time.Second
	ctx, cancel := context.WithTimeout(v.d.life, limit)
	defer cancel()
	_, err := v.wait(ctx, func(rec banger.VM) bool { return rec.State != banger.Starting || v.machine() != c })
	if err != nil && v.d.life.Err() == nil {
		v.abandon(c, banger.Failed, fmt.Sprintf("the guest did not answer within %s: %s", limit, v.last().Boot.Reached()))
	}
}

// abandon ends a machine whose boot is not waited for any longer; state and
// reason are what becomes of the VM. It is false, and does nothing, where the
// machine runs, has ended, or is being stopped by somebody.
func (v *vm) abandon(c *shim.Client, state banger.VMState, reason string) bool {
	done := false
	_ = v.update(func(r *banger.VM) {
		v.mu.Lock()
		defer v.mu.Unlock()
		if done = r.State == banger.Starting && v.client == c; done {
			r.State, v.verdict = banger.Stopping, &shim.End{State: state, Reason: reason}
		}
	})
	if done {
		v.end(true, 0)
	}
	return done
}

// bootError says why a boot did not come to its end, with the guest's last words.
func (v *vm) bootError(rec banger.VM) error {
	if end := v.last().End; end != nil && end.Error != nil && end.Reason == rec.Reason {
		return fmt.Errorf("start vm %q: %w", rec.Name, end.Error)
	}
	lines := logTail(rec.Console)
	if lines != "" {
		lines = "; the last lines of its console:\n" + lines
	}
	return banger.Errorf(banger.Unavailable, "start vm %q: %s%s%s", rec.Name, rec.Reason, tooSmall(rec), lines).
		WithHint("the whole console: banger vm logs %s", rec.Name)
}

// tooSmall tells of a kernel that says, before it panics, that it lacks memory.
// How much each kernel needs nobody knows before.
func tooSmall(rec banger.VM) string {
	if !strings.Contains(strings.ToLower(rec.Reason), "memory") {
		return ""
	}
	return fmt.Sprintf(": %s are too little for it, take more with --memory", mib(rec.Spec.Memory))
}

// What an error shows of a log.
const (
	tailLines = 8
	tailBytes = 4 << 10
)

// logTail is the end of a log, fit to be printed.
func logTail(path string) string {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(max(0, size-tailBytes), io.SeekStart)
	}
	b, _ := io.ReadAll(io.LimitReader(f, tailBytes))
	lines := strings.Split(printable(b), "\n")
	return strings.Join(lines[max(0, len(lines)-tailLines):], "\n")
}

// printable leaves out what a terminal might act on: control characters, the
// two-byte ones too, and what turns the direction of a text.
func printable(b []byte) string { return strings.TrimSpace(visibleText(b)) }

func visibleText(b []byte) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || unicode.IsPrint(r):
			return r
		case r == '\t':
			return ' '
		}
		return -1
	}, string(b))
}
