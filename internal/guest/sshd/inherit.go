package sshd

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// oomFile says how likely the kernel picks a process when memory is short.
const oomFile = "/proc/self/oom_score_adj"

// Values of oomFile: the agent is never picked, its children as any process.
const (
	oomNever  = "-1000"
	oomNormal = "0"
)

// protect keeps the kernel from killing the agent when memory is short: it is
// the only way into the machine. Best effort; the result undoes it.
func protect() (undo func()) {
	old, err := os.ReadFile(oomFile)
	if err != nil || os.WriteFile(oomFile, []byte(oomNever), 0) != nil {
		return func() {}
	}
	return func() { _ = os.WriteFile(oomFile, old, 0) }
}

// startCalm starts a program that does not inherit the agent's protection. A
// child takes over the value its parent has as it forks, and may itself have
// forked before it could be set from outside; so the parent lets go of it for
// the moment of the fork.
func (s *Server) startCalm(p program, attr *os.ProcAttr) (*os.Process, error) {
	s.forkLock.Lock()
	defer s.forkLock.Unlock()
	if old, err := os.ReadFile(oomFile); err == nil && len(old) > 0 && old[0] == '-' {
		if os.WriteFile(oomFile, []byte(oomNormal), 0) == nil {
			defer func() { _ = os.WriteFile(oomFile, old, 0) }()
		}
	}
	defer calmThread()()
	if s.mounted.Load() && len(s.Launch) > 0 {
		// Until a child has become its program, no goroutine runs on its parent's
		// CPU. Where the program or its directory is on a folder of the host, that
		// takes answers which it is for this process to pass on.
		at := *attr
		at.Dir = "/"
		return os.StartProcess(s.Launch[0], slices.Concat(s.Launch, []string{p.dir, p.path}, p.argv), &at)
	}
	return os.StartProcess(p.path, p.argv, attr)
}

// Launch becomes the program that args say: its directory, its path and its own
// arguments, the first one included. It returns if that fails, with the exit
// status, and why on w. It is what the Launch command line of Server has to run.
func Launch(args []string, w io.Writer) int {
	if len(args) < 3 {
		return 126
	}
	dir, path, argv := args[0], args[1], args[2:]
	err := error(notRunnable("use working directory %q: no such directory", dir))
	if os.Chdir(dir) == nil {
		err = execError(path, syscall.Exec(path, argv, os.Environ()))
	}
	fmt.Fprintf(w, "banger: %s\n", err)
	return startStatus(err)
}

// calmThread gives this thread the normal priority until the result is called;
// the agent has a higher one, so that it answers also while a machine boots or
// works hard. Linux keeps it by thread, and a child gets that of the thread that forks.
func calmThread() (undo func()) {
	runtime.LockOSThread()
	// The system call gives 20 minus the nice value, as it cannot give negative ones.
	raw, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	nice := 20 - raw
	if err != nil || nice >= 0 || unix.Setpriority(unix.PRIO_PROCESS, 0, 0) != nil {
		return runtime.UnlockOSThread
	}
	return func() {
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, nice)
		runtime.UnlockOSThread()
	}
}

// catchIgnored catches the signals that the agent was started to ignore, as
// one in the background of a shell is for SIGINT. A program inherits what is
// ignored, but not what is caught, and could not be interrupted. There is no
// way back: once caught, the os/signal package forgets that it was ignored.
func catchIgnored() {
	caught := make(chan os.Signal, 1) // never read: the signals stay without effect
	for sig := syscall.Signal(1); sig < 32; sig++ {
		if signal.Ignored(sig) {
			signal.Notify(caught, sig)
		}
	}
}
