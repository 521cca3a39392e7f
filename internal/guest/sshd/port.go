package sshd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// PortName is the name of the virtio-serial port that leads to the host.
const PortName = "banger.0"

// VirtioPort is an open virtio-serial port. Reads and writes park in the Go
// poller and hold no thread. A read gives io.EOF for as long as no host is
// connected, which poll(2) can only tell level-triggered (POLLHUP), for ever;
// WaitHost therefore sleeps on an edge-triggered epoll of its own, which the
// driver (drivers/char/virtio_console.c) wakes when a host connects.
type VirtioPort struct {
	*os.File
	epoll int
	wake  int // an eventfd in epoll: ends a wait whose ctx ended
}

// OpenPort opens the virtio-serial port of that name. The driver lets a port be
// opened once only. OpenPort waits until ctx ends for a port that is not there
// yet, as while its driver loads, or that an agent before this one still holds.
func OpenPort(ctx context.Context, name string) (*VirtioPort, error) {
	f, err := keepTrying(ctx, func() (*os.File, error) { return tryPort(name) })
	if err != nil {
		return nil, fmt.Errorf("open port %s: %w", name, err)
	}
	return newPort(f)
}

// keepTrying tries until a port opens, or cannot be expected to.
func keepTrying(ctx context.Context, try func() (*os.File, error)) (*os.File, error) {
	// The device node appears before the port is registered (open gives ENXIO
	// for a moment), and no event tells of it: short naps, bounded by ctx.
	for nap := time.Millisecond; ; nap = min(2*nap, 20*time.Millisecond) {
		f, err := try()
		if err == nil || !errors.Is(err, unix.ENXIO) && !errors.Is(err, unix.EBUSY) && !errors.Is(err, os.ErrNotExist) {
			return f, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(nap):
		}
	}
}

// tryPort finds the port by its name in sysfs, for its number varies.
func tryPort(name string) (*os.File, error) {
	files, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err == nil && strings.TrimSpace(string(b)) == name {
			return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(file)), os.O_RDWR, 0)
		}
	}
	return nil, os.ErrNotExist
}

func newPort(f *os.File) (_ *VirtioPort, err error) {
	p := &VirtioPort{File: f, epoll: -1, wake: -1}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	if p.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("open port: epoll: %w", err)
	}
	if p.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("open port: eventfd: %w", err)
	}
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(p.wake)}
	if err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, p.wake, &ev); err != nil {
		return nil, fmt.Errorf("open port: epoll: %w", err)
	}
	err = control(f, func(fd int) error {
		ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(fd)}
		return unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, &ev)
	})
	if err != nil {
		return nil, fmt.Errorf("open port: epoll: %w", err)
	}
	return p, nil
}

// WaitHost waits until a host is connected.
func (p *VirtioPort) WaitHost(ctx context.Context) error {
	over := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(over)
		_, _ = unix.Write(p.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	})
	defer func() {
		if !stop() {
			<-over
			var b [8]byte
			_, _ = unix.Read(p.wake, b[:]) // take the wake-up back
		}
	}()
	var events [2]unix.EpollEvent
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		// A host that connects after this look leaves an event in epoll.
		gone, err := p.hungUp()
		if err != nil || !gone {
			return err
		}
		if _, err := unix.EpollWait(p.epoll, events[:], -1); err != nil && err != unix.EINTR {
			return fmt.Errorf("wait for the host: %w", err)
		}
	}
}

func (p *VirtioPort) hungUp() (bool, error) {
	var gone bool
	err := control(p.File, func(fd int) error {
		fds := []unix.PollFd{{Fd: int32(fd)}}
		_, err := unix.Poll(fds, 0)
		gone = fds[0].Revents&unix.POLLHUP != 0
		if err == unix.EINTR {
			return nil
		}
		return err
	})
	return gone, err
}

// Close closes the port; no WaitHost may be under way.
func (p *VirtioPort) Close() error {
	err := p.File.Close()
	for _, fd := range []int{p.epoll, p.wake} {
		if fd >= 0 {
			err = errors.Join(err, unix.Close(fd))
		}
	}
	p.epoll, p.wake = -1, -1
	return err
}

// control runs fn on the descriptor of f and leaves f in the Go poller, which
// f.Fd would take it out of.
func control(f *os.File, fn func(fd int) error) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := rc.Control(func(fd uintptr) { inner = fn(int(fd)) }); err != nil {
		return err
	}
	return inner
}
