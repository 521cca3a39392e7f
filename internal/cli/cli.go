// Package cli is the command line: one file per command or noun, results on stdout, all else on stderr.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"banger"
	"banger/internal/state"
)

// The exit codes of banger itself; docs/CLI.md lists them. run, exec and ssh
// give the guest command's code as their own.
const (
	exitFailure = 1
	exitUsage   = 2
	exitBanger  = 125 // of run, exec and ssh: banger failed, the command did not run
	exitSignal  = 128 // plus the number of the signal
)

// CLI is one run of the command line.
type CLI struct {
	Stdin          *os.File
	Stdout, Stderr io.Writer
	Getenv         func(string) string
	Version        banger.VersionInfo
	// Daemon and Shim are the other roles of the binary.
	Daemon func(ctx context.Context, l state.Layout, ready func(error)) error
	Shim   func(ctx context.Context, dir string) error

	layout  state.Layout
	json    bool
	signals *signals
}

// exitError carries an exit code that is not for a fault of banger.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// usageError is a mistake in the command line.
type usageError struct {
	error
	cmd *cobra.Command
}

func (e usageError) Unwrap() error { return e.error }

// ownFailure marks an error of run, exec or ssh that came before the guest's command ran.
type ownFailure struct{ error }

func (e ownFailure) Unwrap() error { return e.error }

// Run runs one command line and returns its exit code.
func (c *CLI) Run(ctx context.Context, args []string) int {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c.signals = newSignals(cancel)
	defer c.signals.close()
	root := c.root()
	root.SetArgs(args)
	root.SetIn(c.Stdin)
	root.SetOut(c.Stdout)
	root.SetErr(c.Stderr)
	return c.exitCode(root.ExecuteContext(ctx))
}

// exitCode prints an error, if there is one to print, and gives its code.
func (c *CLI) exitCode(err error) int {
	var exit exitError
	if err == nil {
		return 0
	}
	if errors.As(err, &exit) {
		return int(exit)
	}
	var usage usageError
	var own ownFailure
	code := exitFailure
	switch {
	case c.signals.got() != 0:
		code = exitSignal + c.signals.got()
	case errors.As(err, &usage) || strings.HasPrefix(err.Error(), "unknown command"):
		code = exitUsage
	case errors.As(err, &own):
		code = exitBanger
	}
	e := banger.AsError(err)
	if sig := c.signals.got(); sig != 0 {
		e = banger.Errorf(banger.Canceled, "interrupted by %s", unix.SignalName(syscall.Signal(sig)))
	}
	if code == exitUsage && e.Hint == "" {
		e.Kind = banger.Invalid
		e.Hint = "banger --help"
		if usage.cmd != nil {
			e.Hint = usage.cmd.CommandPath() + " --help"
			if strings.Contains(usage.cmd.Use, "-- CMD") {
				e.Hint = "put -- before the command: banger " + usage.cmd.Use
			}
		}
	}
	if c.json {
		_ = json.NewEncoder(c.Stderr).Encode(map[string]any{"error": map[string]any{"code": e.Kind, "message": e.Msg, "hint": e.Hint}})
		return code
	}
	fmt.Fprintf(c.Stderr, "banger: %s\n", visible(e.Msg))
	if e.Hint != "" {
		fmt.Fprintf(c.Stderr, "hint: %s\n", visible(e.Hint))
	}
	return code
}

// visible is text of unknown origin as it may be shown: without control bytes.
func visible(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r >= 0x7f }) {
		return s // as most do; a list has thousands
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

func (c *CLI) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "banger",
		Short: "Turn any container image into a microVM",
		Long: `banger turns any container image into a microVM on any Linux host: one binary,
no root, no Docker. A daemon of your own does the work; it is started when needed.`,
		Example: `  banger run debian-bookworm -- uname -a
  banger vm create --image debian-bookworm --name testbox
  banger vm ssh testbox`,
		Version:       c.Version.Version,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(*cobra.Command, []string) (err error) {
			c.layout, err = state.Locate(c.Getenv)
			return err
		},
	}
	root.SetVersionTemplate("banger {{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usageError{err, cmd} })
	root.PersistentFlags().BoolVar(&c.json, "json", false, "print results and errors as JSON")
	root.AddGroup(&cobra.Group{ID: "daily", Title: "Daily commands:"}, &cobra.Group{ID: "nouns", Title: "Everything else, by noun:"})
	for _, cmd := range []*cobra.Command{c.runCommand(), c.psCommand(), c.execCommand(), c.sshCommand(), c.cpCommand(), c.logsCommand(), c.stopCommand(), c.rmCommand()} {
		cmd.GroupID = "daily"
		root.AddCommand(cmd)
	}
	for _, cmd := range []*cobra.Command{c.vmCommand(), c.imageCommand(), c.kernelCommand(), c.sshConfigCommand(), c.systemCommand(), c.daemonCommand()} {
		cmd.GroupID = "nouns"
		root.AddCommand(cmd)
	}
	root.AddCommand(c.shimCommand())
	return root
}

// noun makes a command that only holds others.
func noun(use, short string, cmds ...*cobra.Command) *cobra.Command {
	n := &cobra.Command{Use: use, Short: short, Args: func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usageError{fmt.Errorf("unknown command %q for %q", args[0], cmd.CommandPath()), cmd}
		}
		return nil
	}, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	n.AddCommand(cmds...)
	return n
}

// args wraps a check of the operands so that a mistake is one of usage.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{err, cmd}
		}
		return nil
	}
}

// isTerminal reports whether w is one.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
