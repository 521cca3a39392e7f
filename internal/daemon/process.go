package daemon

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/vmm"
)

// process is a hold on one process that is not a child: it cannot come to mean another one.
type process struct{ f *os.File }

// holdProcess gets a hold on p. A process that is gone is a NotFound error.
func holdProcess(p banger.Process) (*process, error) {
	fd, err := unix.PidfdOpen(p.PID, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, banger.Errorf(banger.NotFound, "find process %d: %w", p.PID, err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	// The pid is looked at again behind the descriptor: had it been given to
	// another process before, the start time tells.
	if now, err := vmm.ProcessOf(p.PID); err != nil || now.StartTime != p.StartTime {
		_ = f.Close()
		return nil, banger.Errorf(banger.NotFound, "find process %d: it has ended", p.PID)
	}
	return &process{f}, nil
}

// wait waits for the end of the process, or for close.
func (p *process) wait() error {
	raw, err := p.f.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool {
		set := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(set, 0)
		return n == 1 && err == nil
	})
}

// kill ends the process at once.
func (p *process) kill() error {
	raw, err := p.f.SyscallConn()
	if err != nil {
		return err
	}
	var killed error
	err = raw.Control(func(fd uintptr) { killed = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) })
	return errors.Join(err, killed)
}

func (p *process) close() { _ = p.f.Close() }

// killProcess ends p if it is still there, and waits for that.
func killProcess(p banger.Process) error {
	hold, err := holdProcess(p)
	if banger.IsKind(err, banger.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer hold.close()
	if err := hold.kill(); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", p.PID, err)
	}
	return hold.wait()
}
