package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/api"
)

// toCaller writes to a pipe of the process that made the call.
func toCaller(ctx context.Context, fd int, write func(io.Writer) error) error {
	f, err := openCaller(ctx, fd, os.O_WRONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { _ = f.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	err = write(f)
	switch {
	case ctx.Err() != nil:
		return banger.Errorf(banger.Canceled, "%w", context.Cause(ctx))
	case errors.Is(err, unix.EPIPE):
		return banger.Errorf(banger.Canceled, "nobody reads it any more: %w", err)
	}
	return err
}

// fromCaller reads a pipe of the process that made the call. Reads end when ctx does.
func fromCaller(ctx context.Context, fd int) (f *os.File, done func(), err error) {
	f, err = openCaller(ctx, fd, os.O_RDONLY)
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetDeadline(time.Unix(1, 0)) })
	return f, func() {
		stop()
		_ = f.Close()
	}, nil
}

// openCaller opens a descriptor of the process that made the call once more. It
// has to be a pipe: of anything else a second opening is not the same as the
// first, and Linux has none for sockets.
func openCaller(ctx context.Context, fd, flag int) (*os.File, error) {
	peer := api.Peer(ctx)
	if peer == nil || fd < 0 {
		return nil, banger.Errorf(banger.Invalid, "no descriptor %d of the caller", fd)
	}
	path := fmt.Sprintf("/proc/%d/fd/%d", peer.Pid, fd)
	if fi, err := os.Stat(path); err != nil {
		return nil, banger.Errorf(banger.Invalid, "open the caller's descriptor %d: %w", fd, err)
	} else if fi.Mode()&os.ModeNamedPipe == 0 {
		return nil, banger.Errorf(banger.Invalid, "the caller's descriptor %d is not a pipe", fd)
	}
	f, err := os.OpenFile(path, flag|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, banger.Errorf(banger.Unavailable, "open the caller's descriptor %d: %w", fd, err)
	}
	return f, nil
}
