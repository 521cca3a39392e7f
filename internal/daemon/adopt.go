package daemon

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"banger"
	"banger/internal/shim"
	"banger/internal/state"
)

// adoptAll reads every VM record and takes the machines that still run back
// into the daemon's hands.
func (d *Daemon) adoptAll() error {
	ids, err := d.disks.Names()
	if err != nil {
		return err
	}
	boot := bootID()
	for _, id := range ids {
		v := d.newVM(d.load(id))
		d.vms[id] = v
		rec := v.record()
		switch {
		case alive(rec.State):
			d.adopt(v, boot)
		case rec.Again:
			d.tasks.Go(func() { d.startAgain(v) })
		}
		if rec.Owner != nil {
			d.watchOwner(v)
		}
	}
	return nil
}

// load reads one record. What it says of names and states is checked, for
// paths are made of it; the paths in it are where the folder is now.
func (d *Daemon) load(id string) banger.VM {
	rec, err := d.disks.Get(id)
	roots := []banger.RootKind{"", banger.OverlayRoot, banger.FlatRoot} // the first there was is the overlay
	switch {
	case err != nil:
	case rec.ID != id:
		err = banger.Errorf(banger.Conflict, "read vm %q: its record is that of %q", id, rec.ID)
	case transitions[rec.State] == nil:
		err = banger.Errorf(banger.Conflict, "read vm %q: its state is %q", id, rec.State)
	case !slices.Contains(roots, rec.Root):
		err = banger.Errorf(banger.Conflict, "read vm %q: its root is %q", id, rec.Root)
	default:
		if err = state.ValidateVMName(rec.Name); err != nil {
			err = fmt.Errorf("read vm %q: %w", id, err)
		}
	}
	if err != nil {
		return d.disks.Broken(id, err.Error())
	}
	rec.Problem, rec.Root = "", cmp.Or(rec.Root, banger.OverlayRoot)
	rec.Console, rec.Agent = d.consolePath(id), d.agentPath(id)
	return rec
}

func (d *Daemon) consolePath(id string) string {
	return filepath.Join(d.Layout.VM(id), state.ConsoleLog)
}

func (d *Daemon) agentPath(id string) string {
	return filepath.Join(d.Layout.VMRun(id), state.AgentSocket)
}

// adopt finds out what became of one machine while no daemon looked.
func (d *Daemon) adopt(v *vm, boot string) {
	rec := v.record()
	if rec.Machine != nil && rec.Machine.BootID != boot {
		// Other processes have its pids now.
		_ = os.RemoveAll(d.Layout.VMRun(rec.ID))
		v.apply(ended(banger.Stopped, "the host was restarted"))
		return
	}
	dial, cancel := context.WithTimeout(d.life, 5*time.Second)
	defer cancel()
	c, err := shim.Dial(dial, filepath.Join(d.Layout.VMRun(rec.ID), state.ShimSocket))
	if err != nil && v.unborn(rec) {
		return
	}
	if err != nil {
		v.apply(v.buried())
		return
	}
	v.follow(c)
	if rec.State == banger.Running && unsettled(rec) {
		d.tasks.Go(func() { v.awaitCapabilities(c) })
	}
	if rec.State == banger.Stopping {
		v.end(false, defaultGrace)
	}
	d.Log.Info("vm adopted", "vm", rec.Name, "state", rec.State)
}

// unborn takes a start back that the daemon before this one was killed in,
// before there was a machine: the VM is as it was, or, where that was asked for,
// is started after all. It is false where there has been one.
func (v *vm) unborn(rec banger.VM) bool {
	_, ended := os.Stat(v.d.disks.Path(rec.ID, state.ExitFile))
	if rec.State != banger.Starting || rec.Machine == nil || rec.Machine.Shim.PID != 0 || !gone(ended) ||
		logTail(v.d.disks.Path(rec.ID, state.ShimLog)) != "" {
		return false
	}
	if err := v.d.endMachine(rec); err != nil {
		v.d.Log.Error("end orphaned machine", "vm", rec.Name, "err", err)
	}
	_ = v.update(func(r *banger.VM) {
		r.Machine, r.Capabilities = nil, nil
		r.Reason, r.State = "the daemon was killed before it was started", banger.Created
		if !r.StartedAt.IsZero() {
			r.State, r.StoppedAt = banger.Stopped, time.Now().UTC()
		}
	})
	if rec.Again {
		v.d.tasks.Go(func() { v.d.startAgain(v) })
	}
	return true
}

// buried finds out how a machine ended whose shim does not answer any more: by
// the shim's last words, else what it left behind is ended.
func (v *vm) buried() shim.Status {
	rec := v.record()
	if err := v.d.endMachine(rec); err != nil {
		v.d.Log.Error("end orphaned machine", "vm", rec.Name, "err", err)
	}
	var last shim.Status
	err := state.ReadRecord(v.d.disks.Path(rec.ID, state.ExitFile), &last)
	if err == nil && last.Phase == shim.Ended && last.End != nil {
		if last.End.State != banger.Stopped {
			last.End.State = banger.Failed
		}
		return last
	}
	if err != nil && !gone(err) {
		v.d.Log.Error("read exit record", "vm", rec.Name, "err", err)
	}
	switch {
	case rec.State == banger.Stopping:
		return ended(banger.Stopped, "killed")
	case rec.Machine != nil && rec.Machine.Shim.PID != 0:
		return ended(banger.Failed, "its shim was killed")
	}
	why := "its shim ended before the machine was started"
	if words := logTail(v.d.disks.Path(rec.ID, state.ShimLog)); words != "" {
		why += ": " + strings.ReplaceAll(words, "\n", "; ")
	}
	return ended(banger.Failed, why)
}

func ended(s banger.VMState, reason string) shim.Status {
	return shim.Status{Phase: shim.Ended, End: &shim.End{State: s, Reason: reason, Time: time.Now().UTC()}}
}

// watchOwner removes the VM when the process that it belongs to has ended.
func (d *Daemon) watchOwner(v *vm) {
	owner := *v.record().Owner
	d.tasks.Go(func() {
		if !d.ownerEnd(v, owner) {
			return
		}
		if err := d.remove(v); err != nil && d.life.Err() == nil {
			d.Log.Error("remove vm", "vm", v.record().Name, "err", err)
		}
	})
}

// ownerEnd waits for the end of p. It is false when the daemon goes down or the
// VM was removed before.
func (d *Daemon) ownerEnd(v *vm, p banger.Process) bool {
	over := func() bool { return d.life.Err() != nil || v.removed() }
	for !over() {
		hold, err := holdProcess(p)
		if banger.IsKind(err, banger.NotFound) {
			return true
		}
		if err != nil { // of descriptors, most likely: nothing tells when there are some again
			d.Log.Error("watch owner", "vm", v.record().Name, "err", err)
			select {
			case <-time.After(time.Second):
			case <-d.life.Done():
			case <-v.kept.Done():
			}
			continue
		}
		downs := context.AfterFunc(d.life, hold.close)
		leaves := context.AfterFunc(v.kept, hold.close)
		err = hold.wait()
		_, _ = downs(), leaves()
		hold.close()
		if err == nil {
			return true
		}
	}
	return false
}

func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}
