package cli

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/agent"
)

// maxRows is how many processes are shown on a terminal, where more would scroll
// the busiest away.
const maxRows = 20

// busy is a process of a guest with what it used between two looks.
type busy struct {
	agent.Process
	CPUPercent float64 `json:"cpu_percent"` // of one CPU of the guest
}

func (c *CLI) vmTopCommand() *cobra.Command {
	var w watch
	var all bool
	cmd := &cobra.Command{
		Use: "top VM", Short: "Show the processes in a VM, the busiest first",
		Long: `Show the processes in a VM, the busiest first; on a terminal until interrupted. They are
read by banger's agent, so the image needs no ps.`,
		Args: args(cobra.ExactArgs(1)), ValidArgsFunction: c.completeFirst(c.completeVMs),
		RunE: func(cmd *cobra.Command, a []string) error {
			ctx := cmd.Context()
			vm, err := c.findVM(ctx, a[0])
			if err != nil {
				return err
			}
			client, err := c.dialAgent(ctx, vm)
			if err != nil {
				return err
			}
			defer client.Close()
			look := func() (agent.Processes, error) { return client.Processes(ctx) }
			return watched(c, ctx, w, look, func(before, now agent.Processes) error { return c.printTop(before, now, all) })
		},
	}
	w.flags(cmd)
	cmd.Flags().BoolVarP(&all, "all", "a", false, "also the kernel's own threads")
	return cmd
}

// busiest compares two looks at a guest and sorts its processes by what they used
// between them, then by what they used at all.
func busiest(before, now agent.Processes, all bool) []busy {
	old := map[int]agent.Process{}
	for _, p := range before.List {
		old[p.PID] = p
	}
	over := time.Duration(now.UptimeMS-before.UptimeMS) * time.Millisecond
	list := []busy{}
	for _, p := range now.List {
		if p.Kernel && !all {
			continue
		}
		used := p.CPUMS
		if o, ok := old[p.PID]; ok && o.CPUMS <= p.CPUMS {
			used -= o.CPUMS
		}
		list = append(list, busy{p, percent(time.Duration(used)*time.Millisecond, over)})
	}
	slices.SortStableFunc(list, func(a, b busy) int {
		return cmp.Or(cmp.Compare(b.CPUPercent, a.CPUPercent), cmp.Compare(b.CPUMS, a.CPUMS), cmp.Compare(a.PID, b.PID))
	})
	return list
}

func (c *CLI) printTop(before, now agent.Processes, all bool) error {
	list := busiest(before, now, all)
	if c.json {
		now.List = nil // list is the same with more
		return c.printJSON(struct {
			agent.Processes
			List []busy `json:"processes"`
		}{now, list})
	}
	fmt.Fprintf(c.Stdout, "up %s, load %.2f %.2f %.2f, %d CPUs, %s of %s available, %d processes\n",
		time.Duration(now.UptimeMS)*time.Millisecond/time.Second*time.Second, now.Load[0], now.Load[1], now.Load[2],
		now.CPUs, size(now.MemAvailable), size(now.MemTotal), now.Total)
	if isTerminal(c.Stdout) {
		list = list[:min(len(list), maxRows)]
	}
	var t table
	t.add("PID", "USER", "S", "CPU %", "TIME", "RSS", "COMMAND")
	for _, p := range list {
		command := p.Command
		if isTerminal(c.Stdout) {
			command = clip(command)
		}
		t.add(fmt.Sprint(p.PID), p.User, p.State, percentText(p.CPUPercent), (time.Duration(p.CPUMS) * time.Millisecond).String(), size(p.RSS), command)
	}
	return t.write(c.Stdout)
}
