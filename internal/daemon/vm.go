package daemon

import (
	"context"
	"errors"
	"reflect"
	"sync"
	"time"

	"banger"
	"banger/internal/shim"
	"banger/internal/state"
)

// vm is one VM in the daemon's memory: its record and the connection to its shim.
type vm struct {
	d *Daemon

	// writing is held from a change of the record until it is on disk, so that
	// records are written in the order of the changes.
	writing sync.Mutex
	kept    context.Context // ends when the VM is removed
	remove  context.CancelFunc

	mu      sync.Mutex
	rec     banger.VM        // what it points to is never changed, only replaced
	status  shim.Status      // the last one of the last machine
	client  *shim.Client     // names the machine; nil: there is none
	verdict *shim.End        // what this daemon has decided about that machine's end
	changed chan struct{}    // closed at each change, then replaced
	queued  map[*queued]bool // its starts that wait for a boot slot

	// Of a machine that runs the steps of a build, set before it starts: the disk of
	// the caches, and what the guest calls it. Empty: it has none.
	caches, cachesDevice string
}

func (d *Daemon) newVM(rec banger.VM) *vm {
	v := &vm{d: d, rec: rec, changed: make(chan struct{}), queued: map[*queued]bool{}}
	v.kept, v.remove = context.WithCancel(context.WithoutCancel(d.life)) // a daemon that goes down removes no VM
	return v
}

// record is a copy of the record as it is now.
func (v *vm) record() banger.VM {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.rec
}

// machine is the connection to the shim of the machine there is, or nil.
func (v *vm) machine() *shim.Client {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.client
}

// last is the last status of the last machine.
func (v *vm) last() shim.Status {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.status
}

// update notes what is so, whatever the disk says to it; who waits is woken
// before the record is written.
func (v *vm) update(f func(*banger.VM)) error {
	v.writing.Lock()
	defer v.writing.Unlock()
	old := v.record()
	rec := old
	f(&rec)
	if reflect.DeepEqual(old, rec) {
		return nil
	}
	v.set(rec)
	err := v.write(rec)
	v.d.journal.add(vmEvents(old, rec)...)
	if err != nil {
		v.d.Log.Error("write record", "vm", rec.Name, "err", err)
	}
	return err
}

// intend notes what is to be so: on disk first, and nowhere if that fails.
func (v *vm) intend(f func(*banger.VM)) error {
	v.writing.Lock()
	defer v.writing.Unlock()
	old := v.record()
	rec := old
	f(&rec)
	if err := v.write(rec); err != nil {
		return err
	}
	v.set(rec)
	v.d.journal.add(vmEvents(old, rec)...)
	return nil
}

func (v *vm) set(rec banger.VM) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !canGo(v.rec.State, rec.State) {
		v.d.Log.Error("no such transition", "vm", rec.Name, "from", v.rec.State, "to", rec.State)
	}
	v.rec = rec
	v.wake()
}

// wake wakes who waits; mu is held.
func (v *vm) wake() {
	close(v.changed)
	v.changed = make(chan struct{})
}

// write never writes over a record that could not be read, and not into the
// folder of a VM that is removed.
func (v *vm) write(rec banger.VM) error {
	if rec.State == banger.Broken || v.removed() {
		return nil
	}
	return state.WriteRecord(v.d.disks.Path(rec.ID, state.VMFile), rec)
}

// delete removes the folder, when no record is being written into it any more.
func (v *vm) delete() error {
	v.writing.Lock()
	defer v.writing.Unlock()
	id := v.record().ID
	if err := v.d.disks.Delete(id); err != nil && v.d.disks.Has(id) {
		return err
	} else if err != nil { // out of sight; the next sweep gets the rest
		v.d.Log.Error("remove vm", "vm", v.record().Name, "err", err)
	}
	v.remove()
	return nil
}

func (v *vm) removed() bool { return v.kept.Err() != nil }

// wait waits until f says yes, which is asked at each change.
func (v *vm) wait(ctx context.Context, f func(banger.VM) bool) (banger.VM, error) {
	for {
		v.mu.Lock()
		rec, changed := v.rec, v.changed
		v.mu.Unlock()
		if f(rec) {
			return rec, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return rec, context.Cause(ctx)
		}
	}
}

// waitEnd waits until the machine has ended: the VM may have another one by then.
func (v *vm) waitEnd(ctx context.Context, c *shim.Client) (banger.VM, error) {
	return v.wait(ctx, func(rec banger.VM) bool {
		now := v.machine()
		return !alive(rec.State) || now != nil && now != c
	})
}

// apply takes over what the shim tells.
func (v *vm) apply(s shim.Status) {
	v.mu.Lock()
	v.status = s
	v.wake() // the record may stay as it is
	verdict := v.verdict
	if s.Phase == shim.Ended {
		v.client, v.verdict = nil, nil
	}
	v.mu.Unlock()
	var old, rec banger.VM
	_ = v.update(func(r *banger.VM) {
		old = *r
		if s.Machine != nil {
			r.Machine, r.Again = s.Machine, r.Again && r.State == banger.Stopping
		}
		if s.Phase == shim.Ended {
			endRecord(r, s.End, verdict)
			if verdict != nil && verdict.State == banger.Failed && s.Seen != "" { // nobody asks after a boot that a user gave up
				r.Reason += "; " + s.Seen
			}
		} else {
			liveRecord(r, s)
		}
		rec = *r
	})
	switch {
	case s.Phase == shim.Ended:
		v.d.Log.Info("vm ended", "vm", rec.Name, "state", rec.State, "reason", rec.Reason)
		if rec.Again {
			v.d.tasks.Go(func() { v.d.startAgain(v) })
		}
	case rec.State == banger.Running && old.State == banger.Starting && unsettled(rec):
		c := v.machine()
		v.d.tasks.Go(func() { v.awaitCapabilities(c) })
	case rec.State == banger.Starting && old.State != banger.Starting:
		v.d.Log.Info("vm reboots", "vm", rec.Name)
		c := v.machine()
		v.d.tasks.Go(func() { v.overdue(c) })
	}
}

// liveRecord notes how a machine is that has not ended.
func liveRecord(r *banger.VM, s shim.Status) {
	switch {
	case r.State == banger.Stopping:
	case s.Expired != "":
		r.State, r.Reason = banger.Stopping, s.Expired
	case s.Phase == shim.Starting && r.State != banger.Starting:
		r.State, r.Reason, r.Capabilities = banger.Starting, "the guest rebooted", afresh(r.Capabilities)
	case s.Phase == shim.Running && s.Paused:
		r.State, r.Reason = banger.Paused, ""
	case s.Phase == shim.Running && r.State == banger.Starting:
		r.State, r.Reason, r.StartedAt = banger.Running, "", time.Now().UTC()
		r.Capabilities = withAgent(r.Capabilities)
	case s.Phase == shim.Running:
		r.State = banger.Running
	}
}

// endRecord notes how a machine ended, and whether there is to be another one.
func endRecord(r *banger.VM, end, verdict *shim.End) {
	asked := end.Expired || r.State == banger.Stopping && (verdict == nil || verdict.State == banger.Stopped)
	ranWell := r.StartedAt.Add(wellTime).Before(end.Time)
	r.State, r.Reason, r.StoppedAt, r.Machine = end.State, end.Reason, end.Time, nil
	r.Capabilities = nil
	if verdict != nil {
		r.State, r.Reason = verdict.State, verdict.Reason
	}
	r.ExitCode = 0
	if r.State == banger.Failed {
		r.ExitCode = 1
	}
	if ranWell {
		r.Restarts = 0
	}
	if asked { // a restart, perhaps
		return
	}
	r.Again = r.Spec.Restart == "always" || r.Spec.Restart == "on-failure" && r.State == banger.Failed
	if r.Again {
		r.Restarts++
	}
}

// follow applies all that the shim tells until its machine has ended, or the
// daemon goes down. A shim that vanishes takes its machine with it.
func (v *vm) follow(c *shim.Client) {
	v.mu.Lock()
	v.client, v.verdict, v.status = c, nil, shim.Status{}
	v.mu.Unlock()
	stop := context.AfterFunc(v.d.life, func() { _ = c.Close() })
	v.d.tasks.Go(func() {
		defer stop()
		defer c.Close()
		for {
			s, err := c.Next()
			if v.d.life.Err() != nil {
				return
			}
			if err != nil {
				s = v.buried()
			}
			v.apply(s)
			if s.Phase == shim.Ended {
				return
			}
		}
	})
	v.d.tasks.Go(func() { v.overdue(c) })
}

// obeyTime is what a shim gets, beyond the guest's grace, to carry an order out.
const obeyTime = 5 * time.Second

// end asks the shim for the end of the machine. A shim that does not obey, as
// one that is stopped, is ended with all that belongs to the machine.
func (v *vm) end(force bool, grace time.Duration) {
	c := v.machine()
	if c == nil {
		return
	}
	order := func() error { return c.Stop(grace) }
	if force {
		order, grace = c.Kill, 0
	}
	_ = order() // a shim that does not hear it is gone, and follow sees that
	v.d.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(v.d.life, grace+v.d.obey)
		defer cancel()
		if _, err := v.waitEnd(ctx, c); err == nil || v.d.life.Err() != nil {
			return
		}
		rec := v.record()
		v.d.Log.Warn("the shim does not obey: it is killed", "vm", rec.Name)
		// No more than that: follow sees it vanish, and clears up before anybody
		// can start another machine, which endMachine here might take for this one.
		found, err := v.d.machineProcesses(rec)
		if v.machine() != c {
			return
		}
		for _, p := range found {
			err = errors.Join(err, killProcess(p))
		}
		if err != nil {
			v.d.Log.Error("end machine", "vm", rec.Name, "err", err)
		}
	})
}
