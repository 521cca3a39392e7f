package guest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/hello"
)

// applyIdentity gives the machine its name, its id and the time.
func applyIdentity(cfg hello.Config) error {
	if err := setClock(time.Unix(0, cfg.Time)); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(cfg.Hostname)); err != nil {
		return fmt.Errorf("set the host name %q: %w", cfg.Hostname, err)
	}
	old, err := readFile("/etc/hosts")
	if err != nil {
		return err
	}
	oldID, err := readFile("/etc/machine-id")
	if err != nil {
		return err
	}
	files := []struct {
		path, text string
		mode       fs.FileMode
	}{
		// An init reads the name from here again.
		{"/etc/hostname", cfg.Hostname + "\n", 0o644},
		{"/etc/hosts", hosts(old, cfg.Hostname), 0o644},
		{"/etc/machine-id", machineID(oldID, cfg.MachineID), 0o444},
	}
	for _, f := range files {
		if err := writeFile(f.path, f.text, f.mode); err != nil {
			return err
		}
	}
	if cfg.Net == nil {
		return nil
	}
	return writeFile("/etc/resolv.conf", resolvConf(*cfg.Net), 0o644)
}

// clockSlack is how wrong the clock may be: what the kernel read from a CMOS
// clock is up to a second off, from a paravirtual one nothing at all, while the
// host's word may have been some milliseconds on its way.
const clockSlack = 100 * time.Millisecond

func setClock(host time.Time) error {
	if host.UnixNano() <= 0 || time.Since(host).Abs() < clockSlack {
		return nil
	}
	tv := unix.NsecToTimeval(host.UnixNano())
	if err := unix.Settimeofday(&tv); err != nil {
		return fmt.Errorf("set the clock: %w", err)
	}
	return nil
}

// hostsMark ends the line of /etc/hosts that is ours to change.
const hostsMark = " # this machine, by banger"

// hosts is old with the names every machine has added to it, once.
func hosts(old, name string) string {
	var b strings.Builder
	local := false
	for line := range strings.Lines(old) {
		if strings.HasSuffix(strings.TrimSpace(line), hostsMark) {
			continue
		}
		b.WriteString(strings.TrimSuffix(line, "\n") + "\n")
		text, _, _ := strings.Cut(line, "#")
		if w := strings.Fields(text); len(w) > 1 && w[0] == "127.0.0.1" {
			local = true
		}
	}
	if !local {
		b.WriteString("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
	}
	// 127.0.1.1 as Debian does: the name must resolve without any network.
	fmt.Fprintf(&b, "127.0.1.1 %s%s\n", name, hostsMark)
	return b.String()
}

// resolvConf is the whole file: what an image brings along is the resolver of
// the machine it was built on.
func resolvConf(n hello.Net) string {
	var b strings.Builder
	if len(n.Search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(n.Search, " "))
	}
	for _, d := range n.DNS {
		fmt.Fprintf(&b, "nameserver %s\n", d)
	}
	return b.String()
}

// machineID keeps an id that the machine has; "uninitialized" is systemd's word
// for none. See machine-id(5).
func machineID(old, id string) string {
	if s := strings.TrimSpace(old); s != "" && s != "uninitialized" || id == "" {
		return old
	}
	return id + "\n"
}

// readFile reads a file that may be absent, or a symlink to nowhere.
func readFile(path string) (string, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(b), err
}

// writeFile makes path a file of that content, whatever was there but a
// directory. A file that has it already is not touched, so that a further boot
// writes nothing.
func writeFile(path, text string, mode fs.FileMode) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, []byte(text)) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	tmp := path + ".banger"
	err := os.WriteFile(tmp, []byte(text), mode)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		_ = os.Remove(tmp)
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
