package guest

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// stub stands in for every tool of a distribution: it notes its command line,
// and what installs packages makes what they have.
const stub = `#!/bin/sh
echo "${0##*/} $*" >> "$PWD/log"
echo "this is ${0##*/}"
case "$*" in
*systemd*openssh*) mkdir -p usr/lib/systemd usr/sbin; touch usr/lib/systemd/systemd usr/sbin/sshd; chmod +x usr/lib/systemd/systemd usr/sbin/sshd ;;
*openrc*openssh*) mkdir -p sbin usr/sbin; touch sbin/openrc usr/sbin/sshd ;;
esac
test ! -e usr/sbin/policy-rc.d || echo held >> "$PWD/held"
`

// provisioner is a first boot in a root of its own, with tools that are stubs.
func provisioner(t *testing.T, release string, tools ...string) (*firstBoot, *bytes.Buffer) {
	t.Helper()
	root := t.TempDir()
	bin := filepath.Join(root, "bin")
	var out bytes.Buffer
	f := &firstBoot{root: root, path: bin, net: filepath.Join(root, "route"), out: &out}
	write := func(path, text string, mode os.FileMode) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(filepath.Join("testdata/os-release", release))
	if err != nil {
		t.Fatal(err)
	}
	write(filepath.Join(root, "etc/os-release"), string(b), 0o644)
	// As a guest of banger's has it.
	write(f.net, "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"+
		"eth0\t00000000\t017FA8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"+
		"eth0\t007FA8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n", 0o644)
	for _, tool := range tools {
		write(filepath.Join(bin, tool), stub, 0o755)
	}
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	// None of this host's tools may run.
	for _, name := range []string{"mkdir", "touch", "chmod", "sh"} {
		if err := os.Symlink("/bin/"+name, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	return f, &out
}

func (f *firstBoot) lines(t *testing.T, name string) []string {
	t.Helper()
	b, _ := os.ReadFile(filepath.Join(f.root, name))
	return strings.Split(strings.TrimSpace(string(b)), "\n")
}

func TestFirstBoot(t *testing.T) {
	apt := []string{
		"apt-get -q -o Acquire::Retries=3 -o APT::Update::Error-Mode=any -o Acquire::Languages=none update",
		"apt-get -q -y --no-install-recommends -o Acquire::Retries=3 -o Dpkg::Options::=--force-confold install systemd-sysv dbus openssh-server",
	}
	enable := "systemctl enable sshd.service"
	dnf := []string{"dnf -y --setopt=install_weak_deps=False install systemd openssh-server", enable}
	pacman := []string{"pacman-key --init", "pacman-key --populate", "pacman -Syu --noconfirm --needed systemd systemd-sysvcompat openssh", enable}
	zypper := []string{"zypper --non-interactive refresh", "zypper --non-interactive install --no-recommends systemd openssh", enable}
	for _, c := range []struct {
		release string
		tools   string
		want    []string
	}{
		{"debian", "apt-get", apt},
		{"ubuntu", "apt-get", apt},
		{"raspbian", "apt-get", apt},
		{"linuxmint", "apt-get", apt},
		{"alpine", "apk rc-update", []string{"apk add --no-cache openrc openssh", "rc-update add sshd default"}},
		{"fedora", "dnf yum systemctl", dnf},
		{"fedora", "microdnf yum systemctl", []string{"microdnf -y --setopt=install_weak_deps=0 install systemd openssh-server", enable}},
		{"rocky", "dnf systemctl", dnf},
		{"almalinux", "dnf systemctl", dnf},
		{"rocky", "yum systemctl", []string{"yum -y install systemd openssh-server", enable}},
		{"arch", "pacman pacman-key systemctl", pacman},
		{"manjaro", "pacman pacman-key systemctl", pacman},
		{"opensuse-leap", "zypper systemctl", zypper},
		{"opensuse-tumbleweed", "zypper systemctl", zypper},
		{"sles", "zypper systemctl", zypper},
	} {
		t.Run(c.release+" "+c.tools, func(t *testing.T) {
			f, out := provisioner(t, c.release, strings.Fields(c.tools)...)
			for range 2 { // the second time does nothing
				if err := f.run(t.Context()); err != nil {
					t.Fatal(err)
				}
				if got := f.lines(t, "log"); !slices.Equal(got, c.want) {
					t.Fatalf("ran\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
				}
			}
			// All of it is to be seen on the console.
			for i, line := range c.want {
				tool, _, _ := strings.Cut(line, " ")
				if !strings.Contains(out.String(), ": "+line+"\n") || !strings.Contains(out.String(), "this is "+tool+"\n") {
					t.Errorf("step %d is not in:\n%s", i+1, out)
				}
			}
			if got := f.lines(t, "held"); len(got) != len(c.want) {
				t.Errorf("%d steps of %d might have started services", len(c.want)-len(got), len(c.want))
			}
			if _, err := os.Lstat(f.file("/usr/sbin/policy-rc.d")); err == nil {
				t.Error("services stay held back")
			}
			if to, err := os.Readlink(f.file(firstBootPath)); err != nil || to != program {
				t.Errorf("%s leads to %q, %v", firstBootPath, to, err)
			}
		})
	}
}

func TestFirstBootOpenRC(t *testing.T) {
	for name, c := range map[string]struct{ old, want string }{
		"none": {"", openRCInittab + agentLine + "\n"},
		"alpine": {"::sysinit:/sbin/openrc sysinit\ntty1::respawn:/sbin/getty 38400 tty1\n#ttyS0::respawn:/sbin/getty\n" + agentLine + "\n::shutdown:/sbin/openrc shutdown",
			"::sysinit:/sbin/openrc sysinit\n#ttyS0::respawn:/sbin/getty\n::shutdown:/sbin/openrc shutdown\n" + agentLine + "\n"},
	} {
		f, _ := provisioner(t, "alpine", "apk", "rc-update")
		if c.old != "" {
			if err := os.WriteFile(f.file(inittab), []byte(c.old), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(f.file(inittab)); err != nil || string(got) != c.want {
			t.Errorf("%s: got %v\n%swant\n%s", name, err, got, c.want)
		}
	}
}

func TestFirstBootFails(t *testing.T) {
	for name, c := range map[string]struct {
		release string
		spoil   func(f *firstBoot) error
		want    string
	}{
		"no network": {"debian", func(f *firstBoot) error { return os.WriteFile(f.net, []byte("Iface\n"), 0o644) }, "there is no network to install packages from: make the VM with --net nat"},
		"no kernel network": {"debian", func(f *firstBoot) error { return os.Remove(f.net) },
			"there is no network"},
		"unknown":            {"void", nil, "Void Linux (void) is of none of the families"},
		"no os-release":      {"debian", func(f *firstBoot) error { return os.Remove(f.file("/etc/os-release")) }, "no /etc/os-release"},
		"no package manager": {"debian", func(f *firstBoot) error { return os.Remove(f.file("/bin/apt-get")) }, "the image is of the debian family and has no apt-get"},
		"mirror": {"debian", func(f *firstBoot) error {
			return os.WriteFile(f.file("/bin/apt-get"), []byte("#!/bin/sh\necho ran >> log\necho reading\necho 'E: cannot resolve' >&2\nexit 100\n"), 0o755)
		}, "run apt-get -q -o Acquire::Retries=3 -o APT::Update::Error-Mode=any -o Acquire::Languages=none update: exit status 100: reading; E: cannot resolve"},
		"lies": {"debian", func(f *firstBoot) error {
			return os.WriteFile(f.file("/bin/apt-get"), []byte("#!/bin/sh\n"), 0o755)
		}, "and there is no init or no SSH server all the same"},
	} {
		f, _ := provisioner(t, c.release, "apt-get")
		if c.spoil != nil {
			if err := c.spoil(f); err != nil {
				t.Fatal(err)
			}
		}
		err := f.run(t.Context())
		if err == nil || !strings.HasPrefix(err.Error(), "first boot: ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
		for _, path := range []string{firstBootStamp, "/usr/sbin/policy-rc.d"} {
			if _, err := os.Lstat(f.file(path)); err == nil {
				t.Errorf("%s: %s is there", name, path)
			}
		}
	}
}

// An image that has all of it needs no network and no package manager.
func TestFirstBootOfACompleteImage(t *testing.T) {
	f, _ := provisioner(t, "debian")
	for _, path := range []string{"/usr/lib/systemd/systemd", "/usr/sbin/sshd"} {
		if err := writeFile(f.file(path), "x", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(f.net); err != nil {
		t.Fatal(err)
	}
	if err := f.run(t.Context()); err != nil {
		t.Error(err)
	}
}

// An image's own word on its services stays.
func TestFirstBootKeepsPolicy(t *testing.T) {
	f, _ := provisioner(t, "debian", "apt-get")
	path := f.file("/usr/sbin/policy-rc.d")
	if err := writeFile(path, "#!/bin/sh\nexit 0\n", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := f.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "#!/bin/sh\nexit 0\n" {
		t.Errorf("policy-rc.d: %q, %v", b, err)
	}
}
