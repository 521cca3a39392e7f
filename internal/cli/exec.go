package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"banger"
	"banger/internal/agent"
)

const exitCodes = `

Exit code: that of the command; 128+n when signal n ended it; 126 or 127 when it could
not be run or was not found; 125 when banger failed before it ran.`

func (c *CLI) execCommand() *cobra.Command {
	var sess sessionFlags
	cmd := &cobra.Command{
		Use:   "exec VM -- CMD...",
		Short: "Run a command in a VM, without a shell",
		Long:  `Run a command in a VM, word for word, with the image's environment, user and directory. Needs no shell in the image.` + exitCodes,
		Example: `  banger exec testbox -- ls -l /etc
  banger exec -e LANG=C -w /tmp testbox -- env`,
		Args:              args(cobra.MinimumNArgs(2)),
		ValidArgsFunction: c.completeFirst(c.completeVMs),
		RunE: func(cmd *cobra.Command, a []string) error {
			return c.inVM(cmd.Context(), a[0], &sess, func(r *agent.Request) { r.Argv = a[1:] })
		},
	}
	sess.flags(cmd)
	return cmd
}

func (c *CLI) sshCommand() *cobra.Command {
	var sess sessionFlags
	cmd := &cobra.Command{
		Use:   "ssh VM [-- CMD...]",
		Short: "Open a shell in a VM, or run a command line with it",
		Long: `Open a login shell in a VM, or run a command line with the user's shell. It works
with any image that has a shell: the server is banger's own.` + exitCodes,
		Example: `  banger ssh testbox
  banger ssh testbox -- "id; uname -r"`,
		Args:              args(cobra.MinimumNArgs(1)),
		ValidArgsFunction: c.completeFirst(c.completeVMs),
		RunE: func(cmd *cobra.Command, a []string) error {
			return c.inVM(cmd.Context(), a[0], &sess, func(r *agent.Request) {
				r.Command, r.Login = strings.Join(a[1:], " "), true
				r.TTY = r.TTY && (len(a) == 1 || sess.tty) // as OpenSSH does
			})
		},
	}
	sess.flags(cmd)
	return cmd
}

// inVM runs one request in a VM that is there, and ends with its exit code.
func (c *CLI) inVM(ctx context.Context, name string, sess *sessionFlags, set func(*agent.Request)) error {
	req, err := sess.request(c)
	if err != nil {
		return err
	}
	set(&req)
	var vm banger.VM
	err = c.call(ctx, func(client *banger.Client) error {
		vm, err = client.VMShow(ctx, name)
		return err
	})
	if err != nil {
		return ownFailure{err}
	}
	code, err := c.session(ctx, vm, req)
	if err == nil && code != 0 {
		return exitError(code)
	}
	return err
}
