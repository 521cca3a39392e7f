package kernels

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// fakeMakefile stands for that of a kernel: it takes the options as they are,
// and its vmlinux is what the build can see of its surroundings. The file count gets a
// line for each compilation; a fifo hang beside it makes it hang.
const fakeMakefile = `VERSION = 6
PATCHLEVEL = 1
SUBLEVEL = 9
allnoconfig:
	grep -v -F -f refused $(KCONFIG_ALLCONFIG) >$(O)/.config
vmlinux:
	@echo "$(filter -j%%,$(MAKEFLAGS))" >>%[1]s/count
	@if [ -p %[1]s/hang ]; then echo started >%[1]s/hang; exec tail -f /dev/null; fi
	@mkdir -p $(O)/include/config
	@echo 6.1.9-banger >$(O)/include/config/kernel.release
	@(cat leak 2>/dev/null && echo "$(O)"; cat content; env | grep -vE '^(PATH|HOME|TMPDIR|KCONFIG_ALLCONFIG|MAKE.*|MFLAGS|O|PWD|OLDPWD)=' | sort) >$(O)/vmlinux
`

// fakeTools are programs of the build that these tests do without.
var fakeTools = map[string]string{
	"gcc": `case $* in --version) echo gcc 1 ;; esac`, "strip": `case $1 in --version) echo strip 1 ;; *) cp "$3" "$2" ;; esac`,
	"flex": "", "bison": "", "bc": "", "uname": "echo x86_64",
}

// bench is a place to run the script in.
type bench struct {
	t                           *testing.T
	dir, tree, out, cache, path string
	env                         []string
}

func newBench(t *testing.T) *bench {
	t.Parallel()
	for tool, pkg := range map[string]string{"zstd": "zstd", "make": "make", "dpkg-deb": "dpkg"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("no %s; run: apt-get install %s", tool, pkg)
		}
	}
	dir := t.TempDir()
	b := &bench{t: t, dir: dir, tree: filepath.Join(dir, "tree"), out: filepath.Join(dir, "out"), cache: filepath.Join(dir, "cache"),
		path: filepath.Join(dir, "bin")}
	for tool, text := range fakeTools {
		b.tool(tool, text)
	}
	b.write("tree/Makefile", fmt.Sprintf(fakeMakefile, dir))
	b.write("tree/Kconfig", "")
	b.write("tree/arch/x86/Kconfig", "")
	b.write("tree/content", "code\n")
	b.write("tree/refused", "CONFIG_NOTHING_LIKE_THIS\n")
	if err := os.Chtimes(filepath.Join(b.tree, "Makefile"), time.Time{}, time.Unix(1700000000, 0)); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) write(name, text string) {
	b.t.Helper()
	path := filepath.Join(b.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// tool puts a shell script first in the script's PATH.
func (b *bench) tool(name, text string) {
	b.t.Helper()
	b.write("bin/"+name, "#!/bin/sh\n"+text+"\n")
	if err := os.Chmod(filepath.Join(b.path, name), 0o755); err != nil {
		b.t.Fatal(err)
	}
}

// command is the script with these arguments, ended with the test at the latest.
func (b *bench) command(args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	b.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, "../scripts/make-generic-kernel.sh", append([]string{"--out", b.out, "--cache", b.cache}, args...)...)
	cmd.Env = append([]string{"PATH=" + b.path + ":" + os.Getenv("PATH"), "HOME=" + b.dir}, b.env...)
	// A group of its own, for tests that kill all of it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// run runs the script and returns what it said on stdout and stderr.
func (b *bench) run(args ...string) (stdout, stderr string, err error) {
	b.t.Helper()
	var o, e bytes.Buffer
	cmd := b.command(args...)
	cmd.Stdout, cmd.Stderr = &o, &e
	err = cmd.Run()
	return o.String(), e.String(), err
}

// build runs the script on the tree, which must work.
func (b *bench) build(args ...string) string {
	b.t.Helper()
	stdout, stderr, err := b.run(append([]string{"--source", b.tree}, args...)...)
	if err != nil {
		b.t.Fatalf("%v\n%s", err, stderr)
	}
	return stdout
}

// fails runs the script, which must end with this exit code and words.
func (b *bench) fails(code int, words []string, args ...string) {
	b.t.Helper()
	stdout, stderr, err := b.run(args...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != code {
		b.t.Errorf("%q ended with %v, want exit code %d\n%s", args, err, code, stderr)
	}
	if stdout != "" {
		b.t.Errorf("%q failed and yet says %q", args, stdout)
	}
	for _, w := range words {
		if !strings.Contains(stderr, w) {
			b.t.Errorf("%q says\n%s\nwithout %q", args, stderr, w)
		}
	}
	b.clean()
}

// clean wants nothing half-made to be there.
func (b *bench) clean() {
	b.t.Helper()
	for _, pattern := range []string{b.cache + "/new.*", b.cache + "/.current.*", b.out + "/.*"} {
		if left, _ := filepath.Glob(pattern); len(left) > 0 {
			b.t.Errorf("left behind: %q", left)
		}
	}
}

// compilations is what each compilation noted: its -j.
func (b *bench) compilations() []string {
	text, err := os.ReadFile(filepath.Join(b.dir, "count"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		b.t.Fatal(err)
	}
	return strings.Fields(string(text))
}

func (b *bench) read(path string) []byte {
	b.t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		b.t.Fatal(err)
	}
	return text
}

func TestBuild(t *testing.T) {
	b := newBench(t)
	stdout := b.build("--jobs", "3", "--base-url", "https://example.org/kernels/")
	dir := filepath.Join(b.out, "generic-6.1")
	if want := "banger kernel import generic-6.1 --from " + dir + "\n"; stdout != want {
		t.Errorf("it says %q, want %q", stdout, want)
	}
	if got := b.compilations(); !slices.Equal(got, []string{"-j3"}) {
		t.Errorf("compilations %q", got)
	}
	b.clean()

	vmlinux := b.read(filepath.Join(dir, "vmlinux"))
	for _, want := range []string{"code\n", "KBUILD_BUILD_TIMESTAMP=Tue Nov 14 22:13:20 UTC 2023\n", "KBUILD_BUILD_USER=banger\n", "KBUILD_BUILD_HOST=banger\n"} {
		if !bytes.Contains(vmlinux, []byte(want)) {
			t.Errorf("the build saw\n%s\nwithout %q", vmlinux, want)
		}
	}
	var meta map[string]string
	if err := json.Unmarshal(b.read(filepath.Join(dir, "metadata.json")), &meta); err != nil {
		t.Fatal(err)
	}
	if meta["name"] != "generic-6.1" || meta["distro"] != "generic" || meta["arch"] != "x86_64" || meta["kernel_version"] != "6.1.9-banger" {
		t.Errorf("metadata %v", meta)
	}

	var entry struct {
		Name, Distro, Arch, Description string
		KernelVersion                   string `json:"kernel_version"`
		TarballURL                      string `json:"tarball_url"`
		TarballSHA256                   string `json:"tarball_sha256"`
		SizeBytes                       int64  `json:"size_bytes"`
	}
	dec := json.NewDecoder(bytes.NewReader(b.read(filepath.Join(b.out, "generic-6.1.json"))))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&entry); err != nil {
		t.Fatal(err)
	}
	tarball := b.read(filepath.Join(b.out, "generic-6.1.tar.zst"))
	sum := sha256.Sum256(tarball)
	if entry.Name != "generic-6.1" || entry.KernelVersion != "6.1.9-banger" || entry.TarballURL != "https://example.org/kernels/generic-6.1.tar.zst" ||
		entry.TarballSHA256 != hex.EncodeToString(sum[:]) || entry.SizeBytes != int64(len(tarball)) || entry.Description == "" {
		t.Errorf("catalog entry %+v", entry)
	}

	list, err := exec.Command("tar", "--zstd", "--numeric-owner", "--full-time", "--utc", "-tvf", filepath.Join(b.out, "generic-6.1.tar.zst")).Output()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(list)) {
		f := strings.Fields(line)
		if f[0] != "-rw-r--r--" || f[1] != "0/0" || f[3]+" "+f[4] != "2023-11-14 22:13:20" {
			t.Errorf("in the bundle: %s", line)
		}
		names = append(names, f[5])
	}
	if want := []string{"config", "metadata.json", "vmlinux"}; !slices.Equal(names, want) {
		t.Errorf("the bundle holds %q, want %q", names, want)
	}
	if got := b.read(filepath.Join(b.cache, "current", "vmlinux")); !bytes.Equal(got, vmlinux) {
		t.Error("current is another kernel")
	}
}

// TestReproducible builds in two places, with different surroundings.
func TestReproducible(t *testing.T) {
	var sums [2]string
	for i := range sums {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			b := newBench(t)
			source := b.tree
			if i == 1 { // the same files as a tarball
				b.env = []string{"TZ=Asia/Tokyo", "LC_ALL=C.UTF-8", "KCFLAGS=-O0", "LOCALVERSION=-mine", "ARCH=arm64", "MAKEFLAGS= -j4 -- O=/nowhere"}
				source = filepath.Join(b.dir, "linux-6.1.tar.xz")
				if out, err := exec.Command("tar", "-C", b.dir, "-cJf", source, "tree").CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
			}
			if _, stderr, err := b.run("--source", source); err != nil {
				t.Fatalf("%v\n%s", err, stderr)
			}
			if i == 1 {
				if got := b.compilations(); !slices.Equal(got, []string{"-j4"}) {
					t.Errorf("make's -j4 became %q", got)
				}
			}
			h := sha256.New()
			h.Write(b.read(filepath.Join(b.out, "generic-6.1.tar.zst")))
			sums[i] = hex.EncodeToString(h.Sum(nil))
		})
	}
	t.Cleanup(func() {
		if sums[0] != sums[1] {
			t.Errorf("two builds of one source: %s and %s", sums[0], sums[1])
		}
	})
}

func TestCache(t *testing.T) {
	b := newBench(t)
	b.build()
	// The same again: at once, and the results are back.
	if err := os.RemoveAll(b.out); err != nil {
		t.Fatal(err)
	}
	b.build()
	if n := len(b.compilations()); n != 1 {
		t.Errorf("%d compilations of one source", n)
	}
	b.read(filepath.Join(b.out, "generic-6.1.tar.zst"))
	first := b.read(filepath.Join(b.out, "generic-6.1", "vmlinux"))

	// Another source.
	b.write("tree/content", "other code\n")
	b.build()
	if n := len(b.compilations()); n != 2 {
		t.Errorf("%d compilations of two sources", n)
	}
	if second := b.read(filepath.Join(b.out, "generic-6.1", "vmlinux")); bytes.Equal(first, second) {
		t.Error("the other source gave the same kernel")
	}
	// Another time of the same source.
	b.env = []string{"SOURCE_DATE_EPOCH=1600000000"}
	b.build()
	if got := b.read(filepath.Join(b.cache, "current", "vmlinux")); !bytes.Contains(got, []byte("2020")) {
		t.Errorf("the build saw\n%s\nwithout SOURCE_DATE_EPOCH", got)
	}
	b.clean()
}

// TestForgotten wants the cache not to grow for ever.
func TestForgotten(t *testing.T) {
	b := newBench(t)
	b.build()
	current, err := filepath.EvalSymlinks(filepath.Join(b.cache, "current"))
	if err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(b.cache, "0123456789abcdef")
	if err := os.Mkdir(old, 0o755); err != nil {
		t.Fatal(err)
	}
	long := time.Now().AddDate(0, 0, -40)
	if err := os.Chtimes(old, long, long); err != nil {
		t.Fatal(err)
	}
	b.write("tree/content", "other code\n")
	b.build()
	if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a result of 40 days ago: %v", err)
	}
	if _, err := os.Stat(current); err != nil {
		t.Errorf("a result of now: %v", err)
	}
}

func TestTwoAtOnce(t *testing.T) {
	b := newBench(t)
	var cmds []*exec.Cmd
	var said [2]bytes.Buffer
	for i := range said {
		cmd := b.command("--source", b.tree)
		cmd.Stderr = &said[i]
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cmds = append(cmds, cmd)
	}
	for i, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v\n%s", err, said[i].String())
		}
	}
	if n := len(b.compilations()); n != 1 {
		t.Errorf("%d compilations for two runs at once", n)
	}
	b.clean()
}

// TestInterrupted ends the script, and with SIGKILL nothing but the script, in
// the middle of a compilation: the compilers must end too, and nothing may stay
// but what the next run removes.
func TestInterrupted(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGKILL} {
		t.Run(sig.String(), func(t *testing.T) {
			b := newBench(t)
			path := filepath.Join(b.dir, "hang")
			if err := syscall.Mkfifo(path, 0o600); err != nil {
				t.Fatal(err)
			}
			hang, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer hang.Close()
			cmd := b.command("--source", b.tree)
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			cmd.Stderr = w
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			w.Close()
			if err := hang.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			if _, err := hang.Read(make([]byte, 16)); err != nil {
				t.Fatalf("wait for the compilation: %v", err)
			}
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err == nil {
				t.Error("it went on")
			}
			// The end of the pipe is the end of all that held it.
			said, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			if sig != syscall.SIGKILL {
				b.clean()
			}
			if entries, _ := os.ReadDir(b.out); len(entries) > 0 {
				t.Errorf("results of a build that was interrupted: %v\n%s", entries, said)
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			b.build()
			b.clean()
		})
	}
}
