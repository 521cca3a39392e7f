package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"banger"
)

// users of a kernel that a report tells about.
var kernelNeeds = []string{"banger", "systemd", "docker"}

func (c *CLI) kernelVerifyCommand() *cobra.Command {
	var l list
	var noBoot bool
	var need []string
	cmd := &cobra.Command{
		Use: "verify NAME", Short: "Check that a kernel is what it was, boots, and what it can do",
		Long: "Read the kernel's file again and compare it with its record, then boot it once in a machine\n" +
			"that is thrown away and try from inside what it can do. It is an error if the kernel lacks\n" +
			"what --need names.",
		Example: "  banger kernel verify debian-6.1\n  banger kernel verify generic-6.1 --need docker,systemd",
		Args:    args(cobra.ExactArgs(1)), ValidArgsFunction: c.completeKernels,
		RunE: func(cmd *cobra.Command, a []string) error {
			for _, n := range need {
				if !slices.Contains(kernelNeeds, n) {
					return usageError{fmt.Errorf("--need %q is none of %s", n, strings.Join(kernelNeeds, ", ")), cmd}
				}
			}
			report, err := c.verifyKernel(cmd.Context(), banger.KernelVerifyRequest{Name: a[0], NoBoot: noBoot})
			if err != nil {
				return err
			}
			if err := c.printReport(cmd, l, report); err != nil || noBoot {
				return err
			}
			for _, n := range need {
				if lacks := report.Lacks(n); len(lacks) > 0 {
					return banger.Errorf(banger.Unsupported, "kernel %q lacks what %s needs: %s", a[0], n, strings.Join(lacks, ", ")).
						WithHint("docs/kernel-catalog.md tells which kernel is for what; banger kernel ls --available")
				}
			}
			return nil
		},
	}
	l.flags(cmd)
	cmd.Flags().BoolVar(&noBoot, "no-boot", false, "only compare the file with its record")
	cmd.Flags().StringSliceVar(&need, "need", []string{"banger"}, "what must be there: "+strings.Join(kernelNeeds, ", "))
	_ = cmd.RegisterFlagCompletionFunc("need", cobra.FixedCompletions(kernelNeeds, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (c *CLI) verifyKernel(ctx context.Context, r banger.KernelVerifyRequest) (report banger.KernelReport, err error) {
	err = c.call(ctx, func(client *banger.Client) error {
		show, done := c.progress()
		report, err = client.KernelVerify(ctx, r, show)
		done()
		return err
	})
	return report, err
}

// printReport prints the features as a table and what they mean as sentences.
func (c *CLI) printReport(cmd *cobra.Command, l list, r banger.KernelReport) error {
	if c.json || l.format != "table" {
		return c.printJSON(r)
	}
	if r.Machine == nil {
		_, err := fmt.Fprintf(c.Stdout, "%s: its file is the one of its record, sha256 %s\n", r.Kernel.Name, r.Kernel.SHA256)
		return err
	}
	err := printList(c, cmd, l, "FEATURE\tFOUND\tNEEDED BY\tNOTE", r.Features, func(f banger.KernelFeature) []string {
		found := "yes"
		if !f.Has {
			found = "no"
		}
		return []string{f.Name, found, strings.Join(f.For, ", "), f.Why}
	})
	if err != nil || l.quiet {
		return err
	}
	m := r.Machine
	fmt.Fprintf(c.Stdout, "\n%s: Linux %s, its file is the one of its record; booted %s (%s) by %s with %s\n",
		r.Kernel.Name, visible(r.Release), m.BootPath, m.BootReason, m.Driver, m.Accel)
	for _, who := range kernelNeeds {
		if lacks := r.Lacks(who); len(lacks) > 0 {
			fmt.Fprintf(c.Stdout, "%s: no, it lacks %s\n", who, strings.Join(lacks, ", "))
		} else {
			fmt.Fprintf(c.Stdout, "%s: yes\n", who)
		}
	}
	return nil
}
