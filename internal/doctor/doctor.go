// Package doctor is the check of a host: what banger finds there, and the fix for what it misses.
package doctor

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/hostcmd"
	"banger/internal/hostmem"
)

// Status is the outcome of a check.
type Status string

// The outcomes of a check.
const (
	OK   Status = "ok"
	Warn Status = "warn" // banger works, but something is slower or missing
	Fail Status = "fail" // banger cannot work
)

// Check is one finding. IDs never change; details are for people.
type Check struct {
	ID     string `json:"id"`
	Status Status `json:"status"`
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"` // the command that helps
}

// Host is what the checks look at. The zero value of a path field is the real one.
type Host struct {
	Info   banger.SystemInfo
	UID    int
	SubUID string // /etc/subuid
}

// Free space under which pulls become a gamble, in bytes: an image and its
// layers take about one GiB.
const (
	spaceFail = 1 << 30
	spaceWarn = 5 << 30

	memoryWarn = 1 << 30
)

// Run makes all checks.
func Run(h Host) []Check {
	var all []Check
	for _, d := range h.Info.Drivers {
		all = append(all, driver(d)...)
	}
	all = append(all,
		configuration(h.Info),
		program("mmdebstrap", "mmdebstrap", "images are made from Debian's packages where no registry can be reached"),
		program("apt", "apt-get", "kernels of the catalog come from Debian's packages"),
		program("dpkg", "dpkg-deb", "kernels of the catalog come from Debian's packages"),
		subordinateIDs(h),
		space("state", h.Info.Root),
		space("cache", h.Info.Cache),
		memory(),
	)
	return all
}

func driver(d banger.Driver) []Check {
	if d.Problem != "" {
		return []Check{{ID: d.Name, Status: Fail, Detail: d.Problem, Fix: fix("qemu-system-x86_64")}}
	}
	checks := []Check{{ID: d.Name, Status: OK, Detail: fmt.Sprintf("%s, version %s", d.Path, d.Version)}}
	accel := Check{ID: "acceleration", Status: OK, Detail: "hardware virtualisation (kvm): " + d.AccelReason}
	if d.Accel != "kvm" {
		accel.Status = Warn
		accel.Detail = "software emulation (tcg), which is several times slower: " + d.AccelReason
	}
	return append(checks, accel)
}

// configuration looks at the configuration file, which need not be there.
func configuration(info banger.SystemInfo) Check {
	if e := info.ConfigError; e != nil {
		return Check{ID: "config", Status: Fail, Detail: e.Msg, Fix: e.Hint}
	}
	c := Check{ID: "config", Status: OK, Detail: info.Config}
	if _, err := os.Stat(info.Config); err != nil {
		c.Detail += " is not there: everything is as it comes"
	}
	return c
}

// fix is the line that installs a program.
func fix(name string) string {
	_, err := hostcmd.Look(name)
	if err == nil {
		return ""
	}
	return banger.AsError(err).Hint
}

func program(id, name, why string) Check {
	path, err := hostcmd.Look(name)
	if err != nil {
		return Check{ID: id, Status: Warn, Detail: name + " is not there: " + why, Fix: banger.AsError(err).Hint}
	}
	return Check{ID: id, Status: OK, Detail: path}
}

// subordinateIDs looks whether an ordinary user can make a root file system with all its owners.
func subordinateIDs(h Host) Check {
	c := Check{ID: "subuid", Status: OK}
	if h.UID == 0 {
		c.Detail = "not needed by root"
		return c
	}
	if _, err := hostcmd.Look("newuidmap"); err != nil {
		c.Status, c.Detail, c.Fix = Warn, "newuidmap is not there: mmdebstrap needs it to work without root", banger.AsError(err).Hint
		return c
	}
	path := h.SubUID
	if path == "" {
		path = "/etc/subuid"
	}
	name := fmt.Sprint(h.UID)
	if u, err := user.LookupId(name); err == nil {
		name = u.Username
	}
	b, _ := os.ReadFile(path)
	for line := range strings.Lines(string(b)) {
		if owner, _, ok := strings.Cut(line, ":"); ok && (owner == name || owner == fmt.Sprint(h.UID)) {
			c.Detail = path + " has a range for " + name
			return c
		}
	}
	c.Status, c.Detail = Warn, path+" has no range for "+name+": mmdebstrap needs one to work without root"
	c.Fix = "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 " + name
	return c
}

// space looks at the file system that will hold path.
func space(id, path string) Check {
	c := Check{ID: id, Status: OK}
	at := path
	var st unix.Statfs_t
	for unix.Statfs(at, &st) != nil {
		if at == "/" || at == "." {
			return Check{ID: id, Status: Fail, Detail: "cannot look at " + path}
		}
		at = filepath.Dir(at)
	}
	free := int64(st.Bavail) * st.Bsize
	c.Detail = fmt.Sprintf("%s: %d MiB free", path, free>>20)
	switch {
	case unix.Access(at, unix.W_OK) != nil:
		c.Status, c.Detail, c.Fix = Fail, path+" cannot be written", "export BANGER_ROOT=/some/folder"
	case free < spaceFail:
		c.Status, c.Fix = Fail, "export BANGER_ROOT=/some/folder/on/another/disk"
	case free < spaceWarn:
		c.Status = Warn
	}
	return c
}

func memory() Check {
	m, err := hostmem.Read("/")
	if err != nil {
		return Check{ID: "memory", Status: Warn, Detail: err.Error()}
	}
	c := Check{ID: "memory", Status: OK, Detail: fmt.Sprintf("%d of %d MiB available, as %s has it", m.Available>>20, m.Total>>20, m.Bound)}
	if m.Available < memoryWarn {
		c.Status = Warn
	}
	return c
}
