package daemon

import (
	"context"
	"os"
	"sync"
	"syscall"
	"time"

	"banger"
	"banger/internal/hostmem"
	"banger/internal/state"
	"banger/internal/vmm"
)

// statsTime bounds how long a machine may take to tell its counters: a VMM that
// hangs must not hide what the others use.
const statsTime = 2 * time.Second

func (d *Daemon) vmStats(ctx context.Context, r banger.VMStatsRequest) ([]banger.VMStats, error) {
	var vms []*vm
	for _, name := range r.Names {
		v, err := d.find(name)
		if err != nil {
			return nil, err
		}
		vms = append(vms, v)
	}
	if len(r.Names) == 0 {
		for _, rec := range d.allVMs() {
			if v, err := d.find(rec.ID); err == nil && alive(rec.State) {
				vms = append(vms, v)
			}
		}
	}
	all := make([]banger.VMStats, len(vms))
	var looks sync.WaitGroup
	for i, v := range vms {
		looks.Go(func() { all[i] = v.stats(ctx) })
	}
	looks.Wait()
	return all, ctx.Err()
}

func (v *vm) stats(ctx context.Context) banger.VMStats {
	rec := v.record()
	s := banger.VMStats{ID: rec.ID, Name: rec.Name, State: rec.State, CPUs: rec.Spec.CPUs, Memory: rec.Spec.Memory,
		Restarts: rec.Restarts, DiskRead: -1, DiskWritten: -1}
	if rec.Machine != nil && rec.Machine.VMM.PID > 0 {
		s.VMMPID, s.ShimPID, s.Reboots, s.StartedAt = rec.Machine.VMM.PID, rec.Machine.Shim.PID, v.last().Reboots, rec.StartedAt
		if t, err := v.traffic(ctx); err == nil {
			s.DiskRead, s.DiskWritten = t.DiskRead, t.DiskWritten
		}
		s.CPUTime = vmm.CPUTime(s.VMMPID)
		s.RSS, s.PSS = hostmem.Resident(s.VMMPID)
	}
	if fi, err := os.Stat(v.d.disks.Path(rec.ID, state.DiskFile)); err == nil {
		s.DiskSize = fi.Size()
		if st, ok := fi.Sys().(*syscall.Stat_t); ok {
			s.DiskAllocated = st.Blocks * 512
		}
	}
	s.Time = time.Now().UTC()
	return s
}

// traffic asks the machine for its counters, by way of its shim: one at a time,
// for the shim's status has room for one answer.
func (v *vm) traffic(ctx context.Context) (vmm.Traffic, error) {
	ctx, cancel := context.WithTimeout(ctx, statsTime)
	defer cancel()
	unlock, err := v.d.keys.Lock(ctx, "traffic/"+v.record().ID)
	if err != nil {
		return vmm.Traffic{}, err
	}
	defer unlock()
	c := v.machine()
	if c == nil {
		return vmm.Traffic{}, banger.Errorf(banger.Conflict, "it has no machine")
	}
	id := time.Now().UnixNano()
	if err := c.Traffic(id); err != nil {
		return vmm.Traffic{}, err
	}
	answered := func() bool { t := v.last().Traffic; return t != nil && t.ID == id }
	if _, err = v.wait(ctx, func(banger.VM) bool { return answered() || v.machine() != c }); err != nil {
		return vmm.Traffic{}, err
	}
	if !answered() {
		return vmm.Traffic{}, banger.Errorf(banger.Conflict, "its machine has ended")
	}
	t := v.last().Traffic
	if t.Error != nil {
		return vmm.Traffic{}, t.Error
	}
	return t.Traffic, nil
}
