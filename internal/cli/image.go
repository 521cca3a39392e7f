package cli

import (
	"cmp"
	"context"
	"strings"

	"github.com/spf13/cobra"

	"banger"
)

func (c *CLI) imageCommand() *cobra.Command {
	return noun("image", "Manage images", c.imagePullCommand(), c.imageBuildCommand(), c.imageImportCommand(), c.imageRegisterCommand(),
		c.imageLsCommand(), c.imageShowCommand(), c.imageHistoryCommand(), c.imageVerifyCommand(), c.imageTagCommand(),
		c.imageSaveCommand(), c.imagePushCommand(), c.imageRmCommand(), c.imagePruneCommand())
}

func (c *CLI) imagePullCommand() *cobra.Command {
	var r banger.ImagePullRequest
	cmd := &cobra.Command{
		Use: "pull REF", Short: "Get an image from a registry or the catalog",
		Long: `Get an image and make a read-only root file system of it. REF is a name of the catalog
(banger image ls --available) or a reference to any registry. The image is named
repository-tag, unless --name says otherwise. Logins are those of docker and podman.`,
		Example: `  banger image pull debian-bookworm
  banger image pull docker.io/library/alpine:3.20 --kernel-ref debian-6.1`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			r.Ref = a[0]
			return c.call(cmd.Context(), func(client *banger.Client) error {
				show, done := c.progress()
				im, err := client.ImagePull(cmd.Context(), r, show)
				done()
				if err != nil {
					return err
				}
				return c.printChanged(im.Name, im)
			})
		},
	}
	cmd.Flags().StringVar(&r.Name, "name", "", "name of the image")
	platformFlag(cmd, &r.Platform)
	fsFlag(cmd, &r.FS)
	c.kernelRefFlag(cmd, &r.Kernel)
	cmd.Flags().BoolVarP(&r.Force, "force", "f", false, "replace one that is there")
	return cmd
}

func (c *CLI) imageLsCommand() *cobra.Command {
	var l list
	var available bool
	cmd := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List images",
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.call(cmd.Context(), func(client *banger.Client) error {
				if available {
					offers, err := client.ImageCatalog(cmd.Context())
					if err != nil {
						return err
					}
					return printOffers(c, cmd, l, "STATE\tSOURCES\tDESCRIPTION", offers, func(o banger.ImageOffer) (string, string, []string) {
						return o.Name, o.Catalog, []string{o.State, strings.Join(o.Sources, ", "), o.Description}
					})
				}
				images, err := client.ImageList(cmd.Context())
				if err != nil {
					return err
				}
				return printList(c, cmd, l, "NAME\tARCH\tSIZE\tKERNEL\tAGE\tSOURCE", images, func(im banger.Image) []string {
					if im.Problem != "" {
						return []string{im.Name, "-", "-", "-", "-", "broken: " + im.Problem}
					}
					return []string{im.Name, im.Arch, size(im.Size), cmp.Or(im.Kernel, "-"), age(im.CreatedAt), im.Source}
				})
			})
		},
	}
	l.flags(cmd)
	cmd.Flags().BoolVar(&available, "available", false, "list what can be pulled by name; all catalogs are asked")
	return cmd
}

func (c *CLI) imageShowCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show NAME...", Short: "Describe images as JSON",
		Args: args(cobra.MinimumNArgs(1)), ValidArgsFunction: c.completeImages,
		RunE: func(cmd *cobra.Command, a []string) error {
			return inspect(c, cmd.Context(), a, (*banger.Client).ImageShow)
		},
	}
}

func (c *CLI) imageRmCommand() *cobra.Command {
	var ignore bool
	cmd := &cobra.Command{
		Use: "rm NAME...", Aliases: []string{"delete"}, Short: "Remove images",
		Args: args(cobra.MinimumNArgs(1)), ValidArgsFunction: c.completeImages,
		RunE: func(cmd *cobra.Command, a []string) error {
			return c.remove(cmd.Context(), a, ignore, func(ctx context.Context, client *banger.Client, name string) error {
				return client.ImageDelete(ctx, banger.NameRequest{Name: name})
			})
		},
	}
	ignoreMissing(cmd, &ignore)
	return cmd
}
