package guest

import (
	"fmt"
	"net"
	"os"
	"syscall"
)

// PowerOff asks pid 1, whatever it is, to end the machine in good order.
func PowerOff() error { return syscall.Kill(1, sigPowerOff) }

// Reboot asks pid 1, whatever it is, to start the machine anew in good order.
func Reboot() error { return syscall.Kill(1, sigReboot) }

// runAgent is the SSH agent. It never ends but by an error.
func runAgent() error {
	// The last to go when memory runs out: without it the machine is lost to its owner.
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0); err != nil {
		return fmt.Errorf("keep from the OOM killer: %w", err)
	}
	port, err := OpenPort()
	if err != nil {
		return err
	}
	if err := notifyReady(os.Getenv("NOTIFY_SOCKET")); err != nil {
		return err
	}
	return serve(port)
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
