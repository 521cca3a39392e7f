package daemon

import (
	"context"
	"sync"
	"time"

	"banger"
	"banger/internal/shim"
	"banger/internal/state"
)

// vm is one VM in the daemon's memory: its record and the connection to its shim.
type vm struct {
	d *Daemon

	mu      sync.Mutex
	rec     banger.VM
	status  shim.Status   // the last one of the machine that runs
	client  *shim.Client  // nil: no machine
	changed chan struct{} // closed at each change, then replaced
}

func (d *Daemon) newVM(rec banger.VM) *vm {
	return &vm{d: d, rec: rec, changed: make(chan struct{})}
}

// record is a copy of the record as it is now.
func (v *vm) record() banger.VM {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.rec
}

// update changes the record, in memory and on disk, and wakes who waits.
func (v *vm) update(f func(*banger.VM)) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	f(&v.rec)
	close(v.changed)
	v.changed = make(chan struct{})
	err := state.WriteRecord(v.d.disks.Path(v.rec.ID, state.VMFile), v.rec)
	if err != nil {
		v.d.Log.Error("write record", "vm", v.rec.ID, "err", err)
	}
	return err
}

// wait waits until the record is as f wants it.
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

// alive reports whether a VM in that state has, or may have, a machine.
func alive(s banger.VMState) bool {
	return s == banger.Starting || s == banger.Running || s == banger.Stopping
}

// apply takes over what the shim tells.
func (v *vm) apply(s shim.Status) {
	v.mu.Lock()
	v.status = s
	v.mu.Unlock()
	_ = v.update(func(r *banger.VM) {
		r.Machine = s.Machine
		switch {
		case s.Phase == shim.Ended:
			r.State, r.Reason, r.StoppedAt, r.Machine = s.End.State, s.End.Reason, s.End.Time, nil
		case s.Phase == shim.Running && r.State == banger.Starting:
			r.State, r.Reason, r.StartedAt = banger.Running, "", time.Now().UTC()
		}
	})
	if s.Phase == shim.Ended {
		v.d.Log.Info("vm ended", "vm", v.rec.Name, "reason", s.End.Reason)
	}
}

// follow applies all that the shim tells until its machine has ended, or the
// daemon goes down. A shim that vanishes takes its machine with it.
func (v *vm) follow(c *shim.Client) {
	v.mu.Lock()
	v.client = c
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
			if s.Phase == shim.Ended {
				v.mu.Lock()
				v.client = nil
				v.mu.Unlock()
			}
			v.apply(s)
			if s.Phase == shim.Ended {
				return
			}
		}
	})
}

// order sends an order to the shim, if there is one.
func (v *vm) order(f func(*shim.Client) error) {
	v.mu.Lock()
	c := v.client
	v.mu.Unlock()
	if c != nil {
		_ = f(c) // a shim that does not hear it is gone, and follow sees that
	}
}
