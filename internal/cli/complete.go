package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"banger"
	"banger/internal/state"
)

// completeTime is how long a shell waits for names; a daemon is not started for them.
const completeTime = 200 * time.Millisecond

type completer = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// complete makes a completion from a list of names; a failure is silent.
func complete[T any](c *CLI, list func(*banger.Client, context.Context) ([]T, error), name func(T) string) ([]string, cobra.ShellCompDirective) {
	layout, err := state.Locate(c.Getenv)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(context.Background(), completeTime)
	defer cancel()
	items, _ := list(&banger.Client{Socket: layout.Socket()}, ctx)
	var names []string
	for _, it := range items {
		names = append(names, name(it))
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (c *CLI) completeVMs(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return complete(c, (*banger.Client).VMList, func(v banger.VM) string { return v.Name })
}

func (c *CLI) completeImages(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return complete(c, (*banger.Client).ImageList, func(im banger.Image) string { return im.Name })
}

func (c *CLI) completeKernels(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	list := func(client *banger.Client, ctx context.Context) ([]banger.Kernel, error) {
		return client.KernelList(ctx, banger.KernelListRequest{Brief: true})
	}
	return complete(c, list, func(k banger.Kernel) string { return k.Name })
}

// completeOffers offers what banger kernel pull knows by name.
func (c *CLI) completeOffers(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	list := func(client *banger.Client, ctx context.Context) ([]banger.KernelOffer, error) {
		all, err := client.KernelCatalog(ctx)
		return all.Offers, err
	}
	return complete(c, list, func(o banger.KernelOffer) string { return o.Name })
}

// completeFirst completes the first operand alone.
func (c *CLI) completeFirst(f completer) completer {
	return func(cmd *cobra.Command, a []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(a) > 0 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return f(cmd, a, word)
	}
}
