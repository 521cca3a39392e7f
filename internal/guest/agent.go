package guest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"banger/internal/guest/sshd"
	"banger/internal/hello"
)

// runAgent is the SSH agent beside the init of that name, of a machine that is
// not ready before so many folders of the host are mounted. It returns only with
// an error.
func runAgent(init string, mounts int) error {
	port, err := openPort()
	if err != nil {
		return err
	}
	srv := &sshd.Server{
		Init:     init,
		Shutdown: func(how string) error { return endMachineBy(init, how) },
		SetClock: setClock,
		Look:     look,
		Grow:     growOwn,
		SFTP:     []string{itself, roleSFTP},
		Copy:     []string{itself, hello.RoleCopy},
		Launch:   []string{itself, roleLaunch},
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		srv.Version = info.Main.Version
	}
	if init == initSystemd {
		srv.Ready = systemdReady
		watchEnd()
		unmaskGenerators()
	}
	socket := os.Getenv("NOTIFY_SOCKET")
	// The socket is the agent's alone: what a session starts has nothing to say to systemd.
	os.Unsetenv("NOTIFY_SOCKET")
	folders := &hostMounts{wanted: int32(mounts), ready: func() error { return notifyReady(socket) }}
	srv.Mount = folders.mount
	if mounts == 0 {
		if err := notifyReady(socket); err != nil {
			return err
		}
	}
	slow := time.AfterFunc(slowBoot, func() { say("no host has answered the agent yet") })
	srv.Greeted = func() { slow.Stop() }
	return srv.Serve(context.Background(), port) // as long as the machine lives
}

// endMachineBy asks pid 1, whatever it is, to end the machine in good order.
func endMachineBy(init, how string) error {
	return syscall.Kill(1, endSignal(init, how))
}

// endSignal is the word of each init. That of busybox, which runs OpenRC, is in
// its init/init.c.
func endSignal(init, how string) syscall.Signal {
	switch {
	case init == initOpenRC && how == hello.Reboot:
		return syscall.SIGTERM
	case init == initOpenRC:
		return syscall.SIGUSR2
	case how == hello.Reboot:
		return sigReboot
	}
	return sigPowerOff
}

// readyWait bounds how long systemd may take to say how it is.
const readyWait = 5 * time.Second

// systemdReady reports whether systemd has done all that a start means. A
// failed unit does not hold it up: systemd calls that degraded.
func systemdReady() bool {
	ctx, cancel := context.WithTimeout(context.Background(), readyWait)
	defer cancel()
	state, _ := exec.CommandContext(ctx, "systemctl", "is-system-running").Output() // its exit status says the same
	switch strings.TrimSpace(string(state)) {
	case "running", "degraded", "maintenance":
		return true
	}
	return false
}

// notifyReady tells systemd that the service is up: no host is answered before,
// so that whoever asks through the agent finds it active. See sd_notify(3).
func notifyReady(socket string) error {
	if socket == "" {
		return nil
	}
	// The net package knows "@" as the abstract namespace, as systemd writes it.
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("READY=1")); err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	return nil
}
