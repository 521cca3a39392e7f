package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"banger"
	"banger/internal/state"
)

// escapeKey leaves the console: Ctrl-], as of telnet and virsh.
const escapeKey = 0x1d

func (c *CLI) vmConsoleCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "console VM",
		Short: "Attach to the serial console of a VM; Ctrl-] leaves it",
		Long: `Attach to the serial console (ttyS0) of a VM: what is typed goes to whatever reads it there, a
getty for instance, and all that comes is shown. Ctrl-] leaves it, as does the end of the VM.
It does without the agent in the guest; what was said before is in "banger vm logs".`,
		Args: args(cobra.ExactArgs(1)), ValidArgsFunction: c.completeVMs,
		RunE: func(cmd *cobra.Command, a []string) error {
			ctx := cmd.Context()
			vm, err := c.findVM(ctx, a[0])
			if err != nil {
				return err
			}
			return c.console(ctx, vm)
		},
	}
}

// console joins this terminal to that of a VM until either ends.
func (c *CLI) console(ctx context.Context, vm banger.VM) error {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", filepath.Join(filepath.Dir(vm.Agent), state.TTYSocket))
	if err != nil {
		return banger.Errorf(banger.Conflict, "attach to the console of vm %q: it is %s", vm.Name, vm.State).WithHint("banger vm start %s", vm.Name)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if isTerminal(c.Stdin) {
		fmt.Fprintf(c.Stderr, "banger: at the console of %s; Ctrl-] leaves it\n", vm.Name)
		fd := int(c.Stdin.Fd())
		old, err := term.MakeRaw(fd)
		if err != nil {
			return fmt.Errorf("set up the terminal: %w", err)
		}
		defer func() {
			_ = term.Restore(fd, old)
			fmt.Fprintln(c.Stderr)
		}()
	}
	left := make(chan struct{})
	go func() {
		if errors.Is(typeKeys(conn, c.Stdin), errLeft) {
			close(left)
			_ = conn.Close()
		}
	}()
	_, err = io.Copy(c.Stdout, conn)
	select {
	case <-left:
		return nil
	default:
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// errLeft says that the escape key was typed.
var errLeft = errors.New("left")

// typeKeys passes keys on up to the escape key. Their end is none of the
// console: whoever pipes something in still watches.
func typeKeys(w io.Writer, r io.Reader) error {
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		keys, _, escape := bytes.Cut(buf[:n], []byte{escapeKey})
		if _, err := w.Write(keys); err != nil {
			return err
		}
		if escape {
			return errLeft
		}
		if err != nil {
			return err
		}
	}
}
