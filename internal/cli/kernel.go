package cli

import (
	"cmp"
	"context"

	"github.com/spf13/cobra"

	"banger"
)

func (c *CLI) kernelCommand() *cobra.Command {
	return noun("kernel", "Manage kernels", c.kernelPullCommand(), c.kernelLsCommand(), c.kernelShowCommand(), c.kernelVerifyCommand(), c.kernelRmCommand())
}

func (c *CLI) kernelPullCommand() *cobra.Command {
	var r banger.KernelPullRequest
	cmd := &cobra.Command{
		Use: "pull NAME", Short: "Get a kernel of the catalog",
		Long: `Get a kernel of the catalogs (banger kernel ls --available). Nothing is installed on the
host and no root is needed. CATALOG/NAME is the one of a catalog that config.toml names.`,
		Example: "  banger kernel pull debian-6.1",
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			r.Name = a[0]
			return c.call(cmd.Context(), func(client *banger.Client) error {
				show, done := c.progress()
				k, err := client.KernelPull(cmd.Context(), r, show)
				done()
				if err != nil {
					return err
				}
				return c.printChanged(k.Name, k)
			})
		},
	}
	cmd.Flags().BoolVarP(&r.Force, "force", "f", false, "replace one that is there")
	return cmd
}

func (c *CLI) kernelLsCommand() *cobra.Command {
	var l list
	var available bool
	cmd := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List kernels",
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.call(cmd.Context(), func(client *banger.Client) error {
				if available {
					offers, err := client.KernelCatalog(cmd.Context())
					if err != nil {
						return err
					}
					return printOffers(c, cmd, l, "VERSION\tARCH\tSIZE\tSTATE\tDESCRIPTION", offers, func(o banger.KernelOffer) (string, string, []string) {
						return o.Name, o.Catalog, []string{cmp.Or(o.KernelVersion, "-"), o.Arch, offerSize(o.Size), o.State, o.Description}
					})
				}
				kernels, err := client.KernelList(cmd.Context())
				if err != nil {
					return err
				}
				return printList(c, cmd, l, "NAME\tVERSION\tARCH\tSIZE\tAGE\tSOURCE", kernels, func(k banger.Kernel) []string {
					if k.Problem != "" {
						return []string{k.Name, "-", "-", "-", "-", "broken: " + k.Problem}
					}
					return []string{k.Name, k.KernelVersion, k.Arch, size(k.Size), age(k.ImportedAt), k.Source}
				})
			})
		},
	}
	l.flags(cmd)
	cmd.Flags().BoolVar(&available, "available", false, "list what can be pulled by name; all catalogs are asked")
	return cmd
}

// offerSize is what is to be downloaded, as far as the catalog knows.
func offerSize(n int64) string {
	if n == 0 {
		return "-"
	}
	return size(n)
}

func (c *CLI) kernelShowCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show NAME...", Short: "Describe kernels as JSON",
		Args: args(cobra.MinimumNArgs(1)), ValidArgsFunction: c.completeKernels,
		RunE: func(cmd *cobra.Command, a []string) error {
			return inspect(c, cmd.Context(), a, (*banger.Client).KernelShow)
		},
	}
}

func (c *CLI) kernelRmCommand() *cobra.Command {
	var force, ignore bool
	cmd := &cobra.Command{
		Use: "rm NAME...", Aliases: []string{"delete"}, Short: "Remove kernels",
		Args: args(cobra.MinimumNArgs(1)), ValidArgsFunction: c.completeKernels,
		RunE: func(cmd *cobra.Command, a []string) error {
			return c.remove(cmd.Context(), a, ignore, func(ctx context.Context, client *banger.Client, name string) error {
				return client.KernelDelete(ctx, banger.NameRequest{Name: name, Force: force})
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "also when a VM or an image uses it")
	ignoreMissing(cmd, &ignore)
	return cmd
}
