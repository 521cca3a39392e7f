package banger

import (
	"context"
	"time"
)

// VMStatsRequest asks what VMs use.
type VMStatsRequest struct {
	Names []string `json:"names,omitempty"` // none: all that have a machine
}

// VMStats is what a VM uses at one moment. Counters begin with the machine,
// also with the next one of a guest that reboots; without a machine they are 0.
type VMStats struct {
	ID    string    `json:"id"`
	Name  string    `json:"name"`
	State VMState   `json:"state"`
	Time  time.Time `json:"time"` // of this look

	CPUs    int           `json:"cpus"`
	CPUTime time.Duration `json:"cpu_ns"` // of the VMM: what the guest used, and its emulation
	Memory  int64         `json:"memory"` // bytes, what the guest has
	RSS     int64         `json:"rss"`    // bytes, what the VMM holds of the host
	PSS     int64         `json:"pss"`    // bytes, the same with what is shared counted by its share; 0: not known

	DiskSize      int64 `json:"disk_size"`      // bytes, of the VM's own disk
	DiskAllocated int64 `json:"disk_allocated"` // bytes that it takes on the host
	// What the guest has read and written on all its disks, in bytes; -1: not known.
	DiskRead    int64 `json:"disk_read"`
	DiskWritten int64 `json:"disk_written"`

	VMMPID    int       `json:"vmm_pid,omitempty"`
	ShimPID   int       `json:"shim_pid,omitempty"`
	StartedAt time.Time `json:"started_at,omitzero"`
	Restarts  int       `json:"restarts"` // by its restart policy, in a row
	Reboots   int       `json:"reboots"`  // by the guest, since it was started
}

// VMStats tells what VMs use now. Kinds: not_found, invalid (ambiguous ID prefix).
func (c *Client) VMStats(ctx context.Context, r VMStatsRequest) ([]VMStats, error) {
	return callList[VMStats](ctx, c, "vm.stats", r)
}
