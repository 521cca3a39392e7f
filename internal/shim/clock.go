package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// clockTime bounds how long a guest may take to set its clock.
const clockTime = 30 * time.Second

// keepTime tells the guest what time it is whenever the host's clock jumps: it
// was set, or the host slept, during which the guest's clock stood. It returns
// when ctx ends.
func (s *Shim) keepTime(ctx context.Context) error {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watch the clock: %w", err)
	}
	timer := os.NewFile(uintptr(fd), "timerfd")
	defer timer.Close()
	defer context.AfterFunc(ctx, func() { timer.Close() })()
	raw, err := timer.SyscallConn()
	if err != nil {
		return fmt.Errorf("watch the clock: %w", err)
	}
	for ctx.Err() == nil {
		// A timer that never comes is cancelled by a jump. See timerfd_create(2).
		never := unix.ItimerSpec{Value: unix.Timespec{Sec: 1 << 40}}
		var inner error
		if err := raw.Control(func(fd uintptr) {
			inner = unix.TimerfdSettime(int(fd), unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &never, nil)
		}); err != nil || inner != nil && inner != unix.ECANCELED {
			return errors.Join(err, inner)
		}
		if _, err := timer.Read(make([]byte, 8)); errors.Is(err, unix.ECANCELED) {
			s.tellTime()
		} else if err != nil {
			return err // closed: ctx has ended
		}
	}
	return nil
}

// tellTime has the agent set the guest's clock, and waits for nothing: a guest
// that does not answer keeps the time that it has.
func (s *Shim) tellTime() {
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), clockTime)
		defer cancel()
		c, err := s.dialAgent(ctx)
		if err == nil {
			defer c.Close()
			err = c.SetClock(ctx, time.Now())
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "tell the guest the time:", err)
		}
	}()
}
