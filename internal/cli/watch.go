package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

// watch is how a command that measures is repeated: on a terminal until it is
// interrupted, else once.
type watch struct {
	once     bool
	interval time.Duration
}

func (w *watch) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&w.once, "no-stream", false, "measure once (always done with --json, and where stdout is no terminal)")
	cmd.Flags().DurationVar(&w.interval, "interval", time.Second, "time between two looks, of which each measure is made")
}

// run takes a look, and after every interval another one that it shows together
// with the one before.
func watched[T any](c *CLI, ctx context.Context, w watch, look func() (T, error), show func(before, now T) error) error {
	if w.interval < 100*time.Millisecond {
		w.interval = 100 * time.Millisecond
	}
	stream := !w.once && !c.json && isTerminal(c.Stdout)
	before, err := look()
	if err != nil {
		return err
	}
	tick := time.NewTicker(w.interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctxErr(ctx)
		}
		now, err := look()
		if err != nil {
			return err
		}
		if stream {
			fmt.Fprint(c.Stdout, "\x1b[H\x1b[2J")
		}
		if err := show(before, now); err != nil || !stream {
			return err
		}
		before = now
	}
}

// percent is how much of one CPU was used between two looks.
func percent(used, over time.Duration) float64 {
	if over <= 0 || used < 0 {
		return 0
	}
	return 100 * float64(used) / float64(over)
}

func percentText(p float64) string { return fmt.Sprintf("%.1f", p) }
