package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"banger/internal/guest/sshd"
)

// openPort opens the port to the host when the kernel has found it. A port has
// one opener at a time. Its name comes, with an event, later than its node
// does: by then the port is whole and opens at the first try.
func openPort() (*sshd.VirtioPort, error) {
	err := await(deviceWait, func() (bool, error) {
		dev, err := findPort(portClass)
		return dev != "", err
	})
	if errors.Is(err, errAbsent) {
		err = fmt.Errorf("%w (does the kernel have virtio_console?)", err)
	}
	if err != nil {
		return nil, fmt.Errorf("wait for port %s: %w", sshd.PortName, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), deviceWait)
	defer cancel()
	return sshd.OpenPort(ctx, sshd.PortName)
}

// portFound reports whether the port is there already.
func portFound() bool {
	dev, err := findPort(portClass)
	return dev != "" && err == nil
}

// portClass is where the kernel shows its ports.
const portClass = "/sys/class/virtio-ports"

// findPort gives the device, vportNpM, of the port of our name.
func findPort(class string) (string, error) {
	names, err := filepath.Glob(class + "/*/name")
	if err != nil {
		return "", err
	}
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err == nil && strings.TrimSpace(string(b)) == sshd.PortName {
			return filepath.Base(filepath.Dir(n)), nil
		}
	}
	return "", nil
}
