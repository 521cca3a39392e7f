package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"banger"
	"banger/internal/state"
)

func (d *Daemon) vmList(context.Context, none) ([]banger.VM, error) { return d.allVMs(), nil }

func (d *Daemon) vmShow(_ context.Context, r banger.NameRequest) (banger.VM, error) {
	v, err := d.find(r.Name)
	if err != nil {
		return banger.VM{}, err
	}
	return v.record(), nil
}

// allVMs lists the records, oldest first.
func (d *Daemon) allVMs() []banger.VM {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := make([]banger.VM, 0, len(d.vms))
	for _, v := range d.vms {
		list = append(list, v.record())
	}
	slices.SortFunc(list, func(a, b banger.VM) int {
		if c := a.CreatedAt.Compare(b.CreatedAt); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return list
}

// find takes an ID, a name or an unambiguous prefix of at least four digits of
// an ID, in this order: an ID may be somebody else's name.
func (d *Daemon) find(name string) (*vm, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if v, ok := d.vms[name]; ok {
		return v, nil
	}
	var hits []*vm
	var names []string
	for id, v := range d.vms {
		rec := v.record()
		if rec.Name == name {
			return v, nil
		}
		if len(name) >= 4 && strings.HasPrefix(id, name) {
			hits = append(hits, v)
		}
		names = append(names, rec.Name)
	}
	if len(hits) == 1 {
		return hits[0], nil
	}
	if len(hits) > 1 {
		var ids []string
		for _, v := range hits {
			ids = append(ids, v.record().ID)
		}
		slices.Sort(ids)
		return nil, banger.Errorf(banger.Invalid, "%q may be any of %s", name, strings.Join(ids, ", "))
	}
	err := banger.Errorf(banger.NotFound, "no vm named %q", name)
	slices.Sort(names) // of several that are as near always the same one
	if near := state.Nearest(name, names); near != "" {
		return nil, err.WithHint("did you mean %s?", near)
	}
	return nil, err.WithHint("banger vm ls")
}

// vmUsers names the VMs whose spec fits.
func (d *Daemon) vmUsers(fits func(banger.VMSpec) bool) []string {
	var users []string
	for _, v := range d.allVMs() {
		if fits(v.Spec) {
			users = append(users, "vm "+v.Name)
		}
	}
	return users
}

func (d *Daemon) vmStart(ctx context.Context, r banger.NameRequest, p progress) (banger.VM, error) {
	v, err := d.find(r.Name)
	if err != nil {
		return banger.VM{}, err
	}
	if r.Force { // also for those who start it again
		if err := v.intend(func(rec *banger.VM) { rec.Spec.Overcommit = true }); err != nil {
			return v.record(), err
		}
	}
	return d.start(ctx, v, p)
}

// hold keeps a VM for one operation at a time. One that was removed while it
// was waited for is a NotFound error.
func (d *Daemon) hold(ctx context.Context, v *vm) (unlock func(), err error) {
	rec := v.record()
	if unlock, err = d.keys.Lock(ctx, "vm/"+rec.ID); err != nil {
		return nil, err
	}
	if v.removed() {
		unlock()
		return nil, banger.Errorf(banger.NotFound, "no vm named %q", rec.Name).WithHint("banger vm ls")
	}
	return unlock, nil
}

func (d *Daemon) vmStop(ctx context.Context, r banger.VMStopRequest) (banger.VM, error) {
	v, err := d.find(r.Name)
	if err != nil {
		return banger.VM{}, err
	}
	_ = v.update(func(rec *banger.VM) { rec.Again = false })
	v.stopQueued()
	return d.stopMachine(ctx, v, r)
}

// stopMachine holds the VM only while it asks, so that a second stop can be by force.
func (d *Daemon) stopMachine(ctx context.Context, v *vm, r banger.VMStopRequest) (banger.VM, error) {
	grace := time.Duration(min(r.Seconds, maxGrace)) * time.Second
	if grace <= 0 {
		grace = defaultGrace
	}
	unlock, err := d.hold(ctx, v)
	if err != nil {
		return banger.VM{}, err
	}
	if !alive(v.record().State) {
		unlock()
		return v.record(), nil
	}
	// Noted for the next daemon; a full disk must not keep a VM running.
	_ = v.update(func(rec *banger.VM) { rec.State, rec.Reason = banger.Stopping, "" })
	d.at("stop: intended")
	c := v.machine()
	v.end(r.Force, grace)
	d.at("stop: ordered")
	unlock()
	return v.waitEnd(ctx, c)
}

// vmRename changes the name in one step: that of the record.
func (d *Daemon) vmRename(ctx context.Context, r banger.VMRenameRequest) (banger.VM, error) {
	if err := state.ValidateVMName(r.New); err != nil {
		return banger.VM{}, err
	}
	v, err := d.find(r.Name)
	if err != nil {
		return banger.VM{}, err
	}
	unlock, err := d.hold(ctx, v)
	if err != nil {
		return banger.VM{}, err
	}
	defer unlock()
	rec := v.record()
	if rec.State == banger.Broken {
		return rec, banger.Errorf(banger.Conflict, "%s", rec.Problem).WithHint("banger vm rm %s", rec.ID)
	}
	if rec.Name == r.New {
		return rec, nil
	}
	free, err := d.reserve(r.New)
	if err != nil {
		return rec, err
	}
	defer free()
	err = v.intend(func(rec *banger.VM) { rec.Name, rec.Spec.Name = r.New, r.New })
	return v.record(), err
}

// vmPrune removes the VMs that have ended and are not started again.
func (d *Daemon) vmPrune(ctx context.Context, r banger.VMPruneRequest) ([]banger.VM, error) {
	gone := []banger.VM{}
	var errs []error
	for _, rec := range d.allVMs() {
		if alive(rec.State) || rec.State == banger.Created || rec.State == banger.Broken || rec.Again || rec.Owner != nil {
			continue
		}
		if !r.DryRun {
			if _, err := d.vmDelete(ctx, banger.NameRequest{Name: rec.ID}); banger.IsKind(err, banger.NotFound) || banger.IsKind(err, banger.Conflict) {
				continue // somebody was faster
			} else if err != nil {
				errs = append(errs, err)
				continue
			}
		}
		gone = append(gone, rec)
	}
	return gone, errors.Join(errs...)
}

func (d *Daemon) vmDelete(ctx context.Context, r banger.NameRequest) (none, error) {
	v, err := d.find(r.Name)
	if err != nil {
		return none{}, err
	}
	unlock, err := d.hold(ctx, v)
	if err != nil {
		return none{}, err
	}
	defer unlock()
	if rec := v.record(); alive(rec.State) && !r.Force {
		return none{}, banger.Errorf(banger.Conflict, "vm %q is %s", rec.Name, rec.State).
			WithHint("banger vm stop %s, or banger vm rm --force %s", rec.Name, rec.Name)
	}
	return none{}, d.removeHeld(v)
}

// remove takes a VM away whatever it does, for good: also when the caller is gone.
func (d *Daemon) remove(v *vm) error {
	unlock, err := d.hold(d.life, v)
	if banger.IsKind(err, banger.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	return d.removeHeld(v)
}

// removeHeld goes on without its caller once it has begun. The VM is gone when
// its folder is; until then its name is taken.
func (d *Daemon) removeHeld(v *vm) error {
	rec := v.record()
	if alive(rec.State) {
		// Now it belongs to the daemon: should that be killed, the next one goes on.
		_ = v.update(func(r *banger.VM) { r.Owner = &d.self })
		d.at("delete: intended")
		c := v.machine()
		v.end(true, 0)
		if _, err := v.waitEnd(d.life, c); err != nil {
			return err
		}
		d.at("delete: ended")
	}
	// Nothing is left of a machine that was seen to end. Of a VM whose record
	// cannot be read nobody knows.
	if err := d.endMachine(rec); rec.State == banger.Broken && err != nil {
		return fmt.Errorf("remove vm %q: %w", rec.Name, err)
	}
	if err := v.delete(); err != nil {
		return err
	}
	d.at("delete: deleted")
	d.forget(rec.ID)
	d.journal.add(vmEvent(v.record(), "removed", ""))
	d.Log.Info("vm removed", "vm", rec.Name)
	return errors.Join(removeUnless(false, d.cachesOf(rec.ID)), d.dropTemporary(rec.Spec.Image))
}

func (d *Daemon) forget(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.vms, id)
}
