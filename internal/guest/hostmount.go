package guest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"banger/internal/hello"
)

// hostSource is what a folder of the host is called in the table of mounts.
const hostSource = "banger-host"

// mountOptions, behind those of the transport. A folder of the host changes
// under the guest's hands, so nothing of it is kept but the pages of what is
// mapped, which cache=mmap makes possible: that is what linkers and git do.
// Messages are as long as kernels ask for by themselves. noxattr is of 6.4;
// older kernels skip it, and ask the server, which has none.
const mountOptions = "version=9p2000.L,msize=131072,cache=mmap,access=client,noxattr"

// hostMounts mounts folders of the host, and tells when wanted of them are done.
type hostMounts struct {
	wanted int32
	done   atomic.Int32
	ready  func() error // called once, before the host hears of the last one
}

// mount is sshd.Server.Mount.
func (h *hostMounts) mount(m hello.Mount, stream net.Conn) (over <-chan struct{}, err error) {
	if over, err = mountHost(m, stream); err != nil {
		return nil, err
	}
	if h.done.Add(1) == h.wanted {
		err = h.ready()
	}
	return over, err
}

// mountHost mounts the folder that the other end of the stream serves. The
// kernel wants a descriptor of its own: one end of a pair of sockets, of which
// the other one is copied to and from the stream.
func mountHost(m hello.Mount, stream net.Conn) (<-chan struct{}, error) {
	fail := func(err error) (<-chan struct{}, error) {
		_ = stream.Close()
		return nil, fmt.Errorf("mount at %s: %w", m.Target, err)
	}
	if !filepath.IsAbs(m.Target) {
		return fail(errors.New("want an absolute path"))
	}
	m.Target = resolved(m.Target)
	if err := leaveStale(m.Target); err != nil {
		return fail(err)
	}
	if err := os.MkdirAll(m.Target, 0o755); err != nil {
		return fail(err)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fail(err)
	}
	defer unix.Close(fds[0]) // the mount holds it
	ours := os.NewFile(uintptr(fds[1]), "9p")
	end, err := net.FileConn(ours)
	_ = ours.Close()
	if err != nil {
		return fail(err)
	}
	over := carry(end, stream)
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV)
	if m.ReadOnly {
		flags |= unix.MS_RDONLY
	}
	options := fmt.Sprintf("trans=fd,rfdno=%d,wfdno=%d,%s", fds[0], fds[0], mountOptions)
	if err := unix.Mount(hostSource, m.Target, "9p", flags, options); err != nil {
		_ = end.Close()
		<-over
		if errors.Is(err, unix.ENODEV) {
			err = errors.New("the kernel has no 9p")
		}
		return fail(err)
	}
	return over, nil
}

// carry copies both ways until one of them ends, and closes both then.
func carry(a, b net.Conn) <-chan struct{} {
	over := make(chan struct{})
	var ways sync.WaitGroup
	for _, w := range [][2]net.Conn{{a, b}, {b, a}} {
		ways.Go(func() {
			_, _ = io.CopyBuffer(struct{ io.Writer }{w[0]}, struct{ io.Reader }{w[1]}, make([]byte, hello.MaxFrame))
			_ = a.Close()
			_ = b.Close()
		})
	}
	go func() {
		ways.Wait()
		close(over)
	}()
	return over
}

// resolved is a path as the table of mounts has it. Of a folder that nobody
// serves any more nothing can be asked, only of the one that it is in.
func resolved(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	dir, name := filepath.Split(filepath.Clean(path))
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		return filepath.Join(real, name)
	}
	return path
}

// leaveStale takes a mount away whose agent has died: it answers nobody any more.
func leaveStale(target string) error {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer f.Close()
	stale, err := isHostMount(f, target)
	if err != nil || !stale {
		return err
	}
	return unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
}

// isHostMount reports whether what was last mounted at target is a folder of the
// host. The format is that of proc(5), /proc/PID/mountinfo.
func isHostMount(mountinfo io.Reader, target string) (is bool, err error) {
	lines := bufio.NewScanner(mountinfo)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		dash := slices.Index(words, "-")
		if dash < 5 || len(words) < dash+3 || unescapeMount(words[4]) != target {
			continue
		}
		is = words[dash+1] == "9p" && words[dash+2] == hostSource
	}
	return is, lines.Err()
}
