package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"banger"
)

// measured is what a VM used between two looks.
type measured struct {
	banger.VMStats
	CPUPercent float64 `json:"cpu_percent"` // of one CPU of the host
}

func (c *CLI) vmStatsCommand() *cobra.Command {
	var w watch
	cmd := &cobra.Command{
		Use: "stats [VM...]", Short: "Show what VMs use of the host",
		Long: `Show what VMs use of the host, all that run or those named; on a terminal until interrupted.

CPU % is what the VMM used of one CPU of the host. HELD is what the VMM holds of the
host's memory: with emulation that is more than the guest has. DISK is what the VM's own
disk takes on the host, of its size; READ and WRITTEN are what the guest moved on all of
its disks since it was started.`,
		ValidArgsFunction: c.completeVMs,
		RunE: func(cmd *cobra.Command, a []string) error {
			ctx := cmd.Context()
			return c.call(ctx, func(client *banger.Client) error {
				look := func() ([]banger.VMStats, error) { return client.VMStats(ctx, banger.VMStatsRequest{Names: a}) }
				return watched(c, ctx, w, look, func(before, now []banger.VMStats) error { return c.printStats(measure(before, now)) })
			})
		},
	}
	w.flags(cmd)
	return cmd
}

// measure compares two looks. A VM with another machine than before has no measure yet.
func measure(before, now []banger.VMStats) []measured {
	old := map[string]banger.VMStats{}
	for _, s := range before {
		old[s.ID] = s
	}
	all := []measured{}
	for _, s := range now {
		m := measured{VMStats: s}
		if o, ok := old[s.ID]; ok && o.VMMPID == s.VMMPID {
			m.CPUPercent = percent(s.CPUTime-o.CPUTime, s.Time.Sub(o.Time))
		}
		all = append(all, m)
	}
	return all
}

func (c *CLI) printStats(all []measured) error {
	if c.json {
		return c.printJSON(all)
	}
	var t table
	t.add("NAME", "STATE", "CPU %", "MEMORY", "HELD", "DISK", "READ", "WRITTEN", "UP", "RESTARTS", "PID")
	known := func(n int64) string {
		if n < 0 {
			return "-"
		}
		return size(n)
	}
	for _, m := range all {
		up, pid, held := "-", "-", "-"
		if m.VMMPID > 0 {
			pid, held = fmt.Sprint(m.VMMPID), size(m.RSS)
			if m.State != banger.Starting {
				up = age(m.StartedAt)
			}
		}
		t.add(m.Name, string(m.State), percentText(m.CPUPercent), size(m.Memory), held, size(m.DiskAllocated)+" of "+size(m.DiskSize),
			known(m.DiskRead), known(m.DiskWritten), up, fmt.Sprint(m.Restarts), pid)
	}
	return t.write(c.Stdout)
}
