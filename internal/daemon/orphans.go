package daemon

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"banger"
)

// vmID is the grammar of the IDs that newID makes. Nothing else is ever looked
// for in the run directory, which is also the place of the daemon's socket.
var vmID = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[0-9a-f]{12}$`) })

// endMachine kills whatever is left of a VM's machine and removes its run
// directory: the processes of the record, and those that listen on a socket in
// that directory. The latter finds a shim that was stopped and the VMM of a
// shim that was killed before it could tell of it; nothing else listens there.
func (d *Daemon) endMachine(rec banger.VM) error {
	var errs []error
	if rec.Machine != nil {
		// The shim first: it would see to the VMM's end, and remove what the
		// next machine may already need.
		errs = append(errs, killProcess(rec.Machine.Shim), killProcess(rec.Machine.VMM))
	}
	if !vmID().MatchString(rec.ID) {
		return errors.Join(errs...)
	}
	dir := d.Layout.VMRun(rec.ID)
	for range 3 { // one that was killed may have started another one
		found, err := listeners(dir)
		if err != nil || len(found) == 0 {
			errs = append(errs, err)
			break
		}
		for _, p := range found {
			errs = append(errs, killProcess(p))
		}
	}
	return errors.Join(append(errs, os.RemoveAll(dir))...)
}

// machineProcesses are those of a VM's machine, the shim first.
func (d *Daemon) machineProcesses(rec banger.VM) ([]banger.Process, error) {
	var known []banger.Process
	if rec.Machine != nil {
		known = append(known, rec.Machine.Shim, rec.Machine.VMM)
	}
	found, err := listeners(d.Layout.VMRun(rec.ID))
	return append(known, found...), err
}

// listeners are the processes that hold a socket which listens in dir, but for
// the daemon itself, which does so for the moment in which it starts a shim.
func listeners(dir string) ([]banger.Process, error) {
	sockets, err := listening(dir)
	if err != nil || len(sockets) == 0 {
		return nil, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("find processes: %w", err)
	}
	var found []banger.Process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		// The start time is read before: had the pid come to mean another
		// process meanwhile, that one would not be killed.
		p, err := processOf(pid)
		if err == nil && holds(pid, sockets) {
			found = append(found, p)
		}
	}
	return found, nil
}

// holds reports whether a process has one of the sockets open. Those of other
// users cannot be looked at, and are none of ours.
func holds(pid int, sockets map[string]bool) bool {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	files, _ := os.ReadDir(dir)
	for _, f := range files {
		if to, err := os.Readlink(filepath.Join(dir, f.Name())); err == nil && sockets[to] {
			return true
		}
	}
	return false
}

// listening are the sockets that listen in dir, as /proc/PID/fd names them.
// Format: proc(5), /proc/net/unix: address, references, protocol, flags, type,
// state, inode, path. A listening socket has the flag __SO_ACCEPTCON.
func listening(dir string) (map[string]bool, error) {
	b, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return nil, fmt.Errorf("find sockets: %w", err)
	}
	const flags, inode, path = 3, 6, 7
	const accepts = 1 << 16
	sockets := map[string]bool{}
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) <= path {
			continue
		}
		bits, err := strconv.ParseUint(f[flags], 16, 32)
		if err == nil && bits&accepts != 0 && filepath.Dir(strings.Join(f[path:], " ")) == dir {
			sockets["socket:["+f[inode]+"]"] = true
		}
	}
	return sockets, nil
}

// gone reports whether an error about a process says that it has ended. ENOENT
// and ESRCH are what proc(5) and pidfd_open(2) give then; a process that ends
// while it is read gives ESRCH too.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH)
}
