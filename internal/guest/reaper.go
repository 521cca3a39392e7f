package guest

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The signals that end a machine when pid 1 gets them. The first two are
// systemd's (SIGRTMIN+4 and +5, and SIGRTMIN is 34 for every C library), so
// that one word works whoever is pid 1. The others are what the halt, poweroff
// and reboot of busybox send, and the kernel at Ctrl-Alt-Del and power failure.
const (
	sigPowerOff = syscall.Signal(34 + 4)
	sigReboot   = syscall.Signal(34 + 5)
)

var endings = map[os.Signal]int{
	sigPowerOff:     unix.LINUX_REBOOT_CMD_POWER_OFF,
	syscall.SIGUSR1: unix.LINUX_REBOOT_CMD_POWER_OFF, // busybox halt
	syscall.SIGUSR2: unix.LINUX_REBOOT_CMD_POWER_OFF, // busybox poweroff
	syscall.SIGPWR:  unix.LINUX_REBOOT_CMD_POWER_OFF,
	sigReboot:       unix.LINUX_REBOOT_CMD_RESTART,
	syscall.SIGTERM: unix.LINUX_REBOOT_CMD_RESTART, // busybox reboot
	syscall.SIGINT:  unix.LINUX_REBOOT_CMD_RESTART, // Ctrl-Alt-Del
}

// stopWait is how long processes may take to end after they were asked to.
const stopWait = 5 * time.Second

// restartWait is the least time between two starts of the agent: one that dies
// at once must not eat the machine.
const restartWait = time.Second

// runInit is banger's own init: it keeps the agent running, reaps what others
// left behind and ends the machine when told. It never returns. Nothing in it
// may use os/exec, whose children wait4(-1) would take away. own is the
// machine's own file system.
func runInit(own *os.File) {
	// Ctrl-Alt-Del, which a VMM can send, becomes a SIGINT for pid 1.
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF)
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	end := make(chan os.Signal, 1)
	for s := range endings {
		signal.Notify(end, s)
	}
	var a agentKeeper
	a.start()
	for {
		select {
		case <-children:
			reap(a.ended)
		case <-a.again:
			a.start()
		case s := <-end:
			shutdown(children)
			finish(own, endings[s])
		}
	}
}

// agentKeeper starts the agent, and starts it again when it dies. The agent is
// the program that pid 1 is: it lies in memory already.
type agentKeeper struct {
	pid   int
	since time.Time
	again <-chan time.Time
}

func (a *agentKeeper) start() {
	a.again, a.since = nil, time.Now()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err == nil {
		defer null.Close()
		a.pid, err = syscall.ForkExec(itself, []string{"banger-guest", roleAgent, initBanger}, &syscall.ProcAttr{
			Dir:   "/",
			Env:   os.Environ(),
			Files: []uintptr{null.Fd(), 1, 2}, // the console, which the host keeps
			Sys:   &syscall.SysProcAttr{Setsid: true},
		})
	}
	if err != nil {
		say("start the agent: %v", err)
		a.again = time.After(restartWait)
	}
}

// ended is told every child that was reaped.
func (a *agentKeeper) ended(pid int, status syscall.WaitStatus) {
	if pid != a.pid {
		return
	}
	say("the agent ended (exit code %d, signal %d) and is started again", status.ExitStatus(), status.Signal())
	a.pid, a.again = 0, time.After(time.Until(a.since.Add(restartWait)))
}

// reap takes every child that has ended and reports whether there are others.
func reap(ended func(int, syscall.WaitStatus)) (more bool) {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return false
		case pid == 0:
			return true
		default:
			ended(pid, status)
		}
	}
}

// shutdown ends all other processes: by asking, and after stopWait by force.
// Every orphan is a child of pid 1, so no child means no process.
func shutdown(children <-chan os.Signal) {
	// Shells leave at SIGHUP alone, and what is stopped must run to end.
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGCONT} {
		_ = syscall.Kill(-1, s)
	}
	if !awaitChildless(children) {
		_ = syscall.Kill(-1, syscall.SIGKILL)
		awaitChildless(children)
	}
}

func awaitChildless(children <-chan os.Signal) bool {
	late := time.After(stopWait)
	for reap(func(int, syscall.WaitStatus) {}) {
		select {
		case <-children:
		case <-late:
			return false
		}
	}
	return true
}

// finish writes everything to the disks and ends the machine. The machine's own
// file system needs no recovery at the next boot once it is read-only.
func finish(own *os.File, how int) {
	unix.Sync()
	for _, dir := range []string{"/", fmt.Sprintf("/proc/self/fd/%d", own.Fd())} {
		if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			say("make %s read-only: %v", dir, err)
		}
	}
	endMachine(how)
}

// endMachine never returns: pid 1 must not.
func endMachine(how int) {
	if err := unix.Reboot(how); err != nil {
		say("end the machine: %v", err)
	}
	select {}
}

// say prints to the console.
func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "banger-guest: "+format+"\n", args...)
}
