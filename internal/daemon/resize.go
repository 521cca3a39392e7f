package daemon

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"banger"
	"banger/internal/shim"
	"banger/internal/state"
)

// vmResize makes a VM's disk larger, at once where it runs, else its file system
// grows at the next start. First the record says so: from then on every start
// makes the disk as large as that, so a kill -9 at any step leaves a disk that is
// as before, or as asked once the VM is started, and never a file system that is
// larger than its disk.
func (d *Daemon) vmResize(ctx context.Context, r banger.VMResizeRequest) (banger.VM, error) {
	v, err := d.find(r.Name)
	if err != nil {
		return banger.VM{}, err
	}
	unlock, err := d.hold(ctx, v)
	if err != nil {
		return banger.VM{}, err
	}
	defer unlock()
	rec, c := v.record(), v.machine()
	live := alive(rec.State)
	switch {
	case rec.State == banger.Broken:
		return rec, banger.Errorf(banger.Conflict, "%s", rec.Problem).WithHint("banger vm rm %s", rec.ID)
	case r.Disk > maxDisk:
		return rec, banger.Errorf(banger.Invalid, "%d bytes of disk: want at most 16 TiB", r.Disk)
	case r.Disk < rec.Spec.Disk:
		return rec, banger.Errorf(banger.Invalid, "resize vm %q to %d bytes: its disk has %d, and disks only grow", rec.Name, r.Disk, rec.Spec.Disk).
			WithHint("make a vm with a smaller --disk, and copy what you need")
	case live && (rec.State != banger.Running || c == nil):
		return rec, banger.Errorf(banger.Conflict, "resize vm %q: it is %s", rec.Name, rec.State).WithHint("try it when it runs, or has stopped")
	}
	if err := v.intend(func(rec *banger.VM) { rec.Spec.Disk = r.Disk }); err != nil {
		return v.record(), err
	}
	d.at("resize: intended")
	if live {
		err = v.grow(ctx, c, r.Disk)
	} else {
		err = d.fitDisk(v.record())
	}
	if err != nil {
		err = fmt.Errorf("resize vm %q: %w", rec.Name, err)
		if live {
			err = banger.AsError(err).WithHint("its disk is made larger at its next start: banger vm restart %s", rec.Name)
		}
		return v.record(), err
	}
	d.at("resize: grown")
	return v.record(), nil
}

// grow has the shim make the disk of a machine that runs larger.
func (v *vm) grow(ctx context.Context, c *shim.Client, size int64) error {
	id := time.Now().UnixNano()
	if err := c.Grow(id, size); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, shim.GrowTime+time.Second)
	defer cancel()
	answered := func() *shim.Answer {
		if a := v.last().Answer; a != nil && a.ID == id {
			return a
		}
		return nil
	}
	rec, err := v.wait(ctx, func(rec banger.VM) bool { return answered() != nil || !alive(rec.State) })
	switch a := answered(); {
	case a != nil && a.Error != nil:
		return a.Error
	case a == nil && err == nil:
		return banger.Errorf(banger.Conflict, "vm %q is %s", rec.Name, rec.State)
	}
	return err
}

// fitDisk makes the file of a VM's disk as large as its record says. The guest
// grows the file system at its next boot.
func (d *Daemon) fitDisk(rec banger.VM) error {
	f, err := os.OpenFile(filepath.Join(d.Layout.VM(rec.ID), state.DiskFile), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || fi.Size() >= rec.Spec.Disk {
		return err
	}
	if err := f.Truncate(rec.Spec.Disk); err != nil {
		return state.Classify(fmt.Errorf("make the disk larger: %w", err))
	}
	return f.Sync()
}
