package cli

import (
	"encoding/json"
	"errors"
	"os"
	"syscall"

	"github.com/spf13/cobra"

	"banger"
)

func (c *CLI) daemonCommand() *cobra.Command {
	var ready bool
	cmd := &cobra.Command{
		Use:   "daemon",
		Short: "Run the daemon in the foreground",
		Long: `Run the daemon in the foreground. There is no need to: every command starts one
that runs in the background when none is there. It can be stopped, killed or
upgraded at any moment; VMs run on and are found again.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := c.Daemon(cmd.Context(), c.layout, readiness(ready))
			if c.signals.got() != 0 && cmd.Context().Err() != nil {
				return nil // SIGTERM is how a daemon is asked to end
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&ready, "ready", false, "say on descriptor 3 when the daemon serves")
	_ = cmd.Flags().MarkHidden("ready")
	cmd.AddCommand(c.daemonStopCommand())
	return cmd
}

// readiness tells the command that started this daemon how that went.
func readiness(tell bool) func(error) {
	if !tell {
		return func(error) {}
	}
	pipe := os.NewFile(readyFD, "ready")
	syscall.CloseOnExec(readyFD)
	return func(err error) {
		if pipe == nil {
			return
		}
		_ = json.NewEncoder(pipe).Encode(banger.Event{Error: banger.AsError(err)})
		_ = pipe.Close()
		pipe = nil
	}
}

func (c *CLI) daemonStopCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "stop",
		Short: "Stop the daemon; VMs run on",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client := &banger.Client{Socket: c.layout.Socket()}
			err := client.SystemShutdown(cmd.Context(), banger.NameRequest{Force: force})
			if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) {
				return nil // none runs
			}
			if err != nil {
				return err
			}
			return c.awaitEnd(cmd.Context())
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "also when it is busy")
	return cmd
}

func (c *CLI) shimCommand() *cobra.Command {
	return &cobra.Command{
		Use: "shim DIR", Hidden: true, Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			return c.Shim(cmd.Context(), a[0])
		},
	}
}
