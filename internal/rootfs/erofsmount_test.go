package rootfs

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// compareMounted compares what Linux shows of an EROFS image with the files of
// the ext4 one. Where this user or this host cannot mount it, what fsck.erofs
// unpacks is compared, which tells of types, contents and targets alone.
func compareMounted(t *testing.T, path string, want map[string]*file) {
	t.Helper()
	dir := t.TempDir()
	type result struct {
		files map[string]*file
		err   error
	}
	done := make(chan result)
	go func() {
		// Nobody else sees the mount, and it ends with the thread, which ends
		// with the goroutine, because that does not unlock it.
		runtime.LockOSThread()
		var r result
		if r.err = mountAlone(path, dir); r.err == nil {
			r.files, r.err = hostFiles(dir, false)
			// A program that another test starts has, for a moment, the files
			// that are open here, which would keep the mount busy.
			if e := unix.Unmount(dir, unix.MNT_DETACH); r.err == nil && e != nil {
				r.err = e
			}
		} else {
			r.err = &mountError{r.err}
		}
		done <- r
	}()
	r := <-done
	if r.err == nil {
		compareFiles(t, r.files, want)
		return
	}
	if _, ok := r.err.(*mountError); !ok {
		t.Fatal(r.err)
	}
	t.Logf("compare what fsck.erofs unpacks: %v", r.err)
	compareUnpacked(t, path, want)
}

type mountError struct{ error }

func mountAlone(path, dir string) error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	out, err := exec.Command("mount", "-t", "erofs", "-o", "ro,loop", path, dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mount: %w: %s", err, out)
	}
	return nil
}

// hostFiles reads a tree of this host, what its owner may not read too if open
// is set, which gives all files other modes.
func hostFiles(dir string, open bool) (map[string]*file, error) {
	all := map[string]*file{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		if open && (info.IsDir() || info.Mode().IsRegular()) {
			if err := os.Chmod(path, 0o700); err != nil {
				return err
			}
		}
		st := info.Sys().(*syscall.Stat_t)
		f := &file{number: uint32(st.Ino), mode: st.Mode, uid: st.Uid, gid: st.Gid, links: uint32(st.Nlink),
			size: st.Size, mtime: time.Unix(st.Mtim.Sec, st.Mtim.Nsec), xattrs: map[string]string{}}
		switch st.Mode & typeMask {
		case typeRegular:
			f.data, err = os.ReadFile(path)
		case typeSymlink:
			var target string
			target, err = os.Readlink(path)
			f.data = []byte(target)
		case typeChar, typeBlock:
			f.major, f.minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
		}
		if err != nil {
			return err
		}
		records, err := xattrsOf(path)
		if err != nil {
			return err
		}
		for name, value := range records {
			x, ok := newXattr(strings.TrimPrefix(name, paxXattr))
			if ok {
				f.xattrs[fmt.Sprintf("%d:%s", x.index, x.name)] = value
			}
		}
		rel, err := filepath.Rel(dir, path)
		all[rel] = f
		return err
	})
	return all, err
}

func compareUnpacked(t *testing.T, path string, want map[string]*file) {
	t.Helper()
	dir := t.TempDir() + "/tree"
	fsckErofs(t, path, "--extract="+dir)
	got, err := hostFiles(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	// fsck.erofs 1.5 leaves out the holes of a file, and only root makes devices.
	for name, w := range want {
		g, kind := got[name], w.mode&typeMask
		device := kind == typeChar || kind == typeBlock
		switch {
		case g == nil && device && os.Geteuid() != 0:
		case g == nil || g.mode&typeMask != kind:
			t.Errorf("%q has another type than in ext4, or is missing", name)
		case kind == typeRegular || kind == typeSymlink:
			if !bytes.Equal(withoutHoles(g.data), withoutHoles(w.data)) {
				t.Errorf("%q is not what it is in ext4", name)
			}
		}
	}
	for name := range got {
		if want[name] == nil {
			t.Errorf("%q is not in ext4", name)
		}
	}
}

// withoutHoles leaves out what a writer makes holes of.
func withoutHoles(data []byte) (rest []byte) {
	for piece := range slices.Chunk(data, unit) {
		if !bytes.Equal(piece, zeroUnit[:len(piece)]) {
			rest = append(rest, piece...)
		}
	}
	return rest
}
