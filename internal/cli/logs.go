package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"banger"
)

// logsFlags are those of logs.
type logsFlags struct {
	follow bool
	tail   int
	since  string
}

func (c *CLI) logsCommand() *cobra.Command {
	var f logsFlags
	cmd := &cobra.Command{
		Use: "logs VM", Short: "Print the console of a VM",
		Long: `Print what the serial console of a VM said since its last start, at most a MiB; with --since or
--tail also what was said in the MiB before. On a terminal control bytes are shown as \x1b.`,
		Example: `  banger logs -f testbox
  banger logs --since 10m testbox
  banger logs --since 2026-11-23T17:00:00Z --tail 100 testbox`,
		Args: args(cobra.ExactArgs(1)), ValidArgsFunction: c.completeVMs,
		RunE: func(cmd *cobra.Command, a []string) error {
			since, err := parseWhen("--since", f.since, time.Now())
			if err != nil {
				return usageError{err, cmd}
			}
			return c.call(cmd.Context(), func(client *banger.Client) error {
				vm, err := client.VMShow(cmd.Context(), a[0])
				if err != nil {
					return err
				}
				return c.logs(cmd.Context(), client, vm, f, since)
			})
		},
	}
	cmd.Flags().BoolVarP(&f.follow, "follow", "f", false, "go on until the VM ends")
	cmd.Flags().IntVarP(&f.tail, "tail", "n", -1, "only that many of the last lines")
	cmd.Flags().StringVar(&f.since, "since", "", "only what came since then: 10m ago, or a time of RFC 3339")
	return cmd
}

// parseWhen reads how long ago, or when; the zero time if text is empty.
func parseWhen(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, fmt.Errorf("bad %s %q: want 10m, 2h or 2026-11-23T17:00:00Z", flag, text)
	}
	return t, nil
}

// logs prints the console log; a VM that never ran has none, which is no fault.
func (c *CLI) logs(ctx context.Context, client *banger.Client, vm banger.VM, flags logsFlags, since time.Time) error {
	f, err := os.Open(vm.Console)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open console log: %w", err)
	}
	defer func() { f.Close() }()
	out := c.Stdout
	if isTerminal(out) {
		out = &escaper{w: out}
	}
	if flags.tail >= 0 || !since.IsZero() {
		if err := printPast(out, f, vm.Console, flags.tail, since); err != nil {
			return err
		}
	}
	if !flags.follow {
		_, err = io.Copy(out, f)
		return err
	}
	w, err := watchDir(filepath.Dir(vm.Console))
	if err != nil {
		return err
	}
	defer w.Close()
	defer context.AfterFunc(ctx, func() { _ = w.Close() })()
	for {
		if _, err := io.Copy(out, f); err != nil {
			return err
		}
		// The log was put aside when it was full: go on in the new one.
		if now, err := os.Open(vm.Console); err == nil {
			if sameFile(f, now) {
				_ = now.Close()
			} else {
				_, _ = io.Copy(out, f)
				_ = f.Close()
				f = now
				continue
			}
		}
		rec, err := client.VMShow(ctx, vm.ID)
		if err != nil || rec.Machine == nil {
			_, _ = io.Copy(out, f)
			return ctxErr(ctx)
		}
		if _, err := w.Read(make([]byte, 4096)); err != nil {
			return ctxErr(ctx)
		}
	}
}

// ctxErr is nil but for an interrupt.
func ctxErr(ctx context.Context) error { return context.Cause(ctx) }

// watchDir gives a descriptor that can be read when something in dir changed. Source: inotify(7).
func watchDir(dir string) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", dir, err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_TO); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("watch %s: %w", dir, err)
	}
	return f, nil
}

func sameFile(a, b *os.File) bool {
	fa, errA := a.Stat()
	fb, errB := b.Stat()
	return errA == nil && errB == nil && os.SameFile(fa, fb)
}
