package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"banger"
)

// buildFlags are those of image build beside what goes into the request as it is.
type buildFlags struct {
	r        banger.ImageBuildRequest
	file     string
	script   string
	packages []string
	args     []string
}

func (c *CLI) imageBuildCommand() *cobra.Command {
	var f buildFlags
	cmd := &cobra.Command{
		Use: "build [CONTEXT]", Short: "Build an image by the steps of a Dockerfile",
		Long: `Build an image by the steps of a Dockerfile, which run in a microVM: no Docker is needed.
CONTEXT is the folder that COPY and ADD take files from. Steps that were run before, on the
same, come from a cache; an image that would become what it is already is left as it is.

With --from-image there is no Dockerfile: packages are installed into an image of Debian's
family with apt-get, then a script is run.

The name of the image is that of the folder, unless -t gives one. What the steps print goes
to the standard error.`,
		Example: `  banger image build -t web .
  banger image build -f web.Dockerfile --build-arg VERSION=3 --target test -t web-test .
  banger image build --from-image debian-bookworm --packages git,make --run setup.sh --name tools`,
		Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			r, err := f.request(cmd, c, a)
			if err != nil {
				return err
			}
			return c.build(cmd.Context(), r)
		},
	}
	f.flags(cmd, c)
	return cmd
}

func (f *buildFlags) flags(cmd *cobra.Command, c *CLI) {
	fl := cmd.Flags()
	fl.StringVarP(&f.file, "file", "f", "", "the Dockerfile; - is the standard input (default: Dockerfile in CONTEXT)")
	fl.StringVarP(&f.r.Name, "tag", "t", "", "name of the image")
	fl.StringVar(&f.r.Name, "name", "", "the same as --tag")
	fl.StringArrayVar(&f.args, "build-arg", nil, "`NAME=VALUE` for an ARG, or NAME to take it from the environment; may be repeated")
	fl.StringVar(&f.r.Target, "target", "", "stage to stop at (default: the last one)")
	fl.StringVar(&f.r.Platform, "platform", "", "only this host's, as in linux/amd64")
	fl.BoolVar(&f.r.NoCache, "no-cache", false, "run every step again")
	fl.BoolVar(&f.r.KeepOnError, "keep-on-error", false, "keep the VM of a step that fails")
	fl.StringVar(&f.r.FromImage, "from-image", "", "image to begin with, instead of a Dockerfile")
	fl.StringSliceVar(&f.packages, "packages", nil, "Debian packages to add to --from-image (default: "+strings.Join(banger.DefaultPackages(), ",")+")")
	fl.StringVar(&f.script, "run", "", "script to run in --from-image")
	fsFlag(cmd, &f.r.FS)
	fl.StringVar(&f.r.Kernel, "kernel-ref", "", "kernel that runs the steps, and that the image is to prefer")
	fl.IntVar(&f.r.CPUs, "cpus", 0, "virtual CPUs for the steps (default 2, or as many as there are)")
	fl.Var(sizeFlag{&f.r.Memory}, "memory", "memory for the steps (default 2G, or half of a small host's)")
	fl.Var(sizeFlag{&f.r.Disk}, "size", "what the steps of one stage may write (default 32G; it is sparse)")
	fl.BoolVar(&f.r.Force, "force", false, "replace an image of that name that no build made")
	_ = cmd.RegisterFlagCompletionFunc("kernel-ref", c.completeKernels)
	_ = cmd.RegisterFlagCompletionFunc("from-image", c.completeImages)
}

// request makes the request of the flags.
func (f *buildFlags) request(cmd *cobra.Command, c *CLI, a []string) (r banger.ImageBuildRequest, err error) {
	r = f.r
	misuse := func(format string, v ...any) (banger.ImageBuildRequest, error) {
		return r, usageError{fmt.Errorf(format, v...), cmd}
	}
	if r.Args, err = buildArgs(f.args, c.Getenv); err != nil {
		return misuse("%w", err)
	}
	if r.FromImage != "" {
		switch {
		case len(a) > 0 || f.file != "" || len(f.args) > 0 || r.Target != "":
			return misuse("--from-image goes without a Dockerfile and all that belongs to one")
		case r.Name == "":
			return misuse("--from-image needs --name")
		}
		if cmd.Flags().Changed("packages") {
			r.Packages = append([]string{}, f.packages...) // none is none
		}
		if f.script != "" {
			text, err := os.ReadFile(f.script)
			if err != nil {
				return r, banger.Errorf(banger.NotFound, "read the script: %w", err)
			}
			r.Script = string(text)
		}
		return r, nil
	}
	if f.script != "" || len(f.packages) > 0 {
		return misuse("--packages and --run need --from-image")
	}
	if len(a) == 0 && f.file != "-" {
		return misuse("no build context given: a folder, . for this one")
	}
	return r, f.context(&r, c, a)
}

// context finds the context and the Dockerfile, as the daemon is to find them.
func (f *buildFlags) context(r *banger.ImageBuildRequest, c *CLI, a []string) (err error) {
	if len(a) > 0 {
		if r.Context, err = filepath.Abs(a[0]); err != nil {
			return err
		}
		if r.Name == "" {
			r.Name = nameOfFolder(r.Context)
		}
	}
	if r.Name == "" {
		return banger.Errorf(banger.Invalid, "the image needs a name").WithHint("give one with -t")
	}
	switch f.file {
	case "":
	case "-":
		text, err := io.ReadAll(c.Stdin)
		if err != nil {
			return fmt.Errorf("read the Dockerfile: %w", err)
		}
		if r.Text = string(text); r.Text == "" {
			return banger.Errorf(banger.Invalid, "there is no Dockerfile on the standard input")
		}
	default:
		r.File, err = filepath.Abs(f.file)
	}
	return err
}

// notInName is what names of images do not have.
var notInName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`[^a-z0-9._-]+`) })

// nameOfFolder makes a name of an image of that of a folder; empty if it has none.
func nameOfFolder(path string) string {
	return strings.Trim(notInName().ReplaceAllString(strings.ToLower(filepath.Base(path)), "-"), "-._")
}

// buildArgs reads NAME=VALUE, or NAME, whose value is the environment's.
func buildArgs(list []string, getenv func(string) string) (map[string]string, error) {
	var values map[string]string
	for _, a := range list {
		name, value, ok := strings.Cut(a, "=")
		if name == "" {
			return nil, fmt.Errorf("--build-arg %q: want NAME=VALUE", a)
		}
		if !ok {
			if value = getenv(name); value == "" {
				continue
			}
		}
		if values == nil {
			values = map[string]string{}
		}
		values[name] = value
	}
	return values, nil
}

func (c *CLI) build(ctx context.Context, r banger.ImageBuildRequest) error {
	return c.call(ctx, func(client *banger.Client) error {
		show, done := c.progress()
		im, err := client.ImageBuild(ctx, r, show)
		done()
		if err != nil {
			return err
		}
		return c.printChanged(im.Name, im)
	})
}
