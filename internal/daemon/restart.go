package daemon

import (
	"context"
	"time"

	"banger"
)

// A machine that its restart policy starts again waits the longer the more
// often it has ended soon.
const (
	firstRest = time.Second
	lastRest  = time.Minute
	wellTime  = time.Minute // a machine that has run so long has run well
)

// vmRestart stops a VM and starts it. From its first step on the record says
// that it is to be started: whoever finds it stopped does so.
func (d *Daemon) vmRestart(ctx context.Context, r banger.VMStopRequest, p progress) (banger.VM, error) {
	v, err := d.find(r.Name)
	if err != nil {
		return banger.VM{}, err
	}
	if alive(v.record().State) {
		if err := v.intend(func(rec *banger.VM) { rec.Again = true }); err != nil {
			return v.record(), err
		}
		d.at("restart: intended")
		p(banger.Progress{Step: "stop " + v.record().Name})
		if _, err := d.stopMachine(ctx, v, r); err != nil {
			return v.record(), err
		}
		d.at("restart: stopped")
		if rec := v.record(); !alive(rec.State) && !rec.Again {
			return rec, banger.Errorf(banger.Conflict, "vm %q was stopped meanwhile", rec.Name)
		}
	}
	return d.start(ctx, v, p)
}

// startAgain starts a VM whose record says so, after a rest if it is its policy
// that wants it, unless something else becomes of it meanwhile.
func (d *Daemon) startAgain(v *vm) {
	rec := v.record()
	if rec.Restarts > 0 {
		rest, cancel := context.WithTimeout(d.life, min(firstRest<<min(rec.Restarts-1, 10), lastRest))
		defer cancel()
		_, err := v.wait(rest, func(rec banger.VM) bool { return !rec.Again || v.removed() })
		if err == nil || d.life.Err() != nil {
			return
		}
	}
	if !v.record().Again || v.removed() {
		return
	}
	d.Log.Info("vm is started again", "vm", rec.Name, "restarts", rec.Restarts)
	if _, err := d.begin(d.life, v, func(banger.Progress) {}); err != nil && d.life.Err() == nil && !v.removed() {
		d.Log.Error("start vm again", "vm", rec.Name, "err", err)
		_ = v.update(func(r *banger.VM) {
			if !alive(r.State) && r.Again { // else it was stopped while it waited for its turn
				r.State, r.Reason, r.Again = banger.Failed, "it could not be started again: "+err.Error(), false
			}
		})
	}
}

// vmWait waits for the last end of a VM: not for one that is followed by a start.
func (d *Daemon) vmWait(ctx context.Context, r banger.NameRequest) (banger.VM, error) {
	v, err := d.find(r.Name)
	if err != nil {
		return banger.VM{}, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(v.kept, func() {
		cancel(banger.Errorf(banger.NotFound, "vm %q was removed", v.record().Name))
	})()
	return v.wait(ctx, func(rec banger.VM) bool { return !alive(rec.State) && !rec.Again })
}
