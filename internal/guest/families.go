package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// distroFamily is a kind of distributions whose packages are installed in one way.
type distroFamily struct {
	name string
	ids  []string // of os-release
	// ways are the steps that install an init and an SSH server and have both
	// start at boot, by package manager, the first one that is there.
	ways   [][][]string
	openRC bool // it keeps OpenRC, under the init of busybox; else its init is systemd
}

var enableSSHD = []string{"systemctl", "enable", "sshd.service"}

// families, the most specific ids only: whatever descends from one says so in ID_LIKE.
var families = []distroFamily{
	{name: "debian", ids: []string{"debian", "ubuntu"}, ways: [][][]string{{
		// Without the mode a mirror that cannot be reached is but a warning.
		{"apt-get", "-q", "-o", "Acquire::Retries=3", "-o", "APT::Update::Error-Mode=any", "-o", "Acquire::Languages=none", "update"},
		{"apt-get", "-q", "-y", "--no-install-recommends", "-o", "Acquire::Retries=3", "-o", "Dpkg::Options::=--force-confold",
			"install", "systemd-sysv", "dbus", "openssh-server"},
	}}},
	{name: "alpine", ids: []string{"alpine"}, openRC: true, ways: [][][]string{{
		{"apk", "add", "--no-cache", "openrc", "openssh"},
		{"rc-update", "add", "sshd", "default"},
	}}},
	{name: "fedora", ids: []string{"fedora", "rhel", "centos"}, ways: [][][]string{
		{{"dnf", "-y", "--setopt=install_weak_deps=False", "install", "systemd", "openssh-server"}, enableSSHD},
		{{"microdnf", "-y", "--setopt=install_weak_deps=0", "install", "systemd", "openssh-server"}, enableSSHD},
		{{"yum", "-y", "install", "systemd", "openssh-server"}, enableSSHD},
	}},
	{name: "arch", ids: []string{"arch"}, ways: [][][]string{{
		// Images come without a keyring of their own. Arch knows no half upgrades.
		{"pacman-key", "--init"},
		{"pacman-key", "--populate"},
		{"pacman", "-Syu", "--noconfirm", "--needed", "systemd", "systemd-sysvcompat", "openssh"},
		enableSSHD,
	}}},
	{name: "opensuse", ids: []string{"opensuse", "suse", "sles"}, ways: [][][]string{{
		{"zypper", "--non-interactive", "refresh"},
		{"zypper", "--non-interactive", "install", "--no-recommends", "systemd", "openssh"},
		enableSSHD,
	}}},
}

// osRelease is what an image says that it is. See os-release(5).
type osRelease struct {
	name string // for people
	ids  []string
}

// release reads os-release.
func (f *firstBoot) release() (osRelease, error) {
	text, err := readFile(f.file("/etc/os-release"))
	if err == nil && text == "" {
		text, err = readFile(f.file("/usr/lib/os-release"))
	}
	if err != nil {
		return osRelease{}, err
	}
	if text == "" {
		return osRelease{}, fmt.Errorf("tell the distribution: the image has no /etc/os-release: %w", fs.ErrNotExist)
	}
	return parseRelease(text), nil
}

// parseRelease gives the ID first, then those of ID_LIKE, the nearest first.
func parseRelease(text string) osRelease {
	vars := map[string]string{}
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if ok && !strings.HasPrefix(name, "#") {
			vars[name] = strings.Trim(value, `"'`)
		}
	}
	id := vars["ID"]
	if id == "" {
		id = "linux" // as the manual has it
	}
	r := osRelease{name: id, ids: append([]string{id}, strings.Fields(vars["ID_LIKE"])...)}
	if pretty := vars["PRETTY_NAME"]; pretty != "" {
		r.name = pretty
	}
	return r
}

// familyOf finds the family of a distribution by its ID, and else by those that it is like.
func familyOf(r osRelease) (distroFamily, error) {
	for _, id := range r.ids {
		// opensuse-leap, opensuse-tumbleweed and their like.
		base, _, _ := strings.Cut(id, "-")
		for _, f := range families {
			if slices.Contains(f.ids, id) || slices.Contains(f.ids, base) {
				return f, nil
			}
		}
	}
	var names []string
	for _, f := range families {
		names = append(names, f.name)
	}
	return distroFamily{}, fmt.Errorf("%s (%s) is of none of the families that can be provisioned: %s; give the image an init of its own, or take another --init",
		r.name, strings.Join(r.ids, ", "), strings.Join(names, ", "))
}

// OpenRC, which busybox's init runs.
const (
	openRCInit    = "/sbin/init"
	openRCProgram = "/sbin/openrc"
	inittab       = "/etc/inittab"
)

// agentLine has busybox's init keep the agent running.
const agentLine = "::respawn:" + program + " " + roleAgent + " " + initOpenRC

// openRCInittab is for an image that has none. Source: Alpine's own.
const openRCInittab = `::sysinit:/sbin/openrc sysinit
::sysinit:/sbin/openrc boot
::wait:/sbin/openrc default
::ctrlaltdel:/sbin/reboot
::shutdown:/sbin/openrc shutdown
`

// settleOpenRC has init start the agent, and none of the terminals that such a
// machine does not have.
func (f *firstBoot) settleOpenRC() error {
	old, err := os.ReadFile(f.file(inittab))
	if errors.Is(err, fs.ErrNotExist) {
		old, err = []byte(openRCInittab), nil
	}
	if err != nil {
		return err
	}
	var text strings.Builder
	for line := range strings.Lines(string(old)) {
		if line = strings.TrimSuffix(line, "\n"); !strings.HasPrefix(line, "tty") && line != agentLine {
			text.WriteString(line + "\n")
		}
	}
	text.WriteString(agentLine + "\n")
	return writeFile(f.file(inittab), text.String(), 0o644)
}
