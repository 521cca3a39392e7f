package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"banger"
)

// compressions of a layer that has to be made.
var compressions = []string{"gzip", "zstd", "none"}

func compressionFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "compression", "", "make one layer of the root file system, packed with gzip, zstd or none\n(default: the layers as they came, while they are cached; else gzip)")
	_ = cmd.RegisterFlagCompletionFunc("compression", cobra.FixedCompletions(compressions, cobra.ShellCompDirectiveNoFileComp))
}

func (c *CLI) imageSaveCommand() *cobra.Command {
	var r banger.ImageSaveRequest
	var out string
	cmd := &cobra.Command{
		Use: "save NAME", Short: "Write an image to a file that other tools read",
		Long: `Write an image as an OCI layout in a tar: skopeo, podman, docker and banger read it.
The layers are those that the image came with, byte for byte, while they are in the
cache; else one layer is made of its root file system.`,
		Example: `  banger image save debian-bookworm -o debian.tar
  banger image save debian-bookworm | ssh host podman load`,
		Args: args(cobra.ExactArgs(1)), ValidArgsFunction: c.completeFirst(c.completeImages),
		RunE: func(cmd *cobra.Command, a []string) error {
			r.Name = a[0]
			if out == "" && isTerminal(c.Stdout) {
				return usageError{errors.New("an image is nothing for a terminal: want --output FILE or a pipe"), cmd}
			}
			return c.call(cmd.Context(), func(client *banger.Client) error {
				show, done := c.progress()
				defer done()
				if out == "" || out == "-" {
					return c.saveToStdout(cmd.Context(), client, r, show)
				}
				path, err := filepath.Abs(out)
				if err != nil {
					return err
				}
				r.Path = path
				saved, err := client.ImageSave(cmd.Context(), r, show)
				done()
				if err != nil {
					return err
				}
				return c.printChanged(out, saved)
			})
		},
	}
	cmd.Flags().StringVarP(&out, "output", "o", "", "`file` to write, - for stdout")
	compressionFlag(cmd, &r.Compression)
	return cmd
}

// saveToStdout has the daemon write into a pipe, and passes on what comes: of
// what stdout is the daemon may be unable to open it.
func (c *CLI) saveToStdout(ctx context.Context, client *banger.Client, req banger.ImageSaveRequest, show func(banger.Progress)) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	fd := int(w.Fd())
	req.FD = &fd
	copied := make(chan error, 1)
	go func() {
		_, err := io.Copy(c.Stdout, r)
		_ = r.Close() // the daemon must not go on for nobody
		copied <- err
	}()
	_, err = client.ImageSave(ctx, req, show)
	_ = w.Close()
	if cerr := <-copied; cerr != nil {
		return fmt.Errorf("write to stdout: %w", cerr)
	}
	return err
}

func (c *CLI) imagePushCommand() *cobra.Command {
	var r banger.ImagePushRequest
	cmd := &cobra.Command{
		Use: "push NAME REF", Short: "Put an image into a registry",
		Long: `Put an image into a registry, under the tag that REF names. The layers are those that
the image came with, byte for byte, while they are in the cache; else one layer is made
of its root file system. Logins are those of docker and podman.`,
		Example: `  banger image push debian-bookworm registry.example.org/team/debian:bookworm`,
		Args:    args(cobra.ExactArgs(2)), ValidArgsFunction: c.completeFirst(c.completeImages),
		RunE: func(cmd *cobra.Command, a []string) error {
			r.Name, r.Ref = a[0], a[1]
			return c.call(cmd.Context(), func(client *banger.Client) error {
				show, done := c.progress()
				pushed, err := client.ImagePush(cmd.Context(), r, show)
				done()
				if err != nil {
					return err
				}
				return c.printChanged(pushed.Ref+"@"+pushed.Digest, pushed)
			})
		},
	}
	compressionFlag(cmd, &r.Compression)
	return cmd
}

func (c *CLI) imageTagCommand() *cobra.Command {
	var r banger.ImageTagRequest
	cmd := &cobra.Command{
		Use: "tag NAME NEW", Short: "Give an image another name",
		Long:    "Give an image another name. The two share their files, and each can be removed without the other.",
		Example: `  banger image tag debian-bookworm base`,
		Args:    args(cobra.ExactArgs(2)), ValidArgsFunction: c.completeFirst(c.completeImages),
		RunE: func(cmd *cobra.Command, a []string) error {
			r.Name, r.New = a[0], a[1]
			return c.call(cmd.Context(), func(client *banger.Client) error {
				im, err := client.ImageTag(cmd.Context(), r)
				if err != nil {
					return err
				}
				return c.printChanged(im.Name, im)
			})
		},
	}
	cmd.Flags().BoolVarP(&r.Force, "force", "f", false, "replace one that has the name")
	return cmd
}

func (c *CLI) imageHistoryCommand() *cobra.Command {
	var l list
	cmd := &cobra.Command{
		Use: "history NAME", Short: "Tell how an image was made",
		Long: "Tell the steps in which an image was made, the first one first, as far as it says so itself.",
		Args: args(cobra.ExactArgs(1)), ValidArgsFunction: c.completeFirst(c.completeImages),
		RunE: func(cmd *cobra.Command, a []string) error {
			return c.call(cmd.Context(), func(client *banger.Client) error {
				steps, err := client.ImageHistory(cmd.Context(), a[0])
				if err != nil {
					return err
				}
				return printList(c, cmd, l, "LAYER\tSIZE\tAGE\tSTEP", steps, func(s banger.ImageStep) []string {
					layer, n := "-", "-"
					if s.Layer != "" {
						layer, n = shortDigest(s.Layer), size(s.Size)
					}
					step := s.By
					if s.Comment != "" {
						step += "  # " + s.Comment
					}
					return []string{layer, n, age(s.Created), step}
				})
			})
		},
	}
	l.flags(cmd)
	return cmd
}

// shortDigest is a digest as people tell it from others.
func shortDigest(digest string) string {
	const most = len("sha256:") + 12
	return digest[:min(len(digest), most)]
}

func (c *CLI) imagePruneCommand() *cobra.Command {
	var l list
	var r banger.ImagePruneRequest
	cmd := &cobra.Command{
		Use: "prune", Short: "Remove what no image and no VM needs any more",
		Long: `Remove layers that no image refers to, and boot disks, initrds and disks of modules that
were made for kernels which are gone or by another banger: all of that can be had again.
With --all remove images too that no VM uses. What a VM needs always stays.`,
		Example: `  banger image prune --dry-run
  banger image prune --all`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.call(cmd.Context(), func(client *banger.Client) error {
				report, err := client.ImagePrune(cmd.Context(), r)
				if err != nil {
					return err
				}
				if !l.quiet && (c.json || l.format == "json") {
					return c.printJSON(report)
				}
				if len(report.Items) > 0 || l.format != "table" {
					err = printList(c, cmd, l, "NAME\tKIND\tSIZE\tWHY", report.Items, func(p banger.Pruned) []string {
						return []string{p.Name, p.Kind, size(p.Size), p.Why}
					})
				}
				if err != nil || l.quiet || l.format != "table" {
					return err
				}
				freed := "freed"
				if report.Dry {
					freed = "would free"
				}
				_, err = fmt.Fprintf(c.Stdout, "%s %s\n", freed, size(report.Freed))
				return err
			})
		},
	}
	l.flags(cmd)
	cmd.Flags().BoolVar(&r.DryRun, "dry-run", false, "only tell what would go")
	cmd.Flags().BoolVarP(&r.All, "all", "a", false, "images too that no VM uses")
	return cmd
}
