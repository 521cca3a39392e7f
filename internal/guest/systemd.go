package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"banger/internal/hello"
)

// agentUnit is the agent as a service of systemd. It belongs to no transaction
// of others (DefaultDependencies=no, IgnoreOnIsolate=yes): it comes before all
// other services, for on one CPU its start would else take as long as those of
// firstServices together, and only the last killing of a shutdown ends it, so
// that commands work all the while. What a session has left running outlives a restart of the
// agent (KillMode) and the death of its neighbour for want of memory
// (OOMPolicy), and may have as many processes as the machine can (TasksMax).
// Output goes to the console, which the host keeps, and waits for no journal.
const agentUnit = `[Unit]
Description=banger guest agent
DefaultDependencies=no
IgnoreOnIsolate=yes
StartLimitIntervalSec=0
Before=` + firstServices + `

[Service]
Type=notify
ExecStart=` + program + ` ` + roleAgent + ` ` + initSystemd + ` %d
StandardOutput=file:/dev/console
StandardError=file:/dev/console
Restart=always
RestartSec=100ms
KillMode=process
OOMScoreAdjust=-1000
Nice=-15
OOMPolicy=continue
TasksMax=infinity
`

// firstServices are those that systemd would start at the same moment.
const firstServices = "systemd-journald.service systemd-udevd.service systemd-udev-trigger.service " +
	"systemd-random-seed.service systemd-sysctl.service systemd-sysusers.service " +
	"systemd-tmpfiles-setup-dev-early.service systemd-tmpfiles-setup-dev.service"

// stays keeps systemd from unmounting something in the course of a shutdown: the
// agent's program, which would fail for as long as the agent runs, and the
// machine's own disk, which is to be there at the very end (see showOwn).
const stays = `[Unit]
DefaultDependencies=no
IgnoreOnIsolate=yes
`

// haltUnit has a halt end the machine as a poweroff does: one that only stands
// still would hold its memory for ever, and nobody could reach it.
const haltUnit = `[Service]
ExecStart=
ExecStart=systemctl --force poweroff
`

// unitName is what the agent's service is called.
const unitName = "banger-vsock-agent.service"

const (
	unitDir      = "/run/systemd/system/"
	generatorDir = "/run/systemd/system-generators/"
	networkDir   = "/run/systemd/network/"
)

// masked units have nothing to do in such a machine, or wait for what never comes.
var masked = []string{
	"serial-getty@ttyS0.service",           // without udev its device never shows up, and the console is a log
	"getty@tty1.service",                   // there is no screen
	"systemd-networkd-wait-online.service", // waits for networkd to configure what is configured
	"systemd-remount-fs.service",           // the root is an overlay, whatever the image's fstab says
	"modprobe@.service",                    // the kernel loads what it lacks when it is asked for
	"kmod-static-nodes.service",            // the nodes are made already; an image without kmod has the unit too
	"e2scrub_reap.service",                 // looks for LVM snapshots at every boot, for seconds under emulation
}

// modulesLoad is masked where the image names no modules to load.
const modulesLoad = "systemd-modules-load.service"

// modulesLoadDirs are where an image names modules. See modules-load.d(5).
var modulesLoadDirs = []string{"etc/modules-load.d", "usr/lib/modules-load.d", "usr/local/lib/modules-load.d"}

// generators are programs that systemd runs, before anything else, at every
// boot, and the files that give each of them something to do; none means that
// nothing ever does in such a machine. They take a third of the time until the
// agent answers. See systemd.generator(7).
var generators = []struct {
	name  string
	files []string
}{
	{"systemd-gpt-auto-generator", nil},
	{"systemd-hibernate-resume-generator", nil},
	{"systemd-bless-boot-generator", nil},
	{"systemd-tpm2-generator", nil},
	{"systemd-getty-generator", nil}, // all of its are masked
	{"systemd-cryptsetup-generator", []string{"/etc/crypttab"}},
	{"systemd-integritysetup-generator", []string{"/etc/integritytab"}},
	{"systemd-veritysetup-generator", []string{"/etc/veritytab"}},
	{"systemd-rc-local-generator", []string{"/etc/rc.local"}},
	{"systemd-system-update-generator", []string{"/system-update", "/etc/system-update"}},
	{"systemd-fstab-generator", []string{"/etc/fstab"}},
}

// cmdlineGenerators act on words of the kernel's command line.
var cmdlineGenerators = []string{"systemd-debug-generator", "systemd-run-generator"}

// idleGenerators are those that have nothing to do in the machine at root.
func idleGenerators(root, cmdline string) []string {
	var idle []string
	for _, g := range generators {
		if !slices.ContainsFunc(g.files, func(f string) bool { return hasLines(filepath.Join(root, f)) }) {
			idle = append(idle, g.name)
		}
	}
	if !strings.Contains(cmdline, "systemd.") {
		idle = append(idle, cmdlineGenerators...)
	}
	return idle
}

// hasLines reports whether there is something at path, and, if it is a file,
// more in it than empty lines and comments.
func hasLines(path string) bool {
	fi, err := os.Lstat(path)
	if err != nil || !fi.Mode().IsRegular() {
		return err == nil
	}
	b, err := os.ReadFile(path)
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			return true
		}
	}
	return err != nil
}

// namesModules reports whether the image wants modules loaded at boot.
func namesModules(root string) bool {
	for _, dir := range modulesLoadDirs {
		for _, name := range dirNames(filepath.Join(root, dir)) {
			if hasLines(filepath.Join(root, dir, name)) {
				return true
			}
		}
	}
	return false
}

// systemdFiles is what systemd finds in /run, where it looks for more than the
// image has. An empty text is a mask, a link to /dev/null.
func systemdFiles(root, cmdline string, cfg hello.Config) map[string]string {
	n := cfg.Net
	files := map[string]string{
		unitDir + unitName: fmt.Sprintf(agentUnit, cfg.Mounts),
		unitDir + "run-banger-boot.mount.d/banger.conf": stays,
		unitDir + "run-banger-disk.mount.d/banger.conf": stays,
		unitDir + "systemd-halt.service.d/banger.conf":  haltUnit,
	}
	for _, u := range masked {
		files[unitDir+u] = ""
	}
	if !namesModules(root) {
		files[unitDir+modulesLoad] = ""
	}
	for _, g := range idleGenerators(root, cmdline) {
		files[generatorDir+g] = ""
	}
	if n != nil {
		// The interface keeps its name, and networkd, where an image has it, its hands off.
		match := "[Match]\nMACAddress=" + n.MAC + "\n\n"
		files[networkDir+"00-banger.link"] = match + "[Link]\nNamePolicy=keep kernel\nMACAddressPolicy=none\n"
		files[networkDir+"00-banger.network"] = match + "[Link]\nUnmanaged=yes\n"
	}
	return files
}

// prepareSystemd writes the files and has the agent started with the first units.
func prepareSystemd(cfg hello.Config) error {
	if err := mountAll(systemdMounts); err != nil {
		return err
	}
	if err := settleTmp(); err != nil {
		return err
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return fmt.Errorf("prepare systemd: %w", err)
	}
	files := systemdFiles("/", string(cmdline), cfg)
	for _, path := range slices.Sorted(maps.Keys(files)) {
		if err := writeUnit(path, files[path]); err != nil {
			return fmt.Errorf("prepare systemd: %w", err)
		}
	}
	wants := unitDir + "sysinit.target.wants/"
	if err := os.MkdirAll(wants, 0o755); err != nil {
		return fmt.Errorf("prepare systemd: %w", err)
	}
	if err := os.Symlink("../"+unitName, wants+unitName); err != nil {
		return fmt.Errorf("prepare systemd: %w", err)
	}
	return markUpdated()
}

func writeUnit(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if text == "" {
		return os.Symlink(os.DevNull, path)
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

// markUpdated says that /etc and /var match /usr, as the image's package
// manager has left them: else the first boot of every machine would rebuild
// the linker's cache, the hardware data base and more. An image whose /etc is
// still to be filled is left to systemd. See systemd-update-done.service(8).
func markUpdated() error {
	if _, err := os.Stat("/etc/passwd"); err != nil {
		return nil
	}
	for _, path := range []string{"/etc/.updated", "/var/.updated"} {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("prepare systemd: %w", err)
		}
		f.Close()
	}
	return nil
}

// unmaskGenerators takes the masks of the generators away: they have done their
// part, and a daemon-reload, after a change of fstab for instance, needs them all.
func unmaskGenerators() {
	for _, name := range dirNames(generatorDir) {
		if to, err := os.Readlink(generatorDir + name); err == nil && to == os.DevNull {
			_ = os.Remove(generatorDir + name)
		}
	}
}
