package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"banger"
)

// eachVM runs f for every operand and prints the name of each VM it gives.
func (c *CLI) eachVM(ctx context.Context, names []string, f func(client *banger.Client, name string, show func(banger.Progress)) (banger.VM, error)) error {
	return c.call(ctx, func(client *banger.Client) error {
		return c.each(names, func(name string) error {
			show, done := c.progress()
			vm, err := f(client, name, show)
			done()
			if err != nil {
				return err
			}
			return c.printChanged(vm.Name, vm)
		})
	})
}

func (c *CLI) vmStartCommand() *cobra.Command {
	var force bool
	var waits []string
	cmd := &cobra.Command{
		Use: "start VM...", Short: "Start VMs and wait until they are reachable",
		Args: args(cobra.MinimumNArgs(1)), ValidArgsFunction: c.completeVMs,
		RunE: func(cmd *cobra.Command, a []string) error {
			return c.eachVM(cmd.Context(), a, func(client *banger.Client, name string, show func(banger.Progress)) (banger.VM, error) {
				vm, err := client.VMStart(cmd.Context(), banger.NameRequest{Name: name, Force: force}, show)
				if err == nil && len(waits) > 0 {
					vm, err = client.VMAwait(cmd.Context(), banger.VMAwaitRequest{Name: vm.ID, WaitFor: waits}, show)
				}
				return vm, err
			})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "also with more memory than the host has, now and whenever it is started again")
	cmd.Flags().StringArrayVar(&waits, "wait-for", nil, "wait for `tcp:PORT`, unit:NAME or vsock:PORT of the guest as well; may be repeated")
	return cmd
}

// grace is the flag of commands that ask a guest to end.
func grace(cmd *cobra.Command, r *banger.VMStopRequest) {
	cmd.Flags().IntVar(&r.Seconds, "timeout", 30, "seconds that the guest gets to end by itself")
	cmd.Flags().BoolVarP(&r.Force, "force", "f", false, "do not ask the guest")
}

func (c *CLI) stopCommand() *cobra.Command {
	r := banger.VMStopRequest{}
	cmd := &cobra.Command{
		Use: "stop VM...", Short: "Stop VMs: ask the guest, then force it",
		Args: args(cobra.MinimumNArgs(1)), ValidArgsFunction: c.completeVMs,
		RunE: func(cmd *cobra.Command, a []string) error { return c.stop(cmd.Context(), a, r) },
	}
	grace(cmd, &r)
	return cmd
}

func (c *CLI) stop(ctx context.Context, names []string, r banger.VMStopRequest) error {
	return c.eachVM(ctx, names, func(client *banger.Client, name string, _ func(banger.Progress)) (banger.VM, error) {
		r.Name = name
		return client.VMStop(ctx, r)
	})
}

func (c *CLI) vmKillCommand() *cobra.Command {
	return &cobra.Command{
		Use: "kill VM...", Short: "End VMs now, without asking the guest",
		Args: args(cobra.MinimumNArgs(1)), ValidArgsFunction: c.completeVMs,
		RunE: func(cmd *cobra.Command, a []string) error {
			return c.stop(cmd.Context(), a, banger.VMStopRequest{Force: true})
		},
	}
}

func (c *CLI) vmRestartCommand() *cobra.Command {
	r := banger.VMStopRequest{}
	cmd := &cobra.Command{
		Use: "restart VM...", Short: "Stop VMs, start them and wait until they are reachable",
		Long: `Stop VMs, start them and wait until they are reachable. A VM that does not run is
only started. Once begun it goes on, whatever becomes of this command.`,
		Args: args(cobra.MinimumNArgs(1)), ValidArgsFunction: c.completeVMs,
		RunE: func(cmd *cobra.Command, a []string) error {
			return c.eachVM(cmd.Context(), a, func(client *banger.Client, name string, show func(banger.Progress)) (banger.VM, error) {
				r.Name = name
				return client.VMRestart(cmd.Context(), r, show)
			})
		},
	}
	grace(cmd, &r)
	return cmd
}

func (c *CLI) vmPauseCommand() *cobra.Command {
	return &cobra.Command{
		Use: "pause VM...", Short: "Let the virtual CPUs of VMs stand still",
		Args: args(cobra.MinimumNArgs(1)), ValidArgsFunction: c.completeVMs,
		RunE: func(cmd *cobra.Command, a []string) error {
			return c.eachVM(cmd.Context(), a, func(client *banger.Client, name string, _ func(banger.Progress)) (banger.VM, error) {
				return client.VMPause(cmd.Context(), name)
			})
		},
	}
}

func (c *CLI) vmResumeCommand() *cobra.Command {
	return &cobra.Command{
		Use: "resume VM...", Aliases: []string{"unpause"}, Short: "Let VMs that are paused go on, with their clocks set",
		Args: args(cobra.MinimumNArgs(1)), ValidArgsFunction: c.completeVMs,
		RunE: func(cmd *cobra.Command, a []string) error {
			return c.eachVM(cmd.Context(), a, func(client *banger.Client, name string, _ func(banger.Progress)) (banger.VM, error) {
				return client.VMResume(cmd.Context(), name)
			})
		},
	}
}

func (c *CLI) vmRenameCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rename VM NAME", Short: "Give a VM another name",
		Long: "Give a VM another name. Its host name follows at its next start.",
		Args: args(cobra.ExactArgs(2)), ValidArgsFunction: c.completeFirst(c.completeVMs),
		RunE: func(cmd *cobra.Command, a []string) error {
			return c.eachVM(cmd.Context(), a[:1], func(client *banger.Client, name string, _ func(banger.Progress)) (banger.VM, error) {
				return client.VMRename(cmd.Context(), banger.VMRenameRequest{Name: name, New: a[1]})
			})
		},
	}
}

func (c *CLI) vmWaitCommand() *cobra.Command {
	return &cobra.Command{
		Use: "wait VM...", Short: "Wait until VMs have ended, and print their exit codes",
		Long: `Wait until VMs have ended for good, and print a line with the exit code of each:
0 where the end was asked for or was the guest's own, 1 where it was not. A VM that
its restart policy starts again is waited for on.`,
		Args: args(cobra.MinimumNArgs(1)), ValidArgsFunction: c.completeVMs,
		RunE: func(cmd *cobra.Command, a []string) error {
			return c.each(a, func(name string) error {
				vm, err := c.wait(cmd.Context(), name)
				if err != nil {
					return err
				}
				return c.printChanged(fmt.Sprint(vm.ExitCode), vm)
			})
		},
	}
}

// wait waits for the end of a VM, also when the daemon is another one by then.
func (c *CLI) wait(ctx context.Context, name string) (vm banger.VM, err error) {
	id := ""
	err = c.lasting(ctx, func(client *banger.Client) (err error) {
		if id == "" { // whatever it is called later
			if vm, err = client.VMShow(ctx, name); err != nil {
				return err
			}
			id = vm.ID
		}
		vm, err = client.VMWait(ctx, id)
		return err
	})
	return vm, err
}

func (c *CLI) vmPruneCommand() *cobra.Command {
	var r banger.VMPruneRequest
	cmd := &cobra.Command{
		Use: "prune", Short: "Remove the VMs that have stopped or failed, with their disks",
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.call(cmd.Context(), func(client *banger.Client) error {
				gone, err := client.VMPrune(cmd.Context(), r)
				if err != nil {
					return err
				}
				if c.json {
					return c.printJSON(gone)
				}
				for _, vm := range gone {
					fmt.Fprintln(c.Stdout, vm.Name)
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&r.DryRun, "dry-run", false, "only print which")
	return cmd
}
