package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"banger"
	"banger/internal/agent"
)

// sessionFlags are those of every command that runs something in a guest.
type sessionFlags struct {
	interactive, tty bool
	env              []string
	dir, user        string
	ownSSHD          bool // of the guest, instead of banger's
}

func (f *sessionFlags) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&f.interactive, "interactive", "i", false, "pass stdin on (always done when it is not a terminal)")
	cmd.Flags().BoolVarP(&f.tty, "tty", "t", false, "give the command a terminal (default: when stdin and stdout are one)")
	cmd.Flags().StringArrayVarP(&f.env, "env", "e", nil, "set NAME=value, or pass NAME on; may be repeated")
	cmd.Flags().StringVarP(&f.dir, "workdir", "w", "", "directory to start in")
	cmd.Flags().StringVarP(&f.user, "user", "u", "", "user[:group] to run as, by name or number")
}

// request makes the request for one command from the flags.
func (f *sessionFlags) request(c *CLI) (agent.Request, error) {
	r := agent.Request{Dir: f.dir, User: f.user, Stdout: c.Stdout, Stderr: c.Stderr}
	var err error
	if r.Env, err = c.environment(f.env); err != nil {
		return r, err
	}
	terminal := isTerminal(c.Stdin)
	r.TTY = f.tty || (terminal && isTerminal(c.Stdout))
	if f.interactive || r.TTY || !terminal {
		r.Stdin = c.Stdin
	}
	return r, nil
}

// session runs one request in the guest of vm and gives its exit code. The
// stream goes straight to the VM's shim: a restart of the daemon does not cut it.
func (c *CLI) session(ctx context.Context, vm banger.VM, r agent.Request) (int, error) {
	client, err := c.dialAgent(ctx, vm)
	if err != nil {
		return 0, ownFailure{err}
	}
	defer client.Close()
	return c.attended(ctx, r, client.Run)
}

// attended runs one request with the terminal and the signals of this process.
func (c *CLI) attended(ctx context.Context, r agent.Request, run func(context.Context, agent.Request) (agent.Exit, error)) (int, error) {
	if r.TTY {
		restore, err := c.makeRaw(&r)
		if err != nil {
			return 0, ownFailure{err}
		}
		defer restore()
	}
	passed, stop := c.signals.pass()
	defer stop()
	r.Signals = passed
	exit, err := run(ctx, r)
	if err != nil {
		return 0, ownFailure{err}
	}
	return exit.Code, nil
}

// findVM asks the daemon for the VM of that name.
func (c *CLI) findVM(ctx context.Context, name string) (vm banger.VM, err error) {
	err = c.call(ctx, func(client *banger.Client) (err error) {
		vm, err = client.VMShow(ctx, name)
		return err
	})
	return vm, err
}

// running says why a VM cannot be reached.
func running(vm banger.VM) error {
	if vm.State != banger.Running {
		way := "start"
		if vm.State == banger.Paused {
			way = "resume"
		}
		return banger.Errorf(banger.Conflict, "vm %q is %s", vm.Name, vm.State).WithHint("banger vm %s %s", way, vm.Name)
	}
	return nil
}

func (c *CLI) dialAgent(ctx context.Context, vm banger.VM) (*agent.Client, error) {
	if err := running(vm); err != nil {
		return nil, err
	}
	return agent.DialRoot(ctx, vm.Agent, c.layout.UserKey(), vm.HostKey)
}

// makeRaw hands the terminal over to the guest: keys unread, size changes passed on.
func (c *CLI) makeRaw(r *agent.Request) (restore func(), err error) {
	r.Term = c.Getenv("TERM")
	if r.Term == "" {
		r.Term = "xterm"
	}
	r.Rows, r.Cols = 24, 80
	if !isTerminal(c.Stdin) {
		return func() {}, nil
	}
	fd := int(c.Stdin.Fd())
	old, err := term.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("set up the terminal: %w", err)
	}
	window := func() agent.WindowSize {
		cols, rows, err := term.GetSize(fd)
		if err != nil {
			return agent.WindowSize{Rows: 24, Cols: 80}
		}
		return agent.WindowSize{Rows: rows, Cols: cols}
	}
	now := window()
	r.Rows, r.Cols = now.Rows, now.Cols
	changes := make(chan os.Signal, 1)
	resize := make(chan agent.WindowSize)
	quit := make(chan struct{})
	signal.Notify(changes, syscall.SIGWINCH)
	go func() {
		for {
			select {
			case <-changes:
			case <-quit:
				return
			}
			select {
			case resize <- window():
			case <-quit:
				return
			}
		}
	}()
	r.Resize = resize
	return func() {
		signal.Stop(changes)
		close(quit)
		_ = term.Restore(fd, old)
	}, nil
}
