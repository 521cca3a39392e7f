package daemon

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/vmm"
)

// process is a hold on one process that is not a child: it cannot come to mean another one.
type process struct{ f *os.File }

// holdProcess gets a hold on p. Only a process that is surely gone is a
// NotFound error: a VM is removed, and a machine given up, on its word.
func holdProcess(p banger.Process) (*process, error) {
	ended := banger.Errorf(banger.NotFound, "find process %d: it has ended", p.PID)
	if p.PID <= 0 {
		return nil, ended
	}
	fd, err := unix.PidfdOpen(p.PID, unix.PIDFD_NONBLOCK)
	if gone(err) || errors.Is(err, unix.EINVAL) { // EINVAL: a thread has that number now
		return nil, ended
	}
	if err != nil {
		return nil, fmt.Errorf("find process %d: %w", p.PID, err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	// The pid is looked at again behind the descriptor: had it been given to
	// another process before, the start time tells.
	now, err := processOf(p.PID)
	if err == nil && now == p {
		return &process{f}, nil
	}
	_ = f.Close()
	if err == nil || gone(err) {
		return nil, ended
	}
	return nil, err
}

// processOf names the process that has the pid now. Where none has, the error
// is gone; its kind is dropped, for it is NotFound whatever went wrong.
func processOf(pid int) (banger.Process, error) {
	p, err := vmm.ProcessOf(pid)
	if err != nil && !gone(err) {
		err = errors.New(err.Error())
	}
	return p, err
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

// killTime bounds the wait for a process that was killed: one that the kernel
// holds, as in the I/O of a dead disk, ends late or never.
const killTime = 10 * time.Second

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
	_ = hold.f.SetReadDeadline(time.Now().Add(killTime))
	if err := hold.wait(); err != nil {
		return fmt.Errorf("wait for the end of process %d: %w", p.PID, err)
	}
	return nil
}
