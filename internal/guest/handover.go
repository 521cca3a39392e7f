package guest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// The inits a machine can be asked to have; the same words as in banger.VMSpec.
const (
	initAuto      = "auto"
	initBanger    = "banger"
	initSystemd   = "systemd"
	initProvision = "provision"
)

// initOpenRC is what the agent is told where busybox's init runs OpenRC.
const initOpenRC = "openrc"

// systemdPaths are the places of systemd; the last one only if it leads to systemd.
var systemdPaths = []string{"/lib/systemd/systemd", "/usr/lib/systemd/systemd", "/sbin/init"}

// chooseInit gives the path of the systemd to hand over to, inside root, or ""
// for banger's own init.
func chooseInit(root, want string) (string, error) {
	switch want {
	case initBanger:
		return "", nil
	case "", initAuto, initSystemd, initProvision:
	default:
		return "", fmt.Errorf("choose the init: %q is none of %s, %s, %s and %s", want, initAuto, initBanger, initSystemd, initProvision)
	}
	for _, p := range systemdPaths {
		real, ok := resolve(root, p)
		if !ok || filepath.Base(real) != "systemd" {
			continue
		}
		if fi, err := os.Stat(filepath.Join(root, real)); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return real, nil
		}
	}
	if want == initSystemd {
		return "", fmt.Errorf("choose the init: the image has no systemd (looked for %s)", strings.Join(systemdPaths, ", "))
	}
	return "", nil
}

// resolve follows the symlinks of path as a process inside root would, and
// gives the path inside root. It reports false if something is missing.
func resolve(root, path string) (string, bool) {
	done, todo := "/", strings.Split(path, "/")
	for links := 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		next := filepath.Join(done, name) // clean, and never above /
		fi, err := os.Lstat(filepath.Join(root, next))
		if err != nil {
			return "", false
		}
		if fi.Mode()&os.ModeSymlink == 0 {
			done = next
			continue
		}
		if links++; links > 40 { // as the kernel
			return "", false
		}
		to, err := os.Readlink(filepath.Join(root, next))
		if err != nil {
			return "", false
		}
		if filepath.IsAbs(to) {
			done = "/"
		}
		todo = append(strings.Split(to, "/"), todo...)
	}
	return done, true
}

// initPath is the PATH of an init, and of what runs before it.
const initPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// execInit becomes another program as pid 1. It returns only if that fails.
func execInit(path string, args ...string) error {
	argv := append([]string{path}, args...)
	err := syscall.Exec(path, argv, []string{"TERM=linux", "PATH=" + initPath})
	return fmt.Errorf("start %s as pid 1: %w", path, err)
}
