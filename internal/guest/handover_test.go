package guest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"banger/internal/hello"
)

// fakeRoot makes a root directory of programs ("/path") and symlinks ("/path -> target").
func fakeRoot(t *testing.T, entries ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, e := range entries {
		path, target, isLink := strings.Cut(e, " -> ")
		path = filepath.Join(root, path)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil && isLink {
			err = os.Symlink(target, path)
		} else if err == nil {
			err = os.WriteFile(path, nil, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestChooseInit(t *testing.T) {
	merged := []string{"/usr/lib/systemd/systemd", "/lib -> usr/lib", "/usr/sbin/init -> /lib/systemd/systemd", "/sbin -> usr/sbin"}
	for _, c := range []struct {
		name, want string
		root       []string
		path       string
		fails      string
	}{
		{name: "merged /usr", root: merged, path: "/usr/lib/systemd/systemd"},
		{name: "merged /usr, said", want: "systemd", root: merged, path: "/usr/lib/systemd/systemd"},
		{name: "merged /usr, not wanted", want: "banger", root: merged},
		{name: "split /usr", root: []string{"/lib/systemd/systemd"}, path: "/lib/systemd/systemd"},
		{name: "absolute links stay inside", root: []string{"/opt/sd/systemd", "/sbin/init -> /opt/sd/systemd"}, path: "/opt/sd/systemd"},
		{name: "links that climb stay inside", root: []string{"/opt/systemd", "/sbin/init -> ../../../../opt/systemd"}, path: "/opt/systemd"},
		{name: "another init", root: []string{"/bin/busybox", "/sbin/init -> /bin/busybox"}},
		{name: "another init, systemd wanted", want: "systemd", root: []string{"/bin/busybox", "/sbin/init -> /bin/busybox"}, fails: "no systemd"},
		{name: "dangling", root: []string{"/sbin/init -> /lib/systemd/systemd"}},
		{name: "loop", root: []string{"/sbin/init -> /sbin/init"}},
		{name: "scratch", want: "auto"},
		{name: "provisioned", want: "provision", root: merged, path: "/usr/lib/systemd/systemd"},
		{name: "provisioned with another init", want: "provision", root: []string{"/sbin/init"}},
		{name: "unknown", want: "runit", fails: `"runit"`},
	} {
		got, err := chooseInit(fakeRoot(t, c.root...), c.want)
		switch {
		case c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails)):
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.fails)
		case c.fails == "" && (err != nil || got != c.path):
			t.Errorf("%s: got %q, %v, want %q", c.name, got, err, c.path)
		}
	}
}

func TestChooseInitNeedsAProgram(t *testing.T) {
	root := fakeRoot(t, "/lib/systemd/systemd")
	if err := os.Chmod(filepath.Join(root, "lib/systemd/systemd"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := chooseInit(root, ""); got != "" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestSystemdFiles(t *testing.T) {
	root := fakeRoot(t, "/etc/modules-load.d/empty.conf")
	net := &hello.Net{MAC: "52:54:00:62:67:01"}
	cfg := hello.Config{Net: net, Mounts: 2}
	files := systemdFiles(root, "quiet", cfg)
	for path := range files {
		if !strings.HasPrefix(path, "/run/") {
			t.Errorf("%s is written into the machine's disk", path)
		}
	}
	unit := files["/run/systemd/system/banger-vsock-agent.service"]
	for _, line := range []string{"Type=notify", "DefaultDependencies=no", "ExecStart=/run/banger/boot/banger-guest agent systemd 2\n", "OOMPolicy=continue"} {
		if !strings.Contains(unit, "\n"+line) {
			t.Errorf("the agent's unit lacks %s:\n%s", line, unit)
		}
	}
	if link := files["/run/systemd/network/00-banger.link"]; !strings.Contains(link, "MACAddress=52:54:00:62:67:01") {
		t.Errorf("got %q", link)
	}
	const load = "/run/systemd/system/systemd-modules-load.service"
	if text, ok := files[load]; !ok || text != "" {
		t.Error("modules are loaded where none are named")
	}
	if err := os.WriteFile(filepath.Join(root, "etc/modules-load.d/own.conf"), []byte("# mine\nwireguard\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, ok := systemdFiles(root, "quiet", cfg)[load]; ok {
		t.Error("the modules that the image names are not loaded")
	}
	for path := range systemdFiles(root, "quiet", hello.Config{}) {
		if strings.Contains(path, "/network/") {
			t.Errorf("%s is written without a network", path)
		}
	}
}

func TestIdleGenerators(t *testing.T) {
	root := fakeRoot(t, "/etc/rc.local -> /nowhere", "/etc/crypttab")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(root, path), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("/etc/fstab", "# UNCONFIGURED FSTAB FOR BASE SYSTEM\n\n")
	idle := idleGenerators(root, "quiet init=/banger-guest")
	for name, want := range map[string]bool{
		"systemd-gpt-auto-generator":   true,
		"systemd-fstab-generator":      true,
		"systemd-cryptsetup-generator": true, // the file is empty
		"systemd-rc-local-generator":   false,
		"systemd-run-generator":        true,
		"systemd-sysv-generator":       false, // what it has to do is hard to tell
	} {
		if got := slices.Contains(idle, name); got != want {
			t.Errorf("%s is idle: %v, want %v", name, got, want)
		}
	}
	write("/etc/fstab", "# comment\ntmpfs /tmp tmpfs\n")
	idle = idleGenerators(root, "systemd.unit=rescue.target")
	for _, name := range []string{"systemd-fstab-generator", "systemd-run-generator", "systemd-debug-generator"} {
		if slices.Contains(idle, name) {
			t.Errorf("%s is taken for idle", name)
		}
	}
}

func TestEndSignal(t *testing.T) {
	for _, c := range []struct {
		init, how string
		want      syscall.Signal
	}{
		{initBanger, hello.Poweroff, sigPowerOff}, {initSystemd, hello.Reboot, sigReboot},
		{initOpenRC, hello.Poweroff, syscall.SIGUSR2}, {initOpenRC, hello.Reboot, syscall.SIGTERM},
	} {
		if got := endSignal(c.init, c.how); got != c.want {
			t.Errorf("endSignal(%s, %s) = %v, want %v", c.init, c.how, got, c.want)
		}
	}
}
