package guest

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/internal/guest/sshd"
	"banger/internal/hello"
)

// runBuildInner carries an order out as the first process of its namespaces.
func runBuildInner() int {
	order, rest, err := readOrder(os.Stdin)
	if err != nil {
		return buildStatus(err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return buildStatus(fmt.Errorf("keep the mounts apart: %w", err))
	}
	r, err := openRoot(order)
	if err != nil {
		return buildStatus(fmt.Errorf("mount the layers: %w", err))
	}
	status := 0
	if order.Op == hello.BuildApply {
		if err = r.enter(); err == nil {
			err = applyLayer("/", rest)
		}
	} else {
		status, err = r.run(order)
	}
	if lerr := r.leave(); err == nil {
		err = lerr
	}
	if err != nil {
		return buildStatus(err)
	}
	return status
}

// buildRoot is the root of a layer while an order is carried out.
type buildRoot struct {
	outside *os.File // the machine's root
	dir     *os.File // the layer's
	layer   int
	made    []string // what had to be made to be mounted on, in the layer; the first one first
}

func openRoot(order hello.BuildOrder) (*buildRoot, error) {
	if err := mountLayers(order.Layer, true); err != nil {
		return nil, err
	}
	r := &buildRoot{layer: order.Layer}
	var err error
	if r.outside, err = os.OpenFile("/", unix.O_PATH|unix.O_DIRECTORY, 0); err == nil {
		r.dir, err = os.OpenFile(hello.BuildRoot, unix.O_PATH|unix.O_DIRECTORY, 0)
	}
	return r, err
}

// enter makes the layer's root the root of this process.
func (r *buildRoot) enter() error {
	if err := unix.Fchdir(int(r.dir.Fd())); err != nil {
		return err
	}
	return unix.Chroot(".")
}

// leave takes all mounts away, and what was made for them. The overlay has to
// be gone before its upper directory is a lower one of the next.
func (r *buildRoot) leave() error {
	if err := unix.Fchdir(int(r.outside.Fd())); err != nil {
		return err
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	r.dir.Close()
	for umountLast() == nil { // those that came along with /dev too
	}
	for i := len(r.made) - 1; i >= 0; i-- {
		// Not what a command has put something into, nor a symlink of its making.
		name := filepath.Join(hello.BuildRoot, r.made[i])
		if fi, err := os.Lstat(name); err == nil && (fi.IsDir() || fi.Mode().IsRegular() && fi.Size() == 0) {
			_ = os.Remove(name)
		}
	}
	if err := unix.Unmount(hello.BuildRoot, 0); err != nil {
		return fmt.Errorf("unmount the layers: %w", err)
	}
	return nil
}

// errNone says that nothing is mounted below the root any more.
var errNone = errors.New("no mount left")

// umountLast takes the last mount below the root away.
func umountLast() error {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	last := ""
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) > 4 && strings.HasPrefix(f[4], hello.BuildRoot+"/") {
			last = f[4]
		}
	}
	if last == "" {
		return errNone
	}
	return unix.Unmount(unescapeMount(last), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
}

// unescapeMount reads a path as mountinfo has it: proc(5).
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// run runs the order's command and gives its exit status.
func (r *buildRoot) run(order hello.BuildOrder) (int, error) {
	if err := r.mounts(order); err != nil {
		return 0, err
	}
	if err := r.enter(); err != nil {
		return 0, err
	}
	if err := os.MkdirAll(order.Dir, 0o755); err != nil {
		return 0, fmt.Errorf("use the working directory: %w", err)
	}
	name, env, cred, err := sshd.Resolve(order.Argv[0], order.Dir, order.User, order.Env)
	if err != nil {
		return 0, &buildFailure{err, sshd.StartStatus(err)}
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	p, err := os.StartProcess(name, order.Argv, &os.ProcAttr{Dir: order.Dir, Env: env,
		Files: []*os.File{null, os.Stdout, os.Stderr}, Sys: &syscall.SysProcAttr{Setsid: true, Credential: cred}})
	if err != nil {
		return 0, &buildFailure{fmt.Errorf("run %s: %w", name, err), 126}
	}
	return awaitCommand(p.Pid), nil
}

// awaitCommand reaps as a pid 1 has to, until the command has ended; then it
// ends all that the command has left behind.
func awaitCommand(pid int) (status int) {
	for {
		var ws syscall.WaitStatus
		got, err := syscall.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return status
		case got == pid:
			status = ws.ExitStatus()
			if ws.Signaled() {
				status = 128 + int(ws.Signal())
			}
			_ = syscall.Kill(-1, syscall.SIGKILL) // in this namespace
		}
	}
}

// mounts mounts what a command finds beside the layers.
func (r *buildRoot) mounts(order hello.BuildOrder) error {
	if err := r.mount("/proc", true, mountPoint{source: "proc", fstype: "proc", flags: noProgram}); err != nil {
		return err
	}
	for _, dir := range []string{"/sys", "/dev"} {
		if err := r.mount(dir, true, mountPoint{source: dir, flags: unix.MS_BIND | unix.MS_REC}); err != nil {
			return err
		}
	}
	for _, f := range netFiles {
		// A copy: what a command does to it goes with the command.
		copied := filepath.Join(layerDir(r.layer), path.Base(f))
		b, err := os.ReadFile(f)
		if err == nil {
			err = os.WriteFile(copied, b, 0o644)
		}
		if err == nil {
			err = r.mount(f, false, mountPoint{source: copied, flags: unix.MS_BIND})
		}
		if err != nil {
			return fmt.Errorf("show %s: %w", f, err)
		}
	}
	if len(order.Files) > 0 {
		if err := r.files(order); err != nil {
			return err
		}
	}
	for _, m := range order.Mounts {
		point := mountPoint{source: "tmpfs", fstype: "tmpfs", flags: noSetuid, data: "mode=1777"}
		if m.Size > 0 {
			point.data += fmt.Sprintf(",size=%d", m.Size)
		}
		if m.Cache != "" {
			dir, err := cacheDir(m)
			if err != nil {
				return err
			}
			point = mountPoint{source: dir, flags: unix.MS_BIND}
		}
		if err := r.mount(m.Target, true, point); err != nil {
			return fmt.Errorf("mount at %s: %w", m.Target, err)
		}
	}
	return nil
}

// files puts the order's files where the command looks for them, which is below
// /dev: the machine's own is left alone.
func (r *buildRoot) files(order hello.BuildOrder) error {
	dir := filepath.Join("/", order.FilesDir)
	if err := os.MkdirAll(dir, 0o755); err != nil { // in the devtmpfs that the root shows too
		return err
	}
	if err := r.mount(dir, true, mountPoint{source: "tmpfs", fstype: "tmpfs", flags: noSetuid, data: "mode=0755"}); err != nil {
		return err
	}
	for _, f := range order.Files {
		name := filepath.Join(hello.BuildRoot, dir, path.Base(f.Name))
		if err := os.WriteFile(name, []byte(f.Data), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// cacheDir is the directory of a cache.
func cacheDir(m hello.BuildMount) (string, error) {
	sum := sha256.Sum256([]byte(m.Cache))
	dir := filepath.Join(cachesDir, hex.EncodeToString(sum[:]))
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, os.ErrExist) {
		return dir, nil
	}
	if err == nil {
		err = errors.Join(os.Chown(dir, int(m.UID), int(m.GID)), unix.Chmod(dir, m.Mode&0o7777))
	}
	return dir, err
}

// mount mounts on a path as the root means it: no symlink in it leads out.
func (r *buildRoot) mount(target string, dir bool, m mountPoint) error {
	f, err := r.place(target, dir, 0)
	if err != nil {
		return fmt.Errorf("find %s: %w", target, err)
	}
	defer f.Close()
	if err := unix.Mount(m.source, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), m.fstype, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s at %s: %w", m.source, target, err)
	}
	return nil
}

// maxLinks bounds the symlinks on the way to a place.
const maxLinks = 16

// place opens what is to be mounted on, and makes it where it is not there. It
// mostly is: the stub has it.
func (r *buildRoot) place(target string, dir bool, links int) (*os.File, error) {
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(int(r.dir.Fd()), target, how)
	if err == nil {
		return os.NewFile(uintptr(fd), target), nil
	}
	if !errors.Is(err, unix.ENOENT) || links > maxLinks {
		return nil, err
	}
	parent, err := r.place(path.Dir(target), true, links+1)
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	base := path.Base(target)
	link := make([]byte, 4096)
	if n, err := unix.Readlinkat(int(parent.Fd()), base, link); err == nil { // one that leads nowhere
		to := string(link[:n])
		if !path.IsAbs(to) {
			to = path.Join(path.Dir(target), to)
		}
		return r.place(to, dir, links+1)
	}
	if dir {
		err = unix.Mkdirat(int(parent.Fd()), base, 0o755)
	} else if fd, err = unix.Openat(int(parent.Fd()), base, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644); err == nil {
		unix.Close(fd)
	}
	if err != nil {
		return nil, err
	}
	r.made = append(r.made, target)
	return r.place(target, dir, links+1)
}
