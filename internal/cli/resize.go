package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"banger"
)

func (c *CLI) vmResizeCommand() *cobra.Command {
	var disk int64
	cmd := &cobra.Command{
		Use: "resize VM --disk SIZE", Short: "Make a VM's disk larger",
		Long: `Make a VM's disk larger, and the file system on it: at once where the VM runs, else at
its next start. Disks are sparse, so only what is written takes space; none can be made
smaller.`,
		Example: "  banger vm resize testbox --disk 40G",
		Args:    args(cobra.ExactArgs(1)), ValidArgsFunction: c.completeFirst(c.completeVMs),
		RunE: func(cmd *cobra.Command, a []string) error {
			if disk == 0 {
				return usageError{errors.New("no --disk given"), cmd}
			}
			return c.eachVM(cmd.Context(), a, func(client *banger.Client, name string, _ func(banger.Progress)) (banger.VM, error) {
				return client.VMResize(cmd.Context(), banger.VMResizeRequest{Name: name, Disk: disk})
			})
		},
	}
	cmd.Flags().Var(sizeFlag{&disk}, "disk", "its new size")
	return cmd
}
