package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"banger"
)

func (c *CLI) vmCommand() *cobra.Command {
	ls := c.psCommand()
	ls.Use, ls.Aliases = "ls", []string{"list"}
	return noun("vm", "Manage VMs",
		c.vmCreateCommand(), c.vmStartCommand(), c.stopCommand(), c.vmRestartCommand(), c.vmKillCommand(), c.vmPauseCommand(), c.vmResumeCommand(),
		c.vmRenameCommand(), c.vmResizeCommand(), c.vmWaitCommand(), c.vmStatsCommand(), c.vmTopCommand(), c.eventsCommand("Show what becomes of VMs", "type=vm", "type=system"), c.vmPruneCommand(), c.rmCommand(), ls,
		c.vmInspectCommand(), c.execCommand(), c.sshCommand(), c.cpCommand(), c.logsCommand(), c.vmConsoleCommand(), c.vmForwardCommand(), c.vmProxyCommand())
}

func (c *CLI) vmCreateCommand() *cobra.Command {
	var spec specFlags
	var guest guestFlags
	var noStart bool
	cmd := &cobra.Command{
		Use:   "create --image IMAGE",
		Short: "Create a VM, start it and wait until it is reachable",
		Long: `Create a VM, start it and wait until it is reachable; then print its name. If that
goes wrong, nothing is left of it. IMAGE is found as by "banger run".`,
		Example: `  banger vm create --image debian-bookworm --name testbox
  banger vm create --image debian-bookworm --cpus 2 --memory 2G --disk 40G
  banger vm create --image debian-bookworm --kernel-arg ignore_loglevel --kernel-arg mitigations=off`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := spec.get(cmd)
			if err != nil {
				return err
			}
			if s.Image == "" {
				return usageError{errors.New("no --image given"), cmd}
			}
			if err := guest.fill(c, &s); err != nil {
				return err
			}
			return c.call(cmd.Context(), func(client *banger.Client) error {
				show, done := c.progress()
				vm, err := client.VMCreate(cmd.Context(), banger.VMCreateRequest{Spec: s, NoStart: noStart}, show)
				done()
				if err != nil {
					return err
				}
				return c.printChanged(vm.Name, vm)
			})
		},
	}
	spec.flags(cmd, c)
	guest.flags(cmd, &spec.spec)
	cmd.Flags().StringVar(&spec.spec.Image, "image", "", "image to make the VM from")
	cmd.Flags().BoolVar(&noStart, "no-start", false, "create it only")
	cmd.Flags().StringVar(&spec.spec.Restart, "restart", "", "start it again when it ends unasked: no, on-failure or always (default no)")
	_ = cmd.RegisterFlagCompletionFunc("restart", cobra.FixedCompletions([]string{"no", "on-failure", "always"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("image", c.completeImages)
	return cmd
}

// each runs f for every operand, reports each failure and goes on; the last
// failure is the command's.
func (c *CLI) each(names []string, f func(name string) error) error {
	var last error
	for _, name := range names {
		err := f(name)
		if err != nil && last != nil {
			c.exitCode(last)
		}
		if err != nil {
			last = err
		}
	}
	return last
}

func (c *CLI) rmCommand() *cobra.Command {
	var force, ignore bool
	cmd := &cobra.Command{
		Use: "rm VM...", Aliases: []string{"delete"}, Short: "Remove VMs with their disks",
		Args: args(cobra.MinimumNArgs(1)), ValidArgsFunction: c.completeVMs,
		RunE: func(cmd *cobra.Command, a []string) error {
			return c.remove(cmd.Context(), a, ignore, func(ctx context.Context, client *banger.Client, name string) error {
				return client.VMDelete(ctx, banger.NameRequest{Name: name, Force: force})
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "also when it runs")
	ignoreMissing(cmd, &ignore)
	return cmd
}

func ignoreMissing(cmd *cobra.Command, ignore *bool) {
	cmd.Flags().BoolVar(ignore, "ignore-missing", false, "succeed when there is nothing of that name")
}

// remove deletes each operand and prints its name.
func (c *CLI) remove(ctx context.Context, names []string, ignore bool, del func(context.Context, *banger.Client, string) error) error {
	return c.call(ctx, func(client *banger.Client) error {
		return c.each(names, func(name string) error {
			err := del(ctx, client, name)
			if ignore && banger.IsKind(err, banger.NotFound) {
				return nil
			}
			if err != nil {
				return err
			}
			return c.printChanged(name, map[string]string{"removed": name})
		})
	})
}

func (c *CLI) psCommand() *cobra.Command {
	var l list
	var filters []string
	cmd := &cobra.Command{
		Use: "ps", Short: "List VMs",
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.call(cmd.Context(), func(client *banger.Client) error {
				vms, err := client.VMList(cmd.Context())
				if err != nil {
					return err
				}
				if vms, err = filterVMs(vms, filters); err != nil {
					return usageError{err, cmd}
				}
				return printList(c, cmd, l, "NAME\tID\tSTATE\tIMAGE\tCPUS\tMEMORY\tAGE\tREASON", vms, func(v banger.VM) []string {
					return []string{v.Name, v.ID, string(v.State), v.Spec.Image, fmt.Sprint(v.Spec.CPUs), size(v.Spec.Memory), age(v.CreatedAt), clip(v.Reason + v.Problem)}
				})
			})
		},
	}
	l.flags(cmd)
	cmd.Flags().StringArrayVar(&filters, "filter", nil, "only those with state=, image=, name= or label=NAME[=value]; may be repeated")
	return cmd
}

func filterVMs(vms []banger.VM, filters []string) ([]banger.VM, error) {
	out := []banger.VM{}
next:
	for _, v := range vms {
		for _, f := range filters {
			key, want, ok := strings.Cut(f, "=")
			have, known := map[string]string{"state": string(v.State), "image": v.Spec.Image, "name": v.Name}[key]
			if key == "label" && ok {
				label, value, exact := strings.Cut(want, "=")
				if have, known = v.Spec.Labels[label]; !known {
					continue next
				}
				if want = value; !exact {
					want = have
				}
			}
			if !ok || !known {
				return nil, fmt.Errorf("bad filter %q: want state=, image=, name= or label=", f)
			}
			if have != want {
				continue next
			}
		}
		out = append(out, v)
	}
	return out, nil
}

func (c *CLI) vmInspectCommand() *cobra.Command {
	return &cobra.Command{
		Use: "inspect VM...", Short: "Describe VMs as JSON",
		Long: `Describe VMs as JSON: what was asked for, what became of it, and of a VM that runs how:
under "machine" the accelerator and why, the way that its kernel boots ("boot_path":
direct, initrd or flat) and why, and the kernel's whole command line.`,
		Args: args(cobra.MinimumNArgs(1)), ValidArgsFunction: c.completeVMs,
		RunE: func(cmd *cobra.Command, a []string) error {
			return inspect(c, cmd.Context(), a, (*banger.Client).VMShow)
		},
	}
}

// inspect prints what show tells of every operand, always as an array.
func inspect[T any](c *CLI, ctx context.Context, names []string, show func(*banger.Client, context.Context, string) (T, error)) error {
	return c.call(ctx, func(client *banger.Client) error {
		all := []T{}
		var errs []error
		for _, name := range names {
			v, err := show(client, ctx, name)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			all = append(all, v)
		}
		return errors.Join(append(errs, c.printJSON(all))...)
	})
}
