package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"banger"
)

func (c *CLI) logsCommand() *cobra.Command {
	var follow bool
	var tail int
	cmd := &cobra.Command{
		Use: "logs VM", Short: "Print the console of a VM",
		Args: args(cobra.ExactArgs(1)), ValidArgsFunction: c.completeVMs,
		RunE: func(cmd *cobra.Command, a []string) error {
			return c.call(cmd.Context(), func(client *banger.Client) error {
				vm, err := client.VMShow(cmd.Context(), a[0])
				if err != nil {
					return err
				}
				return c.logs(cmd.Context(), client, vm, follow, tail)
			})
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the VM ends")
	cmd.Flags().IntVarP(&tail, "tail", "n", -1, "only that many of the last lines")
	return cmd
}

// logs prints the console log; a VM that never ran has none, which is no fault.
func (c *CLI) logs(ctx context.Context, client *banger.Client, vm banger.VM, follow bool, tail int) error {
	f, err := os.Open(vm.Console)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open console log: %w", err)
	}
	defer func() { f.Close() }()
	if tail >= 0 {
		if err := seekTail(f, tail); err != nil {
			return err
		}
	}
	if !follow {
		_, err = io.Copy(c.Stdout, f)
		return err
	}
	w, err := watchDir(filepath.Dir(vm.Console))
	if err != nil {
		return err
	}
	defer w.Close()
	defer context.AfterFunc(ctx, func() { _ = w.Close() })()
	for {
		if _, err := io.Copy(c.Stdout, f); err != nil {
			return err
		}
		// The log was put aside when it was full: go on in the new one.
		if now, err := os.Open(vm.Console); err == nil {
			if sameFile(f, now) {
				_ = now.Close()
			} else {
				_, _ = io.Copy(c.Stdout, f)
				_ = f.Close()
				f = now
				continue
			}
		}
		rec, err := client.VMShow(ctx, vm.ID)
		if err != nil || rec.Machine == nil {
			_, _ = io.Copy(c.Stdout, f)
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

// seekTail goes to the beginning of the last n lines. The log is at most 1 MiB long.
func seekTail(f *os.File, n int) error {
	b, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	at := len(b)
	for range n {
		if at = bytes.LastIndexByte(bytes.TrimSuffix(b[:at], []byte("\n")), '\n') + 1; at == 0 {
			break
		}
	}
	_, err = f.Seek(int64(at), io.SeekStart)
	return err
}
