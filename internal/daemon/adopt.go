package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"banger"
	"banger/internal/shim"
	"banger/internal/state"
)

// adoptAll reads every VM record and takes the machines that still run back
// into the daemon's hands.
func (d *Daemon) adoptAll() error {
	records, err := d.disks.List()
	if err != nil {
		return err
	}
	boot := bootID()
	for _, rec := range records {
		v := d.newVM(rec)
		d.vms[rec.ID] = v
		if alive(rec.State) {
			d.adopt(v, boot)
		}
		if rec.Owner != nil {
			d.watchOwner(v)
		}
	}
	return nil
}

// adopt finds out what became of one machine while no daemon looked.
func (d *Daemon) adopt(v *vm, boot string) {
	rec := v.record()
	if rec.Machine != nil && rec.Machine.BootID != boot {
		// Other processes have its pids now, and its sockets are gone.
		v.apply(ended(banger.Stopped, "the host was restarted"))
		return
	}
	dial, cancel := context.WithTimeout(d.life, 5*time.Second)
	defer cancel()
	c, err := shim.Dial(dial, filepath.Join(d.Layout.VMRun(rec.ID), state.ShimSocket))
	if err != nil {
		v.apply(v.buried())
		return
	}
	v.follow(c)
	if rec.State == banger.Stopping {
		v.end(false, defaultGrace)
	}
	d.Log.Info("vm adopted", "vm", rec.Name, "state", rec.State)
}

// buried finds out how a machine ended whose shim does not answer any more: by
// the shim's last words, else the VMM it left behind is ended.
func (v *vm) buried() shim.Status {
	rec := v.record()
	var last shim.Status
	err := state.ReadRecord(v.d.disks.Path(rec.ID, state.ExitFile), &last)
	if err == nil && last.Phase == shim.Ended && last.End != nil {
		return last
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		v.d.Log.Error("read exit record", "vm", rec.Name, "err", err)
	}
	if rec.Machine != nil {
		if err := killProcess(rec.Machine.VMM); err != nil {
			v.d.Log.Error("end orphaned machine", "vm", rec.Name, "err", err)
		}
		return ended(banger.Failed, "its shim was killed")
	}
	why := "its shim ended before the machine was started"
	if b, err := os.ReadFile(v.d.disks.Path(rec.ID, state.ShimLog)); err == nil && len(b) > 0 {
		why += ": " + strings.TrimSpace(string(b[max(0, len(b)-1000):]))
	}
	return ended(banger.Failed, why)
}

func ended(s banger.VMState, reason string) shim.Status {
	return shim.Status{Phase: shim.Ended, End: &shim.End{State: s, Reason: reason, Time: time.Now().UTC()}}
}

// watchOwner removes the VM when the process that it belongs to has ended.
func (d *Daemon) watchOwner(v *vm) {
	d.tasks.Go(func() {
		if err := d.ownerEnd(*v.record().Owner); err != nil {
			return // the daemon goes down
		}
		if err := d.remove(v); err != nil && d.life.Err() == nil {
			d.Log.Error("remove vm", "vm", v.record().Name, "err", err)
		}
	})
}

// ownerEnd waits for the end of p; its error means that the daemon goes down.
func (d *Daemon) ownerEnd(p banger.Process) error {
	hold, err := holdProcess(p)
	if err != nil {
		return nil
	}
	defer context.AfterFunc(d.life, hold.close)()
	if err := hold.wait(); d.life.Err() != nil {
		return fmt.Errorf("wait for process %d: %w", p.PID, err)
	}
	hold.close()
	return nil
}

func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}
