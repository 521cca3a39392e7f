package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/hello"
)

// portName is the virtio-serial port to the host.
const portName = "banger.0"

// Port is the stream to the host. While no host is connected a read ends with
// io.EOF and a write waits.
type Port struct{ *os.File }

// OpenPort opens the port of that name when the kernel has found it. A port
// has one opener at a time.
func OpenPort() (*Port, error) {
	var f *os.File
	err := await(deviceWait, func() (bool, error) {
		dev, err := findPort("/sys/class/virtio-ports")
		if dev == "" || err != nil {
			return false, err
		}
		// The poller of Go takes the port, so deadlines work. The name comes
		// later than the node does: the port is whole by now.
		f, err = os.OpenFile(filepath.Join("/dev", dev), os.O_RDWR, 0)
		return err == nil, err
	})
	if errors.Is(err, errAbsent) {
		err = fmt.Errorf("%w (does the kernel have virtio_console?)", err)
	}
	if err != nil {
		return nil, fmt.Errorf("open virtio port %s: %w", portName, err)
	}
	return &Port{f}, nil
}

// findPort gives the device, vportNpM, of the port of our name.
func findPort(class string) (string, error) {
	names, err := filepath.Glob(class + "/*/name")
	if err != nil {
		return "", err
	}
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err == nil && strings.TrimSpace(string(b)) == portName {
			return filepath.Base(filepath.Dir(n)), nil
		}
	}
	return "", nil
}

// Ask says hello for the stage until a host has answered, however long there is none.
func (p *Port) Ask(ctx context.Context, stage string) (hello.Config, hello.Stream, error) {
	for {
		cfg, s, err := hello.Ask(ctx, p, stage)
		if !errors.Is(err, io.EOF) {
			return cfg, s, err
		}
		if err := p.awaitHost(ctx); err != nil {
			return cfg, nil, err
		}
	}
}

// awaitHost waits for a host to connect. The driver wakes the pollers when one
// does; whether one is there only poll(2) tells: POLLHUP says no.
func (p *Port) awaitHost(ctx context.Context) error {
	c, err := p.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = p.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var pollErr error
	err = c.Read(func(fd uintptr) bool {
		pf := []unix.PollFd{{Fd: int32(fd)}}
		_, pollErr = unix.Poll(pf, 0)
		return pollErr != nil && pollErr != syscall.EINTR || pf[0].Revents&unix.POLLHUP == 0
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return errors.Join(err, pollErr)
}
