package cli

import (
	"fmt"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"banger"
	"banger/internal/doctor"
)

func (c *CLI) systemCommand() *cobra.Command {
	return noun("system", "See what banger knows of itself and its host", c.systemInfoCommand(), c.systemDoctorCommand(),
		c.eventsCommand("Show what becomes of VMs, images and kernels"))
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
				return infoTable(info).write(c.Stdout)
			})
		},
	}
}

func infoTable(info banger.SystemInfo) *table {
	t := &table{}
	for _, r := range [][2]string{{"version", info.Version}, {"build", info.Build}, {"pid", strconv.Itoa(info.PID)},
		{"state", info.Root}, {"cache", info.Cache}, {"sockets", info.Run}, {"config", info.Config}} {
		t.add(r[0], r[1])
	}
	if e := info.ConfigError; e != nil {
		t.add("", "is wrong: "+e.Msg)
	}
	t.add("kernels", strconv.Itoa(info.Kernels))
	t.add("images", strconv.Itoa(info.Images))
	t.add("vms", fmt.Sprintf("%d, %d running", info.VMs, info.Running))
	for _, d := range info.Drivers {
		if d.Problem != "" {
			t.add(d.Name, "unusable: "+d.Problem)
			continue
		}
		t.add(d.Name, fmt.Sprintf("%s with %s: %s", d.Version, d.Accel, d.AccelReason))
	}
	return t
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
		var t table
		for _, ch := range checks {
			t.add(string(ch.Status), ch.ID, ch.Detail)
			if ch.Fix != "" {
				t.add("", "", "fix: "+ch.Fix)
			}
		}
		if err := t.write(c.Stdout); err != nil {
			return err
		}
	}
	if failed != 0 {
		return failed
	}
	return nil
}
