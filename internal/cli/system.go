package cli

import (
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"banger"
	"banger/internal/doctor"
)

func (c *CLI) systemCommand() *cobra.Command {
	return noun("system", "See what banger knows of itself and its host", c.systemInfoCommand(), c.systemDoctorCommand())
}

func (c *CLI) systemInfoCommand() *cobra.Command {
	return &cobra.Command{
		Use: "info", Short: "Describe the daemon and its host",
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.call(cmd.Context(), func(client *banger.Client) error {
				info, err := client.SystemInfo(cmd.Context())
				if err != nil {
					return err
				}
				if c.json {
					return c.printJSON(info)
				}
				w := tabwriter.NewWriter(c.Stdout, 0, 0, 3, ' ', 0)
				fmt.Fprintf(w, "version\t%s\nbuild\t%s\npid\t%d\nstate\t%s\ncache\t%s\nsockets\t%s\nconfig\t%s\n", info.Version, info.Build, info.PID, info.Root, info.Cache, info.Run, info.Config)
				if e := info.ConfigError; e != nil {
					fmt.Fprintf(w, "\tis wrong: %s\n", e.Msg)
				}
				fmt.Fprintf(w, "kernels\t%d\nimages\t%d\nvms\t%d, %d running\n", info.Kernels, info.Images, info.VMs, info.Running)
				for _, d := range info.Drivers {
					if d.Problem != "" {
						fmt.Fprintf(w, "%s\tunusable: %s\n", d.Name, d.Problem)
						continue
					}
					fmt.Fprintf(w, "%s\t%s with %s: %s\n", d.Name, d.Version, d.Accel, d.AccelReason)
				}
				return w.Flush()
			})
		},
	}
}

func (c *CLI) systemDoctorCommand() *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Check this host, with the fix for what is missing",
		Long: "Check this host, with the fix for what is missing. The exit code is 1 when banger cannot work here.",
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.call(cmd.Context(), func(client *banger.Client) error {
				info, err := client.SystemInfo(cmd.Context())
				if err != nil {
					return err
				}
				checks := doctor.Run(doctor.Host{Info: info, UID: os.Getuid()})
				return c.printChecks(checks)
			})
		},
	}
}

func (c *CLI) printChecks(checks []doctor.Check) error {
	var failed exitError
	for _, ch := range checks {
		if ch.Status == doctor.Fail {
			failed = exitFailure
		}
	}
	if c.json {
		if err := c.printJSON(checks); err != nil {
			return err
		}
	} else {
		w := tabwriter.NewWriter(c.Stdout, 0, 0, 3, ' ', 0)
		for _, ch := range checks {
			fmt.Fprintf(w, "%s\t%s\t%s\n", ch.Status, ch.ID, ch.Detail)
			if ch.Fix != "" {
				fmt.Fprintf(w, "\t\tfix: %s\n", ch.Fix)
			}
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	if failed != 0 {
		return failed
	}
	return nil
}
