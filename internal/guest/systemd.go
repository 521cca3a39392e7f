package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"banger/internal/hello"
)

// agentUnit is the agent as a service of systemd. It is part of no transaction
// of others (DefaultDependencies=no, IgnoreOnIsolate): it comes first and is
// only ended by the last killing of a shutdown, so commands work meanwhile.
// What a session left running outlives a restart of the agent (KillMode) and
// the kill of its neighbour for want of memory (OOMPolicy); neither is its
// number of processes bounded as that of a service (TasksMax). Output goes to the console, which the host
// keeps, without waiting for the journal.
const agentUnit = `[Unit]
Description=banger guest agent
DefaultDependencies=no
IgnoreOnIsolate=yes
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart=` + program + ` ` + roleAgent + ` ` + initSystemd + `
StandardOutput=file:/dev/console
StandardError=file:/dev/console
Restart=always
RestartSec=100ms
KillMode=process
OOMScoreAdjust=-1000
OOMPolicy=continue
TasksMax=infinity
`

// program is where systemd finds this program, on the boot disk: the copy that
// an initramfs holds goes when pid 1 becomes systemd.
const program = "/run/banger/boot/banger-guest"

// unitName is what the agent's service is called.
const unitName = "banger-vsock-agent.service"

// masked units wait for what never comes in such a machine.
var masked = []string{
	"serial-getty@ttyS0.service",           // without udev its device never shows up; the console is a log
	"systemd-networkd-wait-online.service", // waits for networkd to configure what is configured
}

// systemdFiles is what systemd finds in /run: nothing is written into the
// image. An empty text is a mask, a link to /dev/null.
func systemdFiles(n *hello.Net) map[string]string {
	files := map[string]string{
		"/run/systemd/system/" + unitName: agentUnit,
	}
	for _, u := range masked {
		files["/run/systemd/system/"+u] = ""
	}
	if n != nil {
		// The interface keeps its name, and networkd, where an image has it, its hands off.
		match := "[Match]\nMACAddress=" + n.MAC + "\n\n"
		files["/run/systemd/network/00-banger.link"] = match + "[Link]\nNamePolicy=keep kernel\nMACAddressPolicy=none\n"
		files["/run/systemd/network/00-banger.network"] = match + "[Link]\nUnmanaged=yes\n"
	}
	return files
}

// prepareSystemd mounts the boot disk, writes the files, and has the agent
// started with the first units.
func prepareSystemd(n *hello.Net) error {
	err := os.Mkdir("/run/banger", 0o700)
	if err == nil {
		err = mountAll([]mountPoint{{dir: filepath.Dir(program), source: bootDisk, fstype: "ext4", flags: unix.MS_RDONLY | noSetuid, data: "noload"}})
	}
	if err != nil {
		return fmt.Errorf("prepare systemd: %w (%s)", err, bootDisk)
	}
	for path, text := range systemdFiles(n) {
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil && text == "" {
			err = symlink("/dev/null", path)
		} else if err == nil {
			err = os.WriteFile(path, []byte(text), 0o644)
		}
		if err != nil {
			return fmt.Errorf("prepare systemd: %w", err)
		}
	}
	wants := "/run/systemd/system/sysinit.target.wants/"
	if err := os.MkdirAll(wants, 0o755); err != nil {
		return fmt.Errorf("prepare systemd: %w", err)
	}
	if err := symlink("../"+unitName, wants+unitName); err != nil {
		return fmt.Errorf("prepare systemd: %w", err)
	}
	return nil
}

// symlink makes a link unless there is something of that name.
func symlink(to, path string) error {
	if err := os.Symlink(to, path); !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}
