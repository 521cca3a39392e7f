package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/agent"
)

const exitCodes = `

Exit code: that of the command; 128+n when signal n ended it; 126 or 127 when it could
not be run or was not found; 125 when banger failed before it ran.`

// execFlags are those of exec beside a session's.
type execFlags struct {
	sessionFlags
	timeout    time.Duration
	detach, ls bool
	attach     string
	list       list
}

func (c *CLI) execCommand() *cobra.Command {
	var f execFlags
	cmd := &cobra.Command{
		Use:   "exec VM -- CMD...",
		Short: "Run a command in a VM, without a shell",
		Long: `Run a command in a VM, word for word, with the image's environment, user and directory.
Needs no shell in the image. The command ends with banger; with -d it goes on by itself,
its ID is printed, and the last MiB of its output is kept in the VM: --attach prints that,
goes on until the command ends, and gives its exit code; --ls lists such commands.` + exitCodes + `
124 when --timeout ended it.`,
		Example: `  banger exec testbox -- ls -l /etc
  banger exec -e LANG=C -w /tmp testbox -- env
  banger exec -d testbox -- make -C /src         # prints an ID
  banger exec --attach ID testbox`,
		Args:              args(cobra.MinimumNArgs(1)),
		ValidArgsFunction: c.completeFirst(c.completeVMs),
		RunE: func(cmd *cobra.Command, a []string) error {
			switch {
			case (f.attach != "" || f.ls) != (len(a) == 1):
				return usageError{errors.New("want a VM and a command, or --attach or --ls and a VM"), cmd}
			case f.detach && (f.tty || f.interactive):
				return usageError{errors.New("-d goes without a terminal and without stdin"), cmd}
			case f.timeout < 0:
				return usageError{fmt.Errorf("bad --timeout %s", f.timeout), cmd}
			case f.ls:
				return c.listJobs(cmd, a[0], f.list)
			case f.attach != "":
				return c.attach(cmd.Context(), a[0], f.attach)
			case f.detach:
				return c.detach(cmd.Context(), a[0], a[1:], f)
			}
			return c.inVM(cmd.Context(), a[0], &f.sessionFlags, func(r *agent.Request) { r.Argv, r.Timeout = a[1:], f.timeout })
		},
	}
	f.flags(cmd)
	cmd.Flags().DurationVar(&f.timeout, "timeout", 0, "end the command after so long (30s, 5m), with exit code 124")
	cmd.Flags().BoolVarP(&f.detach, "detach", "d", false, "leave the command running and print its ID")
	cmd.Flags().StringVar(&f.attach, "attach", "", "follow the detached command of that ID to its end")
	cmd.Flags().BoolVar(&f.ls, "ls", false, "list the detached commands of a VM")
	f.list.flags(cmd)
	return cmd
}

// detach starts a command that goes on by itself.
func (c *CLI) detach(ctx context.Context, vm string, argv []string, f execFlags) error {
	req, err := f.request(c)
	if err != nil {
		return err
	}
	req.Argv, req.Timeout = argv, f.timeout
	client, err := c.agentOf(ctx, vm)
	if err != nil {
		return ownFailure{err}
	}
	defer client.Close()
	id, exit, err := client.Detach(ctx, req)
	if err == nil {
		return c.printChanged(id, map[string]string{"id": id})
	}
	if exit.Code != 0 { // the guest's own word about the command
		c.exitCode(err)
		return exitError(exit.Code)
	}
	return ownFailure{err}
}

// attach follows a detached command. An interrupt ends that, not the command.
func (c *CLI) attach(ctx context.Context, vm, id string) error {
	client, err := c.agentOf(ctx, vm)
	if err != nil {
		return ownFailure{err}
	}
	defer client.Close()
	exit, err := client.Attach(ctx, id, c.Stdout, c.Stderr)
	if err != nil {
		return ownFailure{err}
	}
	if exit.Code != 0 {
		return exitError(exit.Code)
	}
	return nil
}

func (c *CLI) listJobs(cmd *cobra.Command, vm string, l list) error {
	client, err := c.agentOf(cmd.Context(), vm)
	if err != nil {
		return ownFailure{err}
	}
	defer client.Close()
	jobs, err := client.Jobs(cmd.Context())
	if err != nil {
		return ownFailure{err}
	}
	return printList(c, cmd, l, "ID\tPID\tSTATE\tAGE\tCOMMAND", jobs, func(j agent.Job) []string {
		state := "running"
		if !j.Running {
			state = fmt.Sprintf("exited %d", j.Code)
		}
		return []string{j.ID, fmt.Sprint(j.PID), state, age(time.Unix(j.Started, 0)), clip(j.Command)}
	})
}

func (c *CLI) sshCommand() *cobra.Command {
	var sess sessionFlags
	cmd := &cobra.Command{
		Use:   "ssh VM [-- CMD...]",
		Short: "Open a shell in a VM, or run a command line with it",
		Long: `Open a login shell in a VM, or run a command line with the user's shell. It works
with any image that has a shell: the server is banger's own. With --guest-sshd it is that of
the image, at its port 22, reached without a network; banger's key is added to the user's
authorized_keys for that, and the server's host keys are those in its /etc/ssh.` + exitCodes,
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
	ownSSHDFlag(cmd, &sess.ownSSHD, "use the SSH server that the image itself runs, not banger's")
	return cmd
}

// inVM runs one request in a VM that is there, and ends with its exit code.
func (c *CLI) inVM(ctx context.Context, name string, sess *sessionFlags, set func(*agent.Request)) error {
	req, err := sess.request(c)
	if err != nil {
		return err
	}
	set(&req)
	vm, err := c.findVM(ctx, name)
	if err != nil {
		return ownFailure{err}
	}
	run := c.session
	if sess.ownSSHD {
		run = c.ownSession
	}
	code, err := run(ctx, vm, req)
	if err == nil && code != 0 {
		return exitError(code)
	}
	return err
}
