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

func (c *CLI) imageImportCommand() *cobra.Command {
	var r banger.ImageImportRequest
	cmd := &cobra.Command{
		Use: "import PATH", Short: "Make an image of files on this host",
		Long: `Make an image of files on this host, which stay as they are. PATH, or with - stdin, is
one of these, and which one is told by its content:

  an OCI layout, as a directory or a tar          (skopeo, buildah, banger image save)
  what docker save writes
  a root file system, as a directory or a tar     (mmdebstrap, debootstrap, docker export)
  a disk with an ext4 or erofs file system and no partitions

Files may be packed with gzip, zstd, xz or bzip2. The image is named like the one in
the archive, else like the file, unless --name says otherwise.`,
		Example: `  banger image import ./oci --ref bookworm --name debian
  docker save alpine:3.20 | banger image import -
  mmdebstrap trixie - | banger image import - --name trixie
  banger image import root.ext4.zst --kernel-ref debian-6.1`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			return c.call(cmd.Context(), func(client *banger.Client) error {
				show, done := c.progress()
				im, err := c.importImage(cmd, client, a[0], r, show)
				done()
				if err != nil {
					return err
				}
				return c.printChanged(im.Name, im)
			})
		},
	}
	cmd.Flags().StringVar(&r.Name, "name", "", "name of the image")
	cmd.Flags().StringVar(&r.Ref, "ref", "", "which image of an archive that has several: a tag, a name or a digest")
	platformFlag(cmd, &r.Platform)
	fsFlag(cmd, &r.FS)
	c.kernelRefFlag(cmd, &r.Kernel)
	cmd.Flags().BoolVarP(&r.Force, "force", "f", false, "replace one that is there")
	return cmd
}

func platformFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "platform", "", "what the image is made for, as in linux/arm64 (default: this host's)")
	_ = cmd.RegisterFlagCompletionFunc("platform", cobra.FixedCompletions([]string{"linux/amd64", "linux/arm64"}, cobra.ShellCompDirectiveNoFileComp))
}

func fsFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "fs", "", "what the root file system is written as: ext4 or erofs (default ext4)")
	_ = cmd.RegisterFlagCompletionFunc("fs", cobra.FixedCompletions([]string{"ext4", "erofs"}, cobra.ShellCompDirectiveNoFileComp))
}

func (c *CLI) kernelRefFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "kernel-ref", "", "kernel that the image is to prefer")
	_ = cmd.RegisterFlagCompletionFunc("kernel-ref", c.completeKernels)
}

// importImage names the file to the daemon, or passes on what cannot be named:
// stdin, and pipes of this process (/dev/fd/63).
func (c *CLI) importImage(cmd *cobra.Command, client *banger.Client, path string, r banger.ImageImportRequest, show func(banger.Progress)) (banger.Image, error) {
	ctx := cmd.Context()
	if path == "-" {
		if isTerminal(c.Stdin) {
			return banger.Image{}, usageError{errors.New("stdin is a terminal: want a file or a pipe"), cmd}
		}
		return importFrom(ctx, client, c.Stdin, r, show)
	}
	fi, err := os.Stat(path)
	if err == nil && fi.Mode()&(os.ModeNamedPipe|os.ModeCharDevice|os.ModeSocket) != 0 {
		f, err := os.Open(path)
		if err != nil {
			return banger.Image{}, err
		}
		defer f.Close()
		return importFrom(ctx, client, f, r, show)
	}
	if r.Path, err = filepath.Abs(path); err != nil { // the daemon is somewhere else
		return banger.Image{}, err
	}
	return client.ImageImport(ctx, r, show)
}

// importFrom copies a stream into a pipe that the daemon reads.
func importFrom(ctx context.Context, client *banger.Client, from io.Reader, req banger.ImageImportRequest, show func(banger.Progress)) (banger.Image, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return banger.Image{}, err
	}
	// A copy that still waits for its stream then ends with the process.
	defer r.Close()
	defer w.Close()
	fd := int(r.Fd())
	req.FD = &fd
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		// An error must not look like the end.
		if _, err := io.Copy(w, from); err != nil && !errors.Is(err, os.ErrClosed) {
			cancel(fmt.Errorf("read stdin: %w", err))
			return
		}
		_ = w.Close()
	}()
	return client.ImageImport(ctx, req, show)
}

func (c *CLI) imageRegisterCommand() *cobra.Command {
	var r banger.ImageRegisterRequest
	cmd := &cobra.Command{
		Use: "register NAME --rootfs FILE", Short: "Make an image of a disk that stays where it is",
		Long: `Make an image of a disk with an ext4 or erofs file system that stays where it is. Nothing
is copied, and banger never writes to it. It must not change as long as the image is
there: a VM over a file that has changed does not start.`,
		Example: `  banger image register mine --rootfs /srv/root.ext4 --kernel-ref debian-6.1`,
		Args:    args(cobra.ExactArgs(1)), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, a []string) (err error) {
			r.Name = a[0]
			if r.Rootfs == "" {
				return usageError{errors.New("want --rootfs FILE"), cmd}
			}
			if r.Rootfs, err = filepath.Abs(r.Rootfs); err != nil {
				return err
			}
			return c.call(cmd.Context(), func(client *banger.Client) error {
				im, err := client.ImageRegister(cmd.Context(), r)
				if err != nil {
					return err
				}
				return c.printChanged(im.Name, im)
			})
		},
	}
	cmd.Flags().StringVar(&r.Rootfs, "rootfs", "", "the disk, a `file`")
	c.kernelRefFlag(cmd, &r.Kernel)
	cmd.Flags().BoolVarP(&r.Force, "force", "f", false, "replace one that is there")
	return cmd
}

func (c *CLI) imageVerifyCommand() *cobra.Command {
	return &cobra.Command{
		Use: "verify NAME...", Short: "Check that images are what they were",
		Long: `Read the root file systems of images and compare them with what they were, and go through
their metadata. Of an image that was built the digest is noted the first time.`,
		Args: args(cobra.MinimumNArgs(1)), ValidArgsFunction: c.completeImages,
		RunE: func(cmd *cobra.Command, a []string) error {
			return c.call(cmd.Context(), func(client *banger.Client) error {
				var errs []error
				reports := []banger.ImageReport{}
				for _, name := range a {
					show, done := c.progress()
					report, err := client.ImageVerify(cmd.Context(), name, show)
					done()
					if err != nil {
						errs = append(errs, err)
						continue
					}
					reports = append(reports, report)
					if !c.json {
						fmt.Fprintln(c.Stdout, verified(report))
					}
				}
				if c.json {
					errs = append(errs, c.printJSON(reports))
				}
				return errors.Join(errs...)
			})
		},
	}
}

func verified(r banger.ImageReport) string {
	what := "its root file system is what it was"
	if r.First {
		what = "its digest is noted now"
	}
	if r.Inodes > 0 {
		what += fmt.Sprintf(", %d inodes are sound", r.Inodes)
	}
	return fmt.Sprintf("%s: %s, sha256 %s", r.Image.Name, what, r.SHA256)
}
