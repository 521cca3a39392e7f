package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

// specFlags are the flags that describe a machine.
type specFlags struct {
	spec   banger.VMSpec
	nat    bool
	files  []string
	mounts []string

	timeout, idle time.Duration
}

func (f *specFlags) flags(cmd *cobra.Command, c *CLI) {
	fl := cmd.Flags()
	fl.StringVar(&f.spec.Name, "name", "", "name of the VM (default: made up)")
	fl.StringVar(&f.spec.Kernel, "kernel", "", "kernel to boot (default: the image's)")
	fl.StringArrayVar(&f.spec.KernelArgs, "kernel-arg", nil, "`word` for the kernel's command line, NAME or NAME=VALUE; may be repeated")
	fl.IntVar(&f.spec.CPUs, "cpus", 0, "virtual CPUs (default 1)")
	fl.Var(sizeFlag{&f.spec.Memory}, "memory", "memory, for instance 512M or 2G, at least 64M (default 512M, or half of a small host's)")
	fl.BoolVar(&f.spec.Overcommit, "force", false, "also with more memory than the host has, now and whenever it is started again")
	fl.Var(sizeFlag{&f.spec.Disk}, "disk", "size of the private disk, which is sparse (default 10G)")
	fl.StringVar(&f.spec.Init, "init", "", "pid 1: auto, banger, systemd or provision (default: the image's, else auto)")
	fl.StringVar(&f.spec.Net, "net", "", "network: nat or none (default nat)")
	fl.BoolVar(&f.nat, "nat", false, "the same as --net nat")
	fl.StringVar(&f.spec.Accel, "accel", "", "accelerator: auto, kvm or tcg (default auto)")
	fl.StringArrayVar(&f.files, "file", nil, "copy file `SRC:DST` of this host into the VM, before its init first starts; may be repeated")
	fl.StringArrayVar(&f.mounts, "mount", nil, "mount folder `HOSTDIR:GUESTDIR[:ro]` of this host in the VM, live both ways; may be repeated")
	fl.DurationVar(&f.timeout, "timeout", 0, "stop it when it has been up for so long, for instance 8h")
	fl.DurationVar(&f.idle, "idle-timeout", 0, "stop it when there was no session and no work for so long, for instance 30m")
	fl.StringArrayVar(&f.spec.WaitFor, "wait-for", nil, "wait for `tcp:PORT`, unit:NAME or vsock:PORT of the guest as well; may be repeated")
	fl.IntVar(&f.spec.BootTimeout, "boot-timeout", 0, "seconds to wait for the guest to answer (default 120)")
	_ = cmd.RegisterFlagCompletionFunc("kernel", c.completeKernels)
	for name, words := range map[string][]string{
		"init": {"auto", "banger", "systemd", "provision"}, "net": {"nat", "none"}, "accel": {"auto", "kvm", "tcg"}, "kernel-arg": kernelWords,
	} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
	}
}

// kernelWords are those that a shell offers for --kernel-arg.
var kernelWords = []string{"ignore_loglevel", "loglevel=7", "mitigations=off", "systemd.log_level=debug", "systemd.unit=rescue.target"}

func (f *specFlags) get(cmd *cobra.Command) (banger.VMSpec, error) {
	for _, l := range []struct {
		flag    string
		limit   time.Duration
		seconds *int
	}{{"timeout", f.timeout, &f.spec.Timeout}, {"idle-timeout", f.idle, &f.spec.IdleTimeout}} {
		if l.limit != 0 && l.limit < time.Second {
			return f.spec, usageError{fmt.Errorf("--%s %s: want a second at least", l.flag, l.limit), cmd}
		}
		*l.seconds = int(l.limit / time.Second)
	}
	if f.nat {
		if f.spec.Net != "" && f.spec.Net != "nat" {
			return f.spec, usageError{fmt.Errorf("--nat and --net %s exclude each other", f.spec.Net), cmd}
		}
		f.spec.Net = "nat"
	}
	f.spec.Mounts = nil
	for _, word := range f.mounts {
		m, err := parseMount(word)
		if err != nil {
			return f.spec, usageError{err, cmd}
		}
		f.spec.Mounts = append(f.spec.Mounts, m)
	}
	f.spec.Files = nil
	for _, word := range f.files {
		i := strings.LastIndex(word, ":/") // a path of this host may have colons
		if i < 1 {
			return f.spec, usageError{fmt.Errorf("bad --file %q: want SRC:DST, DST an absolute path in the VM", word), cmd}
		}
		src, err := filepath.Abs(word[:i])
		if err != nil {
			return f.spec, err
		}
		f.spec.Files = append(f.spec.Files, banger.GuestFile{Source: src, Path: word[i+1:]})
	}
	return f.spec, nil
}

func (c *CLI) runCommand() *cobra.Command {
	var spec specFlags
	var sess sessionFlags
	cmd := &cobra.Command{
		Use:   "run IMAGE [-- CMD...]",
		Short: "Run a command in a new VM, then remove the VM",
		Long: `Run a command in a new VM and remove the VM when it ends, however it ends.

IMAGE is an image that is there, a name of the catalog, or a reference to any
registry (docker.io/library/alpine:3.20); what is missing is pulled first. Without
CMD the image's own command runs, and a shell where it has none.

Exit code: that of CMD; 128+n when signal n ended it; 126 or 127 when it could not be
run or was not found; 125 when banger failed before it ran.`,
		Example: `  banger run debian-bookworm -- uname -a
  echo hello | banger run debian-bookworm -- tr a-z A-Z
  banger run debian-bookworm          # a shell`,
		Args:              args(cobra.MinimumNArgs(1)),
		ValidArgsFunction: c.completeImages,
		RunE: func(cmd *cobra.Command, a []string) error {
			var err error
			if spec.spec, err = spec.get(cmd); err != nil {
				return err
			}
			spec.spec.Image = a[0]
			code, err := c.run(cmd.Context(), spec.spec, sess, a[1:])
			if err == nil && code != 0 {
				err = exitError(code)
			}
			return err
		},
	}
	spec.flags(cmd, c)
	sess.flags(cmd)
	return cmd
}

// run is the whole life of a VM that lives for one command.
func (c *CLI) run(ctx context.Context, spec banger.VMSpec, sess sessionFlags, argv []string) (int, error) {
	req, err := sess.request(c)
	if err != nil {
		return 0, err
	}
	client, err := c.ensureDaemon(ctx)
	if err != nil {
		return 0, ownFailure{err}
	}
	defer client.Close()
	show, done := c.progress()
	vm, err := client.VMCreate(ctx, banger.VMCreateRequest{Spec: spec, Ephemeral: true}, show)
	done()
	if err != nil {
		return 0, ownFailure{err}
	}
	image, err := client.ImageShow(ctx, vm.Spec.Image)
	code := 0
	if err == nil {
		req.Argv = command(image.Config, argv)
		code, err = c.session(ctx, vm, req)
	}
	if err != nil && ctx.Err() == nil {
		err = c.whyEnded(ctx, client, vm.ID, err)
	}
	if rmErr := c.removeAfter(ctx, vm.ID); err == nil && rmErr != nil {
		fmt.Fprintf(c.Stderr, "banger: remove vm %s: %v\n", vm.Name, rmErr)
	}
	return code, err
}

// whyEnded is the error of a session that broke off, with the reason if the VM ended.
func (c *CLI) whyEnded(ctx context.Context, client *banger.Client, id string, err error) error {
	vm, showErr := client.VMShow(ctx, id)
	if showErr != nil || vm.Reason == "" {
		return err
	}
	return ownFailure{banger.Errorf(banger.Unavailable, "vm %q is %s: %s (%w)", vm.Name, vm.State, vm.Reason, err)}
}

// command is what runs: the image's entry point before the words that were
// given, or before its own command. Source: OCI image-spec v1.1, config.md.
func command(config banger.ImageConfig, argv []string) []string {
	if len(argv) == 0 {
		argv = config.Cmd
	}
	argv = append(config.Entrypoint[:len(config.Entrypoint):len(config.Entrypoint)], argv...)
	if len(argv) == 0 {
		return []string{"/bin/sh"}
	}
	return argv
}

// removeAfter removes the VM of a run, also after an interrupt and also when
// the daemon was started anew meanwhile.
func (c *CLI) removeAfter(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	return c.call(ctx, func(client *banger.Client) error {
		err := client.VMDelete(ctx, banger.NameRequest{Name: id, Force: true})
		if banger.IsKind(err, banger.NotFound) || errors.Is(err, context.Canceled) {
			return nil
		}
		return err
	})
}
