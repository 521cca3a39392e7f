package sshd

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// The user data bases of the guest are the image's: read, not trusted to be sane.
const (
	maxDatabase = 4 << 20  // bytes read of a file
	maxEntry    = 64 << 10 // bytes of a line
	maxGroups   = 1024     // supplementary groups of a user
)

// user is somebody that a program can run as.
type user struct {
	name   string // empty for a number that /etc/passwd does not have
	uid    uint32
	gid    uint32
	groups []uint32 // supplementary
	home   string
	shell  string
}

// lookupUser finds user[:group] in the guest's passwd and group.
func (s *Server) lookupUser(spec string) (user, error) {
	etc := cmp.Or(s.Etc, "/etc")
	return databases{filepath.Join(etc, "passwd"), filepath.Join(etc, "group")}.lookup(spec)
}

type databases struct{ passwd, group string }

// lookup finds user[:group]. Each part is a name or a number; a number needs no
// entry. Empty is root. With a group there are no supplementary groups, as in
// docker run --user.
func (d databases) lookup(spec string) (user, error) {
	who, group, hasGroup := strings.Cut(spec, ":")
	if who == "" {
		who = "root"
	}
	u, err := d.user(who)
	if err != nil {
		return user{}, err
	}
	if hasGroup && group != "" {
		u.gid, err = d.groupID(group)
		return u, err
	}
	if u.name != "" {
		u.groups = d.memberships(u.name, u.gid)
	}
	return u, nil
}

// user finds a user by name, else by number.
func (d databases) user(who string) (user, error) {
	number, numErr := parseID(who)
	var found, byName bool
	u := user{uid: number, home: "/"}
	err := entries(d.passwd, 7, func(f []string) {
		uid, err1 := parseID(f[2])
		gid, err2 := parseID(f[3])
		if byName || err1 != nil || err2 != nil {
			return
		}
		byName = f[0] == who
		if byName || !found && numErr == nil && uid == number {
			found = true
			u = user{name: f[0], uid: uid, gid: gid, home: f[5], shell: f[6]}
		}
	})
	switch {
	case found:
		if u.home == "" {
			u.home = "/"
		}
		return u, nil
	case who == "root": // an image without /etc/passwd has it too
		return user{name: "root", home: "/root"}, nil
	case numErr == nil:
		return u, nil
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return user{}, fmt.Errorf("look user %q up: %w", who, err)
	}
	return user{}, fmt.Errorf("look user %q up: not in %s", who, d.passwd)
}

func (d databases) groupID(who string) (uint32, error) {
	id, numErr := parseID(who)
	found := false
	err := entries(d.group, 4, func(f []string) {
		if gid, err := parseID(f[2]); err == nil && f[0] == who && !found {
			id, found = gid, true
		}
	})
	switch {
	case found || numErr == nil:
		return id, nil
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return 0, fmt.Errorf("look group %q up: %w", who, err)
	}
	return 0, fmt.Errorf("look group %q up: not in %s", who, d.group)
}

// memberships are the groups that list the user, without those of gid.
func (d databases) memberships(name string, gid uint32) []uint32 {
	var ids []uint32
	_ = entries(d.group, 4, func(f []string) { // no file, no groups
		id, err := parseID(f[2])
		if err != nil || id == gid || len(ids) >= maxGroups || slices.Contains(ids, id) {
			return
		}
		if slices.Contains(strings.Split(f[3], ","), name) {
			ids = append(ids, id)
		}
	})
	return ids
}

// parseID reads a user or group number. 2^32-1 means "leave it" to the kernel.
func parseID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err == nil && n == 1<<32-1 {
		err = strconv.ErrRange
	}
	return uint32(n), err
}

// entries calls fn with the fields of each line that has n of them.
func entries(path string, n int, fn func(fields []string)) error {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO must not hold us
	if err != nil {
		return err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return fmt.Errorf("%s is no regular file", path)
	}
	sc := bufio.NewScanner(io.LimitReader(f, maxDatabase))
	sc.Buffer(nil, maxEntry)
	for sc.Scan() {
		if fields := strings.Split(sc.Text(), ":"); len(fields) == n {
			fn(fields)
		}
	}
	return sc.Err()
}
