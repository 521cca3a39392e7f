package guest

import (
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// watchEnd bounds the end of a machine whose pid 1 is systemd. What is still
// there when all units have stopped, as the commands of sessions are, is asked to
// end by the last program that systemd becomes, which would then wait for it
// for as long as for a unit, 90 s. That asks the agent too, so the agent sees to
// it that none takes longer than with an init of banger's.
func watchEnd() {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM)
	go func() {
		<-asked
		if last, err := os.Readlink("/proc/1/exe"); err == nil && filepath.Base(last) == "systemd-shutdown" {
			endOthers(otherProcesses("/proc"), stopWait, func() {
				_ = syscall.Kill(-1, syscall.SIGKILL) // all but pid 1 and this one
			})
		}
		os.Exit(0)
	}()
}

// endOthers waits until the processes have ended, and kills what has not in time.
// It is itself waited for, so it must not stay longer than they do.
func endOthers(pids []int, limit time.Duration, kill func()) {
	end := time.Now().Add(limit)
	for _, pid := range pids {
		if !awaitProcess(pid, end) {
			kill()
			return
		}
	}
}

// awaitProcess reports whether the process has ended in time.
func awaitProcess(pid int, end time.Time) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return true
	}
	defer unix.Close(fd)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(max(0, time.Until(end).Milliseconds())))
		if err != unix.EINTR {
			return n > 0
		}
	}
}

// otherProcesses are all but this one, pid 1 and those of the kernel, which have
// no program.
func otherProcesses(proc string) (pids []int) {
	for _, name := range dirNames(proc) {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == 1 || pid == os.Getpid() {
			continue
		}
		if _, err := os.Readlink(filepath.Join(proc, name, "exe")); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
