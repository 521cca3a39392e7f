package guest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// roleFirstBoot is the name by which this program makes an image that has no
// init, or no SSH server, one with both: with the package manager of its
// distribution, once in the life of a disk.
const roleFirstBoot = "banger-first-boot"

const (
	firstBootPath  = "/usr/local/libexec/" + roleFirstBoot
	firstBootStamp = "/var/lib/banger/first-boot" // says that it is done
	firstBootTime  = 30 * time.Minute             // for all of it: emulated, with a slow mirror
)

// firstBoot is one run of it.
type firstBoot struct {
	root string    // "/"
	path string    // of programs, as PATH has them
	net  string    // the kernel's table of routes
	out  io.Writer // what it is doing, and what its programs print
}

// newFirstBoot is that of the machine that it runs in. The console keeps what
// is written.
func newFirstBoot() *firstBoot {
	return &firstBoot{root: "/", path: initPath, net: "/proc/net/route", out: os.Stderr}
}

// runFirstBoot is the role: as a service's program, or as pid 1 that hands over
// to the init, where it returns only with an error.
func runFirstBoot(pid int) error {
	if pid == 1 {
		for _, m := range slices.Concat(kernelMounts, machineMounts) {
			if isMount(m.dir) {
				continue
			}
			if err := mountAll([]mountPoint{m}); err != nil {
				return err
			}
		}
	}
	f := newFirstBoot()
	if err := f.run(context.Background()); err != nil || pid != 1 {
		return err
	}
	init, err := chooseInit(f.root, initProvision)
	if err != nil {
		return err
	}
	return execInit(cmp.Or(init, openRCInit))
}

// run does what there is to do; where all of it is done it does nothing.
func (f *firstBoot) run(ctx context.Context) error {
	if _, err := os.Stat(f.file(firstBootStamp)); err == nil {
		return nil
	}
	if err := f.show(); err != nil {
		return fmt.Errorf("first boot: %w", err)
	}
	if err := f.provision(ctx); err != nil {
		return fmt.Errorf("first boot: %w", err)
	}
	return writeFile(f.file(firstBootStamp), "done\n", 0o644)
}

func (f *firstBoot) provision(ctx context.Context) error {
	release, err := f.release()
	if err != nil {
		return err
	}
	fam, err := familyOf(release)
	if err != nil {
		return err
	}
	f.say("this is %s, of the %s family", release.name, fam.name)
	if !f.complete(fam) {
		if err := f.install(ctx, fam); err != nil {
			return err
		}
	}
	if fam.openRC {
		return f.settleOpenRC()
	}
	return nil
}

// install runs the package manager.
func (f *firstBoot) install(ctx context.Context, fam distroFamily) error {
	steps, err := f.stepsOf(fam)
	if err != nil {
		return err
	}
	if !f.routed() {
		return errors.New("there is no network to install packages from: make the VM with --net nat")
	}
	ctx, cancel := context.WithTimeout(ctx, firstBootTime)
	defer cancel()
	leave, err := f.holdServices()
	if err != nil {
		return err
	}
	defer leave()
	for i, argv := range steps {
		f.say("step %d of %d: %s", i+1, len(steps), strings.Join(argv, " "))
		if err := f.command(ctx, argv); err != nil {
			return err
		}
	}
	if !f.complete(fam) {
		return fmt.Errorf("%s has installed its packages, and there is no init or no SSH server all the same", steps[0][0])
	}
	return nil
}

// stepsOf are those for the first package manager of the family that is there.
func (f *firstBoot) stepsOf(fam distroFamily) ([][]string, error) {
	var tools []string
	for _, steps := range fam.ways {
		if f.look(steps[0][0]) != "" {
			return steps, nil
		}
		tools = append(tools, steps[0][0])
	}
	return nil, fmt.Errorf("the image is of the %s family and has no %s", fam.name, strings.Join(tools, ", "))
}

// complete reports whether the machine has an init and an SSH server.
func (f *firstBoot) complete(fam distroFamily) bool {
	init := false
	if fam.openRC {
		_, init = resolve(f.root, openRCProgram)
	} else {
		_, err := chooseInit(f.root, initSystemd)
		init = err == nil
	}
	return init && slices.ContainsFunc([]string{"/usr/sbin/sshd", "/usr/bin/sshd"}, func(p string) bool {
		_, ok := resolve(f.root, p)
		return ok
	})
}

// routed reports whether there is a way out: a default route that is up. Source:
// linux/net/ipv4/fib_trie.c, fib_route_seq_show.
func (f *firstBoot) routed() bool {
	text, err := os.ReadFile(f.net)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if w := strings.Fields(line); len(w) > 7 && w[1] == "00000000" && w[7] == "00000000" {
			return true
		}
	}
	return false
}

// policy is Debian's way to say that packages must not start their services: no
// init runs them, and what is started now would stay behind. See
// invoke-rc.d(8).
const policy = "#!/bin/sh\n# by " + roleFirstBoot + ", which removes it\nexit 101\n"

// holdServices writes it, where the image has no say of its own; leave takes it away.
func (f *firstBoot) holdServices() (leave func(), err error) {
	path := f.file("/usr/sbin/policy-rc.d")
	old, err := os.ReadFile(path)
	if err == nil && string(old) != policy {
		return func() {}, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(path, []byte(policy), 0o755); err != nil {
		return nil, err
	}
	return func() { _ = os.Remove(path) }, nil
}

// command runs one step to its end. Its last words are those of the error.
func (f *firstBoot) command(ctx context.Context, argv []string) error {
	path := f.look(argv[0])
	if path == "" {
		return fmt.Errorf("run %s: not found in PATH (%s)", argv[0], f.path)
	}
	var last tail
	cmd := exec.CommandContext(ctx, path, argv[1:]...)
	cmd.Dir = f.root
	cmd.Env = []string{"PATH=" + f.path, "HOME=/root", "LANG=C.UTF-8", "TERM=dumb", "DEBIAN_FRONTEND=noninteractive", "SYSTEMD_OFFLINE=1"}
	cmd.Stdout = io.MultiWriter(f.out, &last)
	cmd.Stderr = cmd.Stdout
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.WaitDelay = 5 * time.Second // what it has left in the background may hold the pipe
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("run %s: not done within %s", strings.Join(argv, " "), firstBootTime)
	case errors.Is(err, exec.ErrWaitDelay):
		return nil
	case err != nil:
		return fmt.Errorf("run %s: %w: %s", strings.Join(argv, " "), err, last.String())
	}
	return nil
}

// tail keeps the end of what is written to it.
type tail struct{ b []byte }

// tailSize is enough for the complaint of a package manager, and little for a
// message to the host.
const tailSize = 1 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	t.b = t.b[max(0, len(t.b)-tailSize):]
	return len(p), nil
}

// String is the last lines, in one.
func (t *tail) String() string {
	lines := strings.FieldsFunc(string(t.b), func(r rune) bool { return r == '\n' || r == '\r' })
	return strings.Join(lines[max(0, len(lines)-4):], "; ")
}

// look finds a program.
func (f *firstBoot) look(name string) string {
	for _, dir := range filepath.SplitList(f.path) {
		path := filepath.Join(dir, name)
		if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return path
		}
	}
	return ""
}

func (f *firstBoot) file(path string) string { return filepath.Join(f.root, path) }

func (f *firstBoot) say(format string, args ...any) {
	fmt.Fprintf(f.out, roleFirstBoot+": "+format+"\n", args...)
}

// show gives the program its name in the machine.
func (f *firstBoot) show() error {
	link := f.file(firstBootPath)
	if to, err := os.Readlink(link); err == nil && to == program {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		return err
	}
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink(program, link)
}
