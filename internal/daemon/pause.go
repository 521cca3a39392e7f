package daemon

import (
	"context"
	"fmt"
	"time"

	"banger"
	"banger/internal/shim"
)

func (d *Daemon) vmPause(ctx context.Context, r banger.NameRequest) (banger.VM, error) {
	rec, err := d.setPaused(ctx, r.Name, banger.Running, banger.Paused, (*shim.Client).Pause)
	if err != nil {
		return rec, fmt.Errorf("pause vm: %w", err)
	}
	return rec, nil
}

func (d *Daemon) vmResume(ctx context.Context, r banger.NameRequest) (banger.VM, error) {
	rec, err := d.setPaused(ctx, r.Name, banger.Paused, banger.Running, (*shim.Client).Resume)
	if err != nil {
		return rec, fmt.Errorf("resume vm: %w", err)
	}
	return rec, nil
}

// setPaused gives the shim the order that takes a VM from one state to the
// other one. It is one step: the shim knows at any time how it is, and the record
// follows it. So a daemon that is killed meanwhile leaves nothing to be undone.
func (d *Daemon) setPaused(ctx context.Context, name string, from, to banger.VMState, order func(*shim.Client, int64) error) (banger.VM, error) {
	v, err := d.find(name)
	if err != nil {
		return banger.VM{}, err
	}
	unlock, err := d.hold(ctx, v)
	if err != nil {
		return banger.VM{}, err
	}
	defer unlock()
	rec, c := v.record(), v.machine()
	if rec.State == to {
		return rec, nil
	}
	if rec.State != from || c == nil {
		return rec, banger.Errorf(banger.Conflict, "vm %q is %s", rec.Name, rec.State)
	}
	d.at(string(to) + ": begun")
	id := time.Now().UnixNano()
	if err := order(c, id); err != nil {
		return rec, err
	}
	d.at(string(to) + ": ordered")
	ctx, cancel := context.WithTimeout(ctx, obeyTime+time.Second)
	defer cancel()
	refused := func() *banger.Error {
		if a := v.last().Answer; a != nil && a.ID == id {
			return a.Error
		}
		return nil
	}
	// An order that is not refused is followed by the state, in the record too.
	rec, err = v.wait(ctx, func(rec banger.VM) bool { return rec.State == to || refused() != nil || !alive(rec.State) })
	if e := refused(); e != nil {
		return rec, e
	}
	if err == nil && rec.State != to {
		err = banger.Errorf(banger.Conflict, "vm %q is %s", rec.Name, rec.State)
	}
	return rec, err
}
