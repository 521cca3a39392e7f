package kernelcat

import (
	"cmp"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"banger"
)

// fakeApt plays apt-get and apt-cache. $FAKE is its archive: show/PACKAGE is
// what the archive says of it, PACKAGE.deb the file, targets the host's own
// sources; log gets what was asked. The files fail-STEP hold shell text that
// a step runs first.
const fakeApt = `#!/bin/sh
echo "$0 $*" >> "$FAKE/log"
[ "$1" = -c ] && state=${2%/apt.conf} && cat "$state/sources.list" >> "$FAKE/log"
for last; do :; done
step() { [ ! -e "$FAKE/fail-$1" ] || . "$FAKE/fail-$1"; }
case "$*" in
*indextargets*) cat "$FAKE/targets" ;;
*update*) step update; : > "$state/lists/x_Packages" ;;
*show*) step show; cat "$FAKE/show/${last%%=*}" 2>/dev/null || { echo "E: No packages found" >&2; exit 100; } ;;
*download*) step download
	echo "dlstatus:1:50.0:Retrieving file 1 of 1"
	cp "$FAKE/${last%%=*}.deb" "./${last%%=*}_${last#*=}_amd64.deb" ;;
esac
`

// archive is a fake archive and the programs that serve it.
type archive struct {
	t        *testing.T
	dir      string // $FAKE
	bin      string
	out, tmp string
	host     string // os-release of the host
	want     string // source; empty: that of debian-6.1
}

func newArchive(t *testing.T) *archive {
	t.Helper()
	for _, tool := range []string{"dpkg-deb", "sh"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%v; run: apt-get install -y --no-install-recommends dpkg dash", err)
		}
	}
	dir := t.TempDir()
	a := &archive{t: t, dir: filepath.Join(dir, "fake"), bin: filepath.Join(dir, "bin"), out: filepath.Join(dir, "out"), tmp: filepath.Join(dir, "tmp")}
	for _, d := range []string{a.dir, filepath.Join(a.dir, "show"), a.bin, a.out, a.tmp} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	a.host = "ID=debian\nVERSION_CODENAME=bookworm\n"
	a.write("targets", "")
	a.program("apt-get", fakeApt)
	a.program("apt-cache", fakeApt)
	t.Setenv("PATH", a.bin+":"+os.Getenv("PATH"))
	t.Setenv("FAKE", a.dir)
	return a
}

func (a *archive) write(name, text string) {
	a.t.Helper()
	if err := os.WriteFile(filepath.Join(a.dir, name), []byte(text), 0o644); err != nil {
		a.t.Fatal(err)
	}
}

func (a *archive) program(name, text string) {
	a.t.Helper()
	if err := os.WriteFile(filepath.Join(a.bin, name), []byte(text), 0o755); err != nil {
		a.t.Fatal(err)
	}
}

// deb adds a package, made by dpkg-deb from the files, to the archive.
func (a *archive) deb(name, version, depends string, files map[string][]byte) {
	a.t.Helper()
	installed := 13
	if files != nil {
		installed = 2000
	}
	control := fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: amd64\nMaintainer: nobody <nobody@example.org>\nInstalled-Size: %d\nDepends: %s\nDescription: kernel\n", name, version, installed, depends)
	a.write("show/"+name, control+"Size: 1234567\n\nPackage: other\nVersion: 0\n")
	if files == nil {
		return
	}
	files["DEBIAN/control"] = []byte(control)
	dir := writeFiles(a.t, files)
	if err := os.Chmod(filepath.Join(dir, "DEBIAN"), 0o755); err != nil { // dpkg-deb asks for it, whatever the umask
		a.t.Fatal(err)
	}
	if out, err := exec.Command("dpkg-deb", "-Znone", "--build", dir, filepath.Join(a.dir, name+".deb")).CombinedOutput(); err != nil {
		a.t.Fatalf("dpkg-deb: %v: %s", err, out)
	}
}

// kernel adds a meta package and a kernel like Debian's.
func (a *archive) kernel(payload []byte) {
	a.deb("linux-image-cloud-amd64", "6.1.192-2", "linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)", nil)
	files := map[string][]byte{
		"boot/config-6.1.0-56-cloud-amd64":  []byte("CONFIG_PVH=y\n"),
		"boot/vmlinuz-6.1.0-56-cloud-amd64": bzImage(payload),
		"usr/share/doc/x":                   []byte("x"),
	}
	for name, b := range debianModules() {
		files["lib/modules/6.1.0-56-cloud-amd64/"+name] = b
	}
	a.deb("linux-image-6.1.0-56-cloud-amd64", "6.1.192-2", "kmod, linux-base (>= 4.3~), initramfs-tools (>= 0.120+deb8u2) | linux-initramfs-tool", files)
}

func (a *archive) pull(ctx context.Context) (banger.Kernel, []string, error) {
	a.t.Helper()
	c, err := Builtin()
	if err != nil {
		a.t.Fatal(err)
	}
	e := c.Entries[0]
	a.write("keys", "")
	var steps []string
	sources, err := e.PullSources()
	if err != nil {
		a.t.Fatal(err)
	}
	if a.want != "" {
		s, err := ParseSource(a.want)
		if err != nil {
			a.t.Fatal(err)
		}
		sources = []Source{s}
	}
	a.write("os-release", a.host)
	k, err := Pull(ctx, a.out, e.Want(), sources, Options{TempDir: a.tmp, osRelease: filepath.Join(a.dir, "os-release"),
		keyrings: []string{"/nonesuch", filepath.Join(a.dir, "keys")}, Progress: func(s banger.Progress) {
			if len(steps) == 0 || steps[len(steps)-1] != s.Step {
				steps = append(steps, s.Step)
			}
		}})
	if files := tree(a.t, a.tmp); files != "" {
		a.t.Errorf("working files left: %s", files)
	}
	if d, _ := os.ReadDir(a.out); err != nil && len(d) > 0 {
		a.t.Errorf("bundle left: %s", tree(a.t, a.out))
	}
	return k, steps, err
}

func (a *archive) log() string {
	b, err := os.ReadFile(filepath.Join(a.dir, "log"))
	if err != nil {
		a.t.Fatal(err)
	}
	return string(b)
}

func TestPull(t *testing.T) {
	a := newArchive(t)
	vmlinux := vmlinuxELF(elf.EM_X86_64, true, 100_000)
	a.kernel(packLZ4(vmlinux, false))
	k, steps, err := a.pull(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if k.Name != "debian-6.1" || k.Distro != "debian" || k.Arch != "x86_64" || k.KernelVersion != "6.1.0-56-cloud-amd64" ||
		k.Source != "deb:linux-image-6.1.0-56-cloud-amd64=6.1.192-2" || len(k.SHA256) != 64 || k.ImportedAt.IsZero() ||
		k.Features["overlay"] != "module" || k.Features["ext4"] != "builtin" || k.Features["pvh"] != "builtin" {
		t.Errorf("record is %+v", k)
	}
	want := "find linux-image-cloud-amd64|download linux-image-6.1.0-56-cloud-amd64 (1 MB)|unpack linux-image-6.1.0-56-cloud-amd64|extract vmlinux|write to disk"
	if got := strings.Join(steps, "|"); got != want {
		t.Errorf("steps: %s", got)
	}
	size := int64(0)
	for _, p := range strings.Fields(tree(t, a.out)) {
		fi, err := os.Stat(filepath.Join(a.out, p))
		if err != nil {
			t.Fatal(err)
		}
		size += fi.Size()
	}
	if k.Size != size {
		t.Errorf("size is %d, files have %d", k.Size, size)
	}
	if got, _ := os.ReadFile(filepath.Join(a.out, "vmlinux")); string(got) != string(vmlinux) {
		t.Error("vmlinux differs")
	}
	if got, err := InitrdModules(k.Name, filepath.Join(a.out, "modules")); err != nil || len(got) != 10 {
		t.Errorf("initrd modules %v, %v", got, err)
	}
	line := "deb [arch=amd64 target=Packages lang=none signed-by=" + a.dir + "/keys] http://deb.debian.org/debian/ bookworm main\n"
	if !strings.Contains(a.log(), line) || strings.Contains(a.log(), "unauthenticated") {
		t.Errorf("apt was asked:\n%s", a.log())
	}
	// a folder that is in use is left alone
	if _, err := Pull(t.Context(), a.out, Want{Name: "x"}, nil, Options{}); !banger.IsKind(err, banger.Invalid) || tree(t, a.out) == "" {
		t.Errorf("full folder: %v", err)
	}
}

// Ubuntu keeps kernel and modules in two packages.
func TestPullTwoPackages(t *testing.T) {
	a := newArchive(t)
	a.deb("linux-image-cloud-amd64", "6.8", "linux-image-6.8.0-1 (= 6.8.0-1.1), linux-headers-6.8", nil)
	a.deb("linux-image-6.8.0-1", "6.8.0-1.1", "kmod, linux-modules-6.8.0-1", map[string][]byte{
		"boot/vmlinuz-6.8.0-1": bzImage(packZstd(vmlinuxELF(elf.EM_X86_64, false, 10_000)))})
	a.deb("linux-modules-6.8.0-1", "6.8.0-1.1", "linux-image-6.8.0-1", map[string][]byte{
		"boot/config-6.8.0-1": []byte("CONFIG_IP_PNP=y\n"), "usr/lib/modules/6.8.0-1/kernel/overlay.ko": moduleELF("depends=")})
	k, _, err := a.pull(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if k.Source != "deb:linux-image-6.8.0-1=6.8.0-1.1" || k.Features["ip_pnp"] != "builtin" || k.Features["overlay"] != "module" || k.Features["pvh"] != "" {
		t.Errorf("record is %+v", k)
	}
	if got := tree(t, a.out); got != "modules/kernel/overlay.ko vmlinux" {
		t.Errorf("files: %s", got)
	}
}

func TestPullHostMirror(t *testing.T) {
	const host = "http://mirror.example/debian/ bookworm main\nhttp://mirror.example/debian/ bookworm main\nhttp://mirror.example/sec/ bookworm-security main\n" +
		"http://docker.example/ bookworm stable\nhttp://mirror.example/debian/ bookworm-updates main\ncdrom:[x]/ bookworm main\n"
	trixie := strings.ReplaceAll(host, "bookworm", "trixie")
	const broken = `grep -q mirror.example "$state/sources.list" && { echo "E: The repository 'http://mirror.example/debian bookworm Release' does not have a Release file." >&2; exit 100; }`
	for _, tt := range []struct {
		name, targets, host, want, fail string
		asked                           string // of which archives which suites
	}{
		{"host has the suite", host, "", "", "", "mirror.example/debian/ bookworm, mirror.example/sec/ bookworm-security"},
		{"host is of another suite", trixie, "ID=debian\nVERSION_CODENAME=trixie\n", "", "", "mirror.example/debian/ bookworm, mirror.example/sec/ bookworm-security"},
		{"host has another suite than its own", trixie, "", "", "", "deb.debian.org/debian/ bookworm, deb.debian.org/debian-security/ bookworm-security"},
		{"host is of another distribution", strings.ReplaceAll(host, "bookworm", "noble"), "UBUNTU_CODENAME=noble\n", "", "", "deb.debian.org/debian/ bookworm, deb.debian.org/debian-security/ bookworm-security"},
		{"host has only security", "http://mirror.example/debian/ bookworm-security main\n", "", "", "", "deb.debian.org/debian/ bookworm, deb.debian.org/debian-security/ bookworm-security"},
		{"host's mirror does not have it", host, "", "", broken, "mirror.example/debian/ bookworm, mirror.example/sec/ bookworm-security, deb.debian.org/debian/ bookworm, deb.debian.org/debian-security/ bookworm-security"},
		{"the host's suite", host, "", "deb://linux-image-cloud-amd64", "", "mirror.example/debian/ bookworm, mirror.example/sec/ bookworm-security"},
		{"the host's suite, Ubuntu", "http://mirror.example/ubuntu/ noble main\nhttp://mirror.example/ubuntu/ noble-updates main\nhttp://mirror.example/ubuntu/ noble-backports main\n", "ID=linuxmint\nUBUNTU_CODENAME=noble\n", "deb://linux-image-cloud-amd64", "",
			"mirror.example/ubuntu/ noble, mirror.example/ubuntu/ noble-updates"},
		{"a suite without security", "", "", "deb://linux-image-cloud-amd64?suite=sid", "", "deb.debian.org/debian/ sid"},
		{"host's mirror, without security", host, "", "deb://linux-image-cloud-amd64?suite=sid", "", "mirror.example/debian/ sid"},
		{"backports", host, "", "deb://linux-image-cloud-amd64?suite=bookworm-backports", "", "mirror.example/debian/ bookworm-backports"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := newArchive(t)
			a.kernel(packGzip(vmlinuxELF(elf.EM_X86_64, true, 100)))
			a.write("targets", tt.targets)
			a.write("fail-update", tt.fail)
			a.host, a.want = cmp.Or(tt.host, a.host), tt.want
			if _, _, err := a.pull(t.Context()); err != nil {
				t.Fatal(err)
			}
			var asked []string
			for line := range strings.SplitSeq(a.log(), "\n") {
				if f := strings.Fields(line); len(f) == 8 && f[0] == "deb" {
					asked = append(asked, strings.TrimPrefix(f[5], "http://")+" "+f[6])
				}
			}
			slices.Sort(asked)
			want := strings.Split(tt.asked, ", ")
			slices.Sort(want)
			if got := slices.Compact(asked); !slices.Equal(got, want) {
				t.Errorf("asked %q", got)
			}
		})
	}
}

// Debian 14 has four packages for a kernel, beside two that only name them.
func TestPullFourPackages(t *testing.T) {
	const v, at = "7.2.13+deb14-cloud-amd64", "usr/lib/modules/7.2.13+deb14-cloud-amd64/"
	a := newArchive(t)
	a.deb("linux-image-cloud-amd64", "7.2.13-1", "linux-base-cloud-amd64 (= 7.2.13-1), linux-image-"+v+" (= 7.2.13-1)", nil)
	a.deb("linux-base-cloud-amd64", "7.2.13-1", "linux-base-"+v+" (= 7.2.13-1)", nil)
	a.deb("linux-image-"+v, "7.2.13-1", "dracut | linux-initramfs-tool, linux-base (>= 4.17~), linux-base-"+v+" (= 7.2.13-1), linux-binary-"+v+" (= 7.2.13-1), linux-modules-"+v+" (= 7.2.13-1)", nil)
	a.deb("linux-binary-"+v, "7.2.13-1", "linux-base-"+v+" (= 7.2.13-1)", map[string][]byte{at + "vmlinuz": bzImage(packZstd(vmlinuxELF(elf.EM_X86_64, false, 10_000)))})
	a.deb("linux-base-"+v, "7.2.13-1", "", map[string][]byte{at + "config": []byte("CONFIG_IP_PNP=y\n"), at + "System.map": []byte("x"), at + "modules.builtin": []byte("kernel/fs/ext4/ext4.ko\n")})
	a.deb("linux-modules-"+v, "7.2.13-1", "kmod", map[string][]byte{at + "kernel/overlay.ko": moduleELF("depends=")})
	a.want = "deb://linux-image-cloud-amd64?suite=forky"
	k, _, err := a.pull(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if k.Source != "deb:linux-binary-"+v+"=7.2.13-1" || k.KernelVersion != v || k.Features["ip_pnp"] != "builtin" || k.Features["ext4"] != "builtin" || k.Features["overlay"] != "module" {
		t.Errorf("record is %+v", k)
	}
	if got := tree(t, a.out); got != "modules/kernel/overlay.ko modules/modules.builtin vmlinux" {
		t.Errorf("files: %s", got)
	}
}

func TestPullErrors(t *testing.T) {
	const offline = `echo "W: old" >&2; echo "E: Failed to fetch http://deb.debian.org/x  Temporary failure resolving 'deb.debian.org'" >&2; exit 100`
	good := packGzip(vmlinuxELF(elf.EM_X86_64, true, 100))
	hostile := func(e entry) func(*archive) {
		return func(a *archive) {
			a.write("hostile.tar", string(tarOf(a.t, e)))
			a.program("dpkg-deb", "#!/bin/sh\ncat \"$FAKE/hostile.tar\"\n")
		}
	}
	for _, tt := range []struct {
		name    string
		payload []byte
		do      func(a *archive)
		kind    banger.Kind
		msg     string
		hint    string
	}{
		{"no network", good, func(a *archive) { a.write("fail-update", offline) }, banger.Unavailable, "Temporary failure resolving 'deb.debian.org'", "http_proxy"},
		{"no lists, no error", good, func(a *archive) { a.write("fail-update", "exit 0") }, banger.Unavailable, "no list of packages from http://deb.debian.org", "reaches it"},
		{"unknown package", good, func(a *archive) { os.RemoveAll(filepath.Join(a.dir, "show")) }, banger.NotFound, "in bookworm: the archive has no package linux-image-cloud-amd64", "apt-cache search"},
		{"unknown suite", good, func(a *archive) {
			a.write("fail-update", `echo "E: The repository 'http://deb.debian.org/debian nonesuch Release' does not have a Release file." >&2; exit 100`)
		}, banger.NotFound, "http://deb.debian.org/debian has no suite nonesuch", "trixie"},
		{"another version than asked", good, func(a *archive) {
			a.write("show/linux-image-cloud-amd64", "Package: linux-image-cloud-amd64\nVersion: 1\nDepends: linux-image-6.1.0-56-cloud-amd64 (= 9)\n")
		}, banger.NotFound, "no package linux-image-6.1.0-56-cloud-amd64=9", "apt-cache search"},
		{"no kernel behind it", good, func(a *archive) {
			a.write("show/linux-image-cloud-amd64", "Package: linux-image-cloud-amd64\nVersion: 1\nDepends: linux-base, linux-image-x (= -o), linux-image-/../x\n")
		}, banger.NotFound, "neither is a kernel", ""},
		{"disk full in update", good, func(a *archive) {
			a.write("fail-update", `echo "E: Write error - write (28: No space left on device)" >&2; exit 100`)
		}, banger.Exhausted, "No space left", "free some space"},
		{"disk full in download", good, func(a *archive) {
			a.write("fail-download", `echo "E: You don't have enough free space in /x." >&2; exit 100`)
		}, banger.Exhausted, "enough free space", "free some space"},
		{"gone when downloaded", good, func(a *archive) { a.write("fail-download", offline) }, banger.Unavailable, "download linux-image-6.1.0-56-cloud-amd64: apt: Failed to fetch", "http_proxy"},
		{"download of nothing", good, func(a *archive) { a.write("fail-download", "exit 0") }, banger.Unavailable, "0 files", ""},
		{"broken package", good, func(a *archive) { a.write("linux-image-6.1.0-56-cloud-amd64.deb", "!<arch>\nnot a package") }, banger.Invalid, "dpkg-deb", ""},
		{"lzo kernel", []byte("\x89LZO\x00\r\n\x1a\n"), func(*archive) {}, banger.Unsupported, "compressed with lzo", ""},
		{"damaged kernel", good[:len(good)/2], func(*archive) {}, banger.Invalid, "unpack kernel (gzip)", ""},
		{"kernel of another machine", packGzip(vmlinuxELF(elf.EM_AARCH64, true, 100)), func(*archive) {}, banger.Unsupported, "the kernel is for aarch64, this host is x86_64", "a kernel for x86_64"},
		{"package without a kernel", good, hostile(entry{"./lib/modules/6.1/a.ko", 0, "x"}), banger.Invalid, "deb:linux-image-6.1.0-56-cloud-amd64=6.1.192-2 holds no kernel", "deb://linux-image-cloud-amd64"},
		{"package of something else", good, func(a *archive) {
			a.want = "deb://coreutils"
			a.deb("coreutils", "9.1", "", map[string][]byte{"bin/true": []byte("x")})
		}, banger.Invalid, "deb:coreutils=9.1 holds no kernel", "deb://linux-image-cloud-amd64"},
		{"host of another kind", good, func(a *archive) { a.want, a.host = "deb://linux-image-cloud-amd64", "ID=fedora\n" }, banger.Invalid, "neither Debian nor Ubuntu", "?suite=bookworm"},
		{"package with a bad path", good, hostile(entry{"./lib/modules/6.1/../../../x", 0, "x"}), banger.Invalid, "holds the path", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := newArchive(t)
			a.kernel(tt.payload)
			tt.do(a)
			_, _, err := a.pull(t.Context())
			if err == nil {
				t.Fatal("no error")
			}
			e := banger.AsError(err)
			if e.Kind != tt.kind || !strings.Contains(e.Msg, tt.msg) || !strings.Contains(e.Hint, tt.hint) || !strings.HasPrefix(e.Msg, "get kernel debian-6.1: ") {
				t.Errorf("got %s: %s\nhint: %s", e.Kind, e.Msg, e.Hint)
			}
			if errors.Is(err, syscall.ENOSPC) != (tt.kind == banger.Exhausted) {
				t.Errorf("ENOSPC in %v", err)
			}
		})
	}
}

func TestPullWithoutTools(t *testing.T) {
	a := newArchive(t)
	t.Setenv("PATH", t.TempDir())
	if _, err := exec.LookPath("/usr/sbin/apt-get"); err == nil {
		t.Fatal("apt-get is in /usr/sbin")
	}
	_, _, err := a.pull(t.Context())
	if e := banger.AsError(err); e == nil || e.Kind != banger.Unavailable || e.Hint == "" {
		t.Errorf("without apt: %+v", e)
	}
	_, err = Pull(t.Context(), a.out, Want{Name: "k", Arch: "x86_64"}, []Source{debSource{"p1", "s1"}}, Options{TempDir: a.tmp, keyrings: []string{"/nonesuch"}})
	if e := banger.AsError(err); e == nil || e.Kind != banger.Unavailable || !strings.Contains(e.Hint, "debian-archive-keyring") {
		t.Errorf("without keys: %+v", e)
	}
}

// A pull that is canceled while a program hangs leaves no process and no file.
func TestPullCancel(t *testing.T) {
	// Program and child hold the pipe open; its end is the end of both.
	const hang = `exec 3> "$FAKE/pipe"; sleep 1000 & echo hangs >&3; wait`
	for _, step := range []string{"update", "download", "unpack"} {
		t.Run(step, func(t *testing.T) {
			a := newArchive(t)
			a.kernel(packGzip(vmlinuxELF(elf.EM_X86_64, true, 100)))
			if err := syscall.Mkfifo(filepath.Join(a.dir, "pipe"), 0o600); err != nil {
				t.Fatal(err)
			}
			if step == "unpack" {
				a.write("some.tar", string(tarOf(t, entry{"./lib/modules/6.1/a.ko", 0, strings.Repeat("x", 4096)})[:2048]))
				a.program("dpkg-deb", "#!/bin/sh\ncat \"$FAKE/some.tar\"\n"+hang+"\n")
			} else {
				a.write("fail-"+step, hang)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var said string
			var wg sync.WaitGroup
			wg.Go(func() {
				f, err := os.Open(filepath.Join(a.dir, "pipe"))
				if err != nil {
					t.Error(err)
					cancel()
					return
				}
				defer f.Close()
				b := make([]byte, 6)
				_, _ = io.ReadFull(f, b)
				cancel()
				rest, _ := io.ReadAll(f)
				said = string(b) + string(rest)
			})
			start := time.Now()
			_, _, err := a.pull(ctx)
			wg.Wait()
			if !banger.IsKind(err, banger.Canceled) || !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			if said != "hangs\n" || time.Since(start) > 5*time.Second {
				t.Errorf("the program said %q, the pull took %v", said, time.Since(start))
			}
		})
	}
}

func TestParseStanza(t *testing.T) {
	d := parseStanza("Package: linux-image-x\nVersion: 1:2-3\nInstalled-Size: 1024\nSize: x\nPre-Depends: linux-modules-a | b\n" +
		"Depends: kmod, linux-image-b (= 1~2), linux-image-c (>= 3)\nDescription: a\n Depends: linux-image-no\n\nPackage: y\n")
	got := fmt.Sprint(d.name, d.version, d.size, d.installed, d.depends)
	if got != "linux-image-x1:2-30 1048576 [linux-modules-a linux-image-b=1~2 linux-image-c]" {
		t.Errorf("got %s", got)
	}
}

func TestParseDeb(t *testing.T) {
	for in, name := range map[string]string{
		"deb://linux-image-cloud-amd64":                      "linux-image-cloud-amd64",
		"deb://linux-image-cloud-amd64?suite=trixie":         "linux-image-cloud-amd64-trixie",
		"deb://linux-image-6.1.0+x?suite=bookworm-backports": "linux-image-6.1.0-x-bookworm-backports",
	} {
		s, err := ParseSource(in)
		if err != nil || s.String() != in || s.DefaultName() != name || ValidateName(name) != nil {
			t.Errorf("%s: %v, %v", in, s, err)
		}
	}
	for _, in := range []string{"deb://", "deb:x", "deb:///x", "deb://x/y", "deb://a@x1", "deb://x1:80", "deb://X1", "deb://-x", "deb://x1?suit=trixie",
		"deb://x1?suite=-x", "deb://x1?suite=../x", "deb://x1?suite=a&x=y", "deb://x1#y", "deb://x1?suite=a b", "deb://x1;y"} {
		if s, err := ParseSource(in); !banger.IsKind(err, banger.Invalid) || banger.AsError(err).Hint == "" {
			t.Errorf("%s: %v, %v", in, s, err)
		}
	}
}
