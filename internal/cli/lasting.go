package cli

import (
	"context"
	"time"

	"banger"
)

// comeBack is how often a command that outlives its daemon looks for the next
// one: nothing tells of a socket in a folder that went with the old one.
const comeBack = 200 * time.Millisecond

// maxSame is how often the same daemon may fail a call before that is its answer.
const maxSame = 25

// lasting is call for what may take for ever. Should the daemon go away, f is
// called again with the next one, which others start: who stopped a daemon does
// not want it back for somebody who only watches.
func (c *CLI) lasting(ctx context.Context, f func(*banger.Client) error) error {
	return c.call(ctx, func(client *banger.Client) error {
		for same := 0; ; {
			was, err := client.SystemVersion(ctx)
			if err == nil {
				err = f(client)
			}
			gone := banger.IsKind(err, banger.Unavailable) || banger.IsKind(err, banger.Canceled)
			if ctx.Err() != nil || !gone {
				return err
			}
			client.Close()
			now, waitErr := c.awaitDaemon(ctx, client)
			if waitErr != nil {
				return waitErr
			}
			if same++; now.PID != was.PID {
				same = 0
			}
			if same > maxSame { // it is about to end, or means what it says
				return err
			}
		}
	})
}

// awaitDaemon waits until a daemon answers that is not about to go.
func (c *CLI) awaitDaemon(ctx context.Context, client *banger.Client) (v banger.VersionInfo, err error) {
	tick := time.NewTicker(comeBack)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return v, ctxErr(ctx)
		}
		if v, err = client.SystemVersion(ctx); err == nil {
			return v, nil
		}
	}
}
