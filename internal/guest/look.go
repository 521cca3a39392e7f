package guest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"banger/internal/hello"
)

// look says what is in the place of something that is waited for; nothing means
// that it is there.
func look(ctx context.Context, want string) (seen string, err error) {
	if port, ok := strings.CutPrefix(want, hello.AwaitTCP); ok {
		return lookTCP(ctx, port), nil
	}
	if unit, ok := strings.CutPrefix(want, hello.AwaitUnit); ok {
		return lookUnit(ctx, unit)
	}
	return "", fmt.Errorf("%q is neither %sPORT nor %sNAME", want, hello.AwaitTCP, hello.AwaitUnit)
}

// connectWait bounds one look at a port: whoever has a full backlog does not answer.
const connectWait = 2 * time.Second

// lookTCP connects to the port, at both loopback addresses.
func lookTCP(ctx context.Context, port string) string {
	d := net.Dialer{Timeout: connectWait}
	var first error
	for _, host := range []string{"127.0.0.1", "::1"} {
		c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, port))
		if err == nil {
			c.Close()
			return ""
		}
		if first == nil {
			first = err
		}
	}
	var errno syscall.Errno
	if errors.As(first, &errno) {
		return errno.Error()
	}
	return first.Error()
}

// lookUnit asks systemd.
func lookUnit(ctx context.Context, unit string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	out, err := exec.CommandContext(ctx, "systemctl", "show", "--property=LoadState,ActiveState", "--", unit).Output()
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		return "", errors.New("this machine has no systemd")
	}
	return unitSeen(string(out), err), nil
}

// unitSeen reads what systemctl show says.
func unitSeen(out string, err error) string {
	load, active := "", ""
	for line := range strings.Lines(out) {
		switch name, value, _ := strings.Cut(strings.TrimSpace(line), "="); name {
		case "LoadState":
			load = value
		case "ActiveState":
			active = value
		}
	}
	switch {
	case active == "active":
		return ""
	case load == "not-found":
		return "there is no such unit"
	case active != "":
		return "it is " + active
	case err != nil:
		return "systemd does not answer" // as in its first moments
	}
	return "systemd says nothing of it"
}
