package guest

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// deviceWait bounds the wait for a device that the kernel should find by
// itself: emulated machines on a busy host need a second or two.
const deviceWait = 10 * time.Second

// errAbsent says that a device did not come in time.
var errAbsent = errors.New("not there")

// await waits until ready is true or the time is over. It asks ready again at
// every event of the kernel's device model, which it listens to before it asks
// for the first time, so that none is missed.
func await(limit time.Duration, ready func() (bool, error)) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return fmt.Errorf("listen to device events: %w", err)
	}
	defer unix.Close(fd)
	const kernelGroup = 1 // group 2 is udev's
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup}); err != nil {
		return fmt.Errorf("listen to device events: %w", err)
	}
	for end := time.Now().Add(limit); ; {
		if ok, err := ready(); ok || err != nil {
			return err
		}
		left := time.Until(end)
		if left <= 0 {
			return fmt.Errorf("%w after %v", errAbsent, limit)
		}
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(p, int(left/time.Millisecond)+1); err != nil && err != unix.EINTR {
			return fmt.Errorf("wait for device events: %w", err)
		}
		drain(fd)
	}
}

// drain throws the waiting events away: what they say is asked anew. A queue
// that ran over (ENOBUFS) is an event as well.
func drain(fd int) {
	var b [8 << 10]byte
	for {
		if _, _, err := unix.Recvfrom(fd, b[:], 0); err != nil && err != unix.ENOBUFS && err != unix.EINTR {
			return
		}
	}
}
