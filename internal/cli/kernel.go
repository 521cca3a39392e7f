package cli

import (
	"cmp"
	"context"
	"errors"
	"path/filepath"

	"github.com/spf13/cobra"

	"banger"
)

func (c *CLI) kernelCommand() *cobra.Command {
	return noun("kernel", "Manage kernels", c.kernelPullCommand(), c.kernelImportCommand(), c.kernelLsCommand(), c.kernelShowCommand(), c.kernelVerifyCommand(), c.kernelRmCommand())
}

func (c *CLI) kernelPullCommand() *cobra.Command {
	var r banger.KernelPullRequest
	cmd := &cobra.Command{
		Use: "pull NAME|SOURCE", Short: "Get a kernel of the catalog, or from a source",
		Long: `Get a kernel: one that the catalogs name (banger kernel ls --available; CATALOG/NAME is
the one of a catalog that config.toml names), or from a source:

  deb://PACKAGE[?suite=SUITE]   a package of Debian or Ubuntu, or one that depends on it
  oci://REF                     an image of a registry that holds a kernel
  https://HOST/NAME.tar.zst#sha256=HEX
                                a bundle; file:///PATH too

It is checked, and is there as a whole or not at all. Nothing is installed on the host
and no root is needed.`,
		Example: `  banger kernel pull debian-6.1
  banger kernel pull 'deb://linux-image-cloud-amd64?suite=trixie' --name trixie
  banger kernel pull debian-6.1 --name debug --kernel-arg ignore_loglevel`,
		Args: args(cobra.ExactArgs(1)), ValidArgsFunction: c.completeFirst(c.completeOffers),
		RunE: func(cmd *cobra.Command, a []string) error {
			r.Name = a[0]
			return c.addKernel(cmd.Context(), func(client *banger.Client, show func(banger.Progress)) (banger.Kernel, error) {
				return client.KernelPull(cmd.Context(), r, show)
			})
		},
	}
	cmd.Flags().StringVar(&r.As, "name", "", "name of the kernel here (default: that of the catalog, or one made of the source)")
	newKernelFlags(cmd, &r.Args, &r.Force)
	return cmd
}

func (c *CLI) kernelImportCommand() *cobra.Command {
	var r banger.KernelImportRequest
	cmd := &cobra.Command{
		Use: "import NAME --from DIR | [NAME] --from-host", Short: "Copy a kernel of this host",
		Long: `Copy a kernel out of a folder, which is left as it is: the unpacked root of a
distribution, a /boot, a tree in which a kernel was built, or a folder whose
metadata.json names the files. Of several kernels the newest is taken, with
lib/modules/VERSION; with no modules its initrd comes along.

With --from-host it is the kernel that this host runs, and its name is
host-VERSION unless another is given.`,
		Example: `  banger kernel import mine --from ~/src/linux
  banger kernel import fedora --from /srv/fedora-root --kernel-arg selinux=0
  banger kernel import --from-host`,
		Args: args(cobra.MaximumNArgs(1)), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, a []string) error {
			if r.FromHost == (r.From != "") {
				return usageError{errors.New("want one of --from DIR and --from-host"), cmd}
			}
			if len(a) > 0 {
				r.Name = a[0]
			} else if !r.FromHost {
				return usageError{errors.New("no NAME given for the kernel"), cmd}
			}
			if r.From != "" { // the daemon is somewhere else
				dir, err := filepath.Abs(r.From)
				if err != nil {
					return err
				}
				r.From = dir
			}
			return c.addKernel(cmd.Context(), func(client *banger.Client, show func(banger.Progress)) (banger.Kernel, error) {
				return client.KernelImport(cmd.Context(), r, show)
			})
		},
	}
	cmd.Flags().StringVar(&r.From, "from", "", "`folder` that holds the kernel")
	cmd.Flags().BoolVar(&r.FromHost, "from-host", false, "the kernel that this host runs")
	newKernelFlags(cmd, &r.Args, &r.Force)
	_ = cmd.MarkFlagDirname("from")
	return cmd
}

// newKernelFlags are the flags of commands that add a kernel.
func newKernelFlags(cmd *cobra.Command, args *[]string, force *bool) {
	cmd.Flags().StringArrayVar(args, "kernel-arg", nil, "`word` added to its command line in every boot, NAME or NAME=VALUE; may be repeated")
	cmd.Flags().BoolVarP(force, "force", "f", false, "replace one that is there")
	_ = cmd.RegisterFlagCompletionFunc("kernel-arg", cobra.NoFileCompletions)
}

// addKernel runs a call that adds a kernel, shows how it goes and prints its name.
func (c *CLI) addKernel(ctx context.Context, add func(*banger.Client, func(banger.Progress)) (banger.Kernel, error)) error {
	return c.call(ctx, func(client *banger.Client) error {
		show, done := c.progress()
		k, err := add(client, show)
		done()
		if err != nil {
			return err
		}
		return c.printChanged(k.Name, k)
	})
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
				kernels, err := client.KernelList(cmd.Context(), banger.KernelListRequest{Brief: l.format == "table" && !c.json})
				if err != nil {
					return err
				}
				return printList(c, cmd, l, "NAME\tVERSION\tARCH\tSIZE\tAGE\tSOURCE", kernels, kernelRow)
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

func kernelRow(k banger.Kernel) []string {
	if k.Problem != "" {
		return []string{k.Name, "-", "-", "-", "-", "broken: " + k.Problem}
	}
	return []string{k.Name, cmp.Or(k.KernelVersion, "-"), k.Arch, size(k.Size), age(k.ImportedAt), k.Source}
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
