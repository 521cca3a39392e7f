package guest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/internal/hello"
)

// The places of a build. The disks are mounted a second time: the machine's own
// root is an overlay over them too, and what it changes has no place in a layer.
const (
	buildDir   = "/run/banger/build"
	buildImage = buildDir + "/image"
	buildOwn   = buildDir + "/own"
	// buildCaches is the disk of the caches, of builds that have any.
	buildCaches = buildDir + "/caches"
)

// roleBuildInner is the name by which this program is started as the first
// process in the namespaces of one order.
const roleBuildInner = "banger-build-inner"

// buildFailure is an error with the exit status for it.
type buildFailure struct {
	error
	status int
}

// runBuild carries one order out, and gives the exit status.
func runBuild(in *os.File, stdout io.Writer) int {
	order, rest, err := readOrder(in)
	if err == nil {
		err = prepareBuild()
	}
	if err == nil && order.Caches != "" {
		err = prepareCaches(order.Caches)
	}
	if err == nil {
		switch order.Op {
		case hello.BuildRun, hello.BuildApply:
			return buildInner(order, rest)
		case hello.BuildFreeze:
			err = freeze(rest, stdout)
		case hello.BuildShow:
			err = showLayers(order.Layer)
		default:
			err = fmt.Errorf("no operation %q", order.Op)
		}
	}
	return buildStatus(err)
}

// buildStatus tells on stderr what went wrong.
func buildStatus(err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintf(os.Stderr, "banger: %v\n", err)
	var f *buildFailure
	if errors.As(err, &f) {
		return f.status
	}
	return hello.BuildFault
}

// readOrder reads the line that an order is. What follows it is still to be read.
func readOrder(in io.Reader) (order hello.BuildOrder, rest *bufio.Reader, err error) {
	rest = bufio.NewReaderSize(in, 64<<10)
	var line []byte
	for {
		part, err := rest.ReadSlice('\n')
		line = append(line, part...)
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) || len(line) > hello.MaxBuildOrder {
			return order, nil, fmt.Errorf("read the order: %w", err)
		}
	}
	err = json.Unmarshal(line, &order)
	if err == nil && order.Layer < 0 {
		err = fmt.Errorf("layer %d", order.Layer)
	}
	if err != nil {
		err = fmt.Errorf("read the order: %w", err)
	}
	return order, rest, err
}

// prepareBuild mounts the disks, unless an order before has.
func prepareBuild() error {
	var st unix.Stat_t
	if err := unix.Stat(buildOwn+"/banger-build", &st); err == nil {
		return nil
	}
	fstype, data, err := imageType(imageDisk)
	if err == nil {
		err = mountAll([]mountPoint{
			{dir: buildImage, source: imageDisk, fstype: fstype, flags: unix.MS_RDONLY, data: data},
			{dir: buildOwn, source: ownDisk, fstype: "ext4", flags: unix.MS_NOATIME},
		})
	}
	if err == nil {
		err = errors.Join(ensureDir(hello.BuildRoot), os.Mkdir(buildOwn+"/banger-build", 0o700))
	}
	if err != nil {
		return fmt.Errorf("prepare the build: %w", err)
	}
	return nil
}

// cachesDir has a directory for each cache.
const cachesDir = buildCaches + "/banger-caches"

// prepareCaches mounts the disk of the caches, unless an order before has. What
// is removed from it is room for the host again.
func prepareCaches(device string) error {
	if _, err := os.Stat(cachesDir); err == nil {
		return nil
	}
	err := awaitDisks(device)
	if err == nil {
		err = mountAll([]mountPoint{{dir: buildCaches, source: device, fstype: "ext4", flags: unix.MS_NOATIME, data: "discard"}})
	}
	if err == nil {
		err = os.MkdirAll(cachesDir, 0o700)
	}
	if err != nil {
		return fmt.Errorf("mount the caches: %w", err)
	}
	return nil
}

// syncCaches writes what the caches have to their disk, if it is mounted.
func syncCaches() error {
	f, err := os.Open(cachesDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("write the caches: %w", err)
	}
	return nil
}

// layerDir is the directory of a layer.
func layerDir(layer int) string {
	return filepath.Join(buildOwn, "banger-build", strconv.Itoa(layer))
}

func upperDir(layer int) string { return filepath.Join(buildOwn, hello.BuildUpper(layer)) }

// buildInner runs the rest of an order in namespaces of its own: when its first
// process ends, so do all others, and all mounts are gone.
func buildInner(order hello.BuildOrder, rest *bufio.Reader) int {
	if err := newLayer(order); err != nil {
		return buildStatus(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return buildStatus(err)
	}
	defer w.Close()
	flags := uintptr(unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC)
	if order.NoNetwork {
		flags |= unix.CLONE_NEWNET
	}
	p, err := os.StartProcess(itself, []string{roleBuildInner}, &os.ProcAttr{
		Files: []*os.File{r, os.Stdout, os.Stderr}, Dir: "/", Env: os.Environ(),
		Sys: &syscall.SysProcAttr{Cloneflags: flags},
	})
	r.Close()
	if err != nil {
		return buildStatus(fmt.Errorf("make the namespaces of the build: %w", err))
	}
	if err = json.NewEncoder(w).Encode(order); err == nil && order.Op == hello.BuildApply {
		_, err = rest.WriteTo(w)
	}
	w.Close()
	state, werr := p.Wait()
	if err = errors.Join(werr, err); werr != nil {
		return buildStatus(err)
	}
	ws := state.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}

// newLayer makes the directories of a layer. Those of one that failed go first.
func newLayer(order hello.BuildOrder) error {
	dir := layerDir(order.Layer)
	err := os.RemoveAll(dir)
	for _, d := range []string{dir, dir + "/upper", dir + "/work", dir + "/stub"} {
		if err == nil {
			err = os.Mkdir(d, 0o755)
		}
	}
	if err == nil {
		err = likeBelow(order.Layer)
	}
	if err == nil {
		err = makeStub(dir+"/stub", order.Mounts)
	}
	if err != nil {
		return fmt.Errorf("prepare layer %d: %w", order.Layer, err)
	}
	return nil
}

// likeBelow gives the root of a layer the attributes that it has below: the
// upper directory of an overlay has the word about them.
func likeBelow(layer int) error {
	below := buildImage
	if layer > 1 {
		below = upperDir(layer - 1)
	}
	var st unix.Stat_t
	if err := unix.Stat(below, &st); err != nil {
		return err
	}
	upper := upperDir(layer)
	if err := copyXattrs(below, upper); err != nil {
		return err
	}
	if err := errors.Join(os.Lchown(upper, int(st.Uid), int(st.Gid)), unix.Chmod(upper, st.Mode&0o7777)); err != nil {
		return err
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, upper, []unix.Timespec{st.Mtim, st.Mtim}, 0)
}

func copyXattrs(from, to string) error {
	names := make([]byte, 64<<10)
	n, err := unix.Llistxattr(from, names)
	if err != nil {
		return err
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		if name == "" || strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		value := make([]byte, 64<<10)
		k, err := unix.Lgetxattr(from, name, value)
		if err != nil {
			return err
		}
		if err := unix.Lsetxattr(to, name, value[:k], 0); err != nil {
			return err
		}
	}
	return nil
}

// makeStub makes the lowest directory of the overlay: what is mounted on has to
// be there, and this way it is not in the layer. All that the image has hides it.
func makeStub(stub string, mounts []hello.BuildMount) error {
	dirs := []string{"proc", "sys", "dev", "etc"}
	for _, m := range mounts {
		dirs = append(dirs, filepath.Join("/", m.Target))
	}
	for _, d := range dirs {
		if err := os.MkdirAll(filepath.Join(stub, d), 0o755); err != nil {
			return err
		}
	}
	for _, f := range netFiles {
		if err := os.WriteFile(filepath.Join(stub, f), nil, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// netFiles are what a command needs of the machine's own root.
var netFiles = []string{"/etc/resolv.conf", "/etc/hosts"}

// mountLayers mounts the overlay of a layer over all below it at BuildRoot. The
// directories are relative to the machine's disk, for the kernel takes no more
// than a page of options.
func mountLayers(layer int, volatile bool) error {
	if err := os.Chdir(filepath.Join(buildOwn, "banger-build")); err != nil {
		return err
	}
	defer os.Chdir("/")
	var lower []string
	for n := layer - 1; n > 0; n-- {
		lower = append(lower, strconv.Itoa(n)+"/upper")
	}
	me := strconv.Itoa(layer)
	lower = append(lower, buildImage, me+"/stub")
	data := "lowerdir=" + strings.Join(lower, ":") + ",upperdir=" + me + "/upper,workdir=" + me + "/work"
	// Off: a layer has no words for what they leave in an upper directory.
	data += ",redirect_dir=off,metacopy=off,index=off,xino=auto"
	if volatile {
		// A layer is whole when the disk is written, not when a program asks for it.
		err := unix.Mount("overlay", hello.BuildRoot, "overlay", 0, data+",volatile")
		if !errors.Is(err, unix.EINVAL) {
			return err
		}
	}
	return unix.Mount("overlay", hello.BuildRoot, "overlay", 0, data)
}

// freeze holds the file system of the machine's disk: it is whole and clean then.
func freeze(until io.Reader, say io.Writer) error {
	if err := syncCaches(); err != nil {
		return err
	}
	f, err := os.Open(buildOwn)
	if err != nil {
		return err
	}
	defer f.Close()
	fd := int(f.Fd())
	if err := unix.Syncfs(fd); err != nil {
		return fmt.Errorf("write the disk: %w", err)
	}
	const fiFreeze, fiThaw = 0xC0045877, 0xC0045878 // FIFREEZE and FITHAW of linux/fs.h
	if err := unix.IoctlSetInt(fd, fiFreeze, 0); err != nil {
		return fmt.Errorf("freeze the disk: %w", err)
	}
	_, err = io.WriteString(say, hello.BuildFrozen+"\n")
	if err == nil {
		_, err = io.Copy(io.Discard, until)
	}
	if terr := unix.IoctlSetInt(fd, fiThaw, 0); terr != nil {
		return fmt.Errorf("thaw the disk: %w", terr)
	}
	return err
}

// showLayers mounts a layer for somebody to look at.
func showLayers(layer int) error {
	_ = os.RemoveAll(layerDir(layer) + "/work/work/incompat") // left by a volatile mount
	if err := mountLayers(layer, false); err != nil {
		return fmt.Errorf("show the layers: %w", err)
	}
	for _, dir := range []string{"/proc", "/sys", "/dev"} {
		if err := unix.Mount(dir, hello.BuildRoot+dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("show the layers: %w", err)
		}
	}
	return nil
}
