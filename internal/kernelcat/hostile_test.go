package kernelcat

import (
	"archive/tar"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"banger"
)

// modulesOf61 is a folder in the trees below.
const modulesOf61 = "lib/modules/6.1/"

// What an import refuses, and with what words.
func TestImportRefuses(t *testing.T) {
	kernel := entry{"boot/vmlinuz-6.1", 0, kernelOf("6.1")}
	metadata := func(text string) entry { return entry{"metadata.json", 0, text} }
	for _, tt := range []struct {
		name    string
		entries []entry
		kind    banger.Kind
		says    string // of the error and its hint
	}{
		{"empty", nil, banger.NotFound, "there is no kernel in"},
		{"only what lies beside kernels", []entry{{"boot/vmlinuz-6.1.old", 0, "x"}, {"boot/vmlinux-6.1.xz", 0, "x"}, {"boot/initrd.img-6.1", 0, "x"}}, banger.NotFound, "boot/vmlinuz-VERSION"},
		{"a kernel that is a folder", []entry{{"boot/vmlinuz-6.1", tar.TypeDir, ""}}, banger.NotFound, ""},
		{"a kernel that is a pipe", []entry{{"boot/vmlinuz-6.1", tar.TypeFifo, ""}}, banger.NotFound, ""},
		{"a kernel that is a link to nothing", []entry{{"boot/vmlinuz-6.1", tar.TypeSymlink, "gone"}}, banger.NotFound, ""},
		{"a kernel that is a link to itself", []entry{{"boot/vmlinuz-6.1", tar.TypeSymlink, "vmlinuz-6.1"}}, banger.Invalid, "more than 40 symlinks"},
		{"a kernel that is none", []entry{{"boot/vmlinuz-6.1", 0, "#!/bin/sh"}}, banger.Unsupported, "boot/vmlinuz-6.1"},
		{"a kernel that is empty", []entry{{"boot/vmlinuz-6.1", 0, ""}}, banger.Invalid, "boot/vmlinuz-6.1"},
		{"a kernel that was cut off", []entry{{"boot/vmlinuz-6.1", 0, kernelOf("6.1")[:2200]}}, banger.Invalid, "boot/vmlinuz-6.1"},
		{"a kernel outside", []entry{{"boot/vmlinuz-6.1", tar.TypeSymlink, "../../../evil"}}, banger.Invalid, "unsafe symlink"},
		{"a boot outside", []entry{{"boot", tar.TypeSymlink, "../.."}}, banger.Invalid, "unsafe symlink"},
		{"an absolute link is rooted here", []entry{{"boot/vmlinuz-6.1", tar.TypeSymlink, "/etc/passwd"}}, banger.NotFound, ""},
		{"an absolute link with dots", []entry{{"boot/vmlinuz-6.1", tar.TypeSymlink, "/../evil"}}, banger.Invalid, "unsafe symlink"},
		{"modules outside", []entry{kernel, {"lib/modules", tar.TypeSymlink, "../../evil"}}, banger.Invalid, "unsafe symlink"},
		{"a module outside", []entry{kernel, {modulesOf61 + "a.ko", tar.TypeSymlink, "../../../../evil"}}, banger.Invalid, "unsafe symlink"},
		{"a module in another folder", []entry{kernel, {modulesOf61 + "a.ko", tar.TypeSymlink, "../../../etc/passwd"}}, banger.Invalid, "unsafe symlink"},
		{"headers outside", []entry{kernel, {modulesOf61 + "build", tar.TypeSymlink, "../../../../usr/src"}}, banger.Invalid, "unsafe symlink"},
		{"headers below", []entry{kernel, {modulesOf61 + "a/build", tar.TypeSymlink, "../../../../usr/src"}}, banger.Invalid, "unsafe symlink"},
		{"a name with a control byte", []entry{kernel, {modulesOf61 + "a\x1b[2J.ko", 0, "x"}}, banger.Invalid, "it holds the path"},
		{"a name that is not UTF-8", []entry{kernel, {modulesOf61 + "a\xff.ko", 0, "x"}}, banger.Invalid, "it holds the path"},
		{"a link with a control byte", []entry{kernel, {modulesOf61 + "a.ko", tar.TypeSymlink, "/x\n"}}, banger.Invalid, "unsafe symlink"},
		{"a long path", []entry{kernel, {modulesOf61 + strings.Repeat("d/", 300) + "a.ko", 0, "x"}}, banger.Invalid, "it holds the path"},
		{"an initrd outside", []entry{kernel, {"boot/initrd.img-6.1", tar.TypeSymlink, "../../evil"}}, banger.Invalid, "unsafe symlink"},
		{"a configuration outside", []entry{kernel, {"boot/config-6.1", tar.TypeSymlink, "../../evil"}}, banger.Invalid, "unsafe symlink"},
		{"a configuration that is too large", []entry{kernel, {"boot/config-6.1", 0, strings.Repeat("#", maxConfig+1)}}, banger.Invalid, "larger than"},
		{"modules that are missing", []entry{kernel, {"boot/config-6.1", 0, needed("m")}, {"lib/modules/6.2/a.ko", 0, "x"}, {"boot/initrd.img-6.0", 0, "x"}}, banger.Invalid,
			"needs modules for virtio_mmio, virtio_blk, ext4, overlay, virtio_console, and there is no"},
		{"modules of another version", []entry{kernel, {"boot/config-6.1", 0, needed("m")}, {"lib/modules/6.2/a.ko", 0, "x"}}, banger.Invalid, "(there is 6.2)"},
		{"modules that were not installed", []entry{{"arch/x86/boot/bzImage", 0, kernelOf("6.1")}, {".config", 0, needed("m")}}, banger.Invalid, "modules_install INSTALL_MOD_PATH="},
		{"a folder without modules", []entry{kernel, {"boot/config-6.1", 0, needed("m")}, {modulesOf61 + "modules.builtin", 0, ""}}, banger.Invalid, "needs modules"},
		{"metadata that is none", []entry{kernel, metadata("{half")}, banger.Invalid, "metadata"},
		{"metadata that is too large", []entry{kernel, metadata(strings.Repeat(" ", maxMetadata+1))}, banger.Invalid, "larger than"},
		{"metadata for another kernel", []entry{kernel, metadata(`{"kernel_version": "6.2"}`)}, banger.Invalid, "its metadata says kernel 6.2"},
		{"metadata for another machine", []entry{kernel, metadata(`{"arch": "s390x"}`)}, banger.Invalid, `its metadata says "s390x"`},
		{"metadata that leads out", []entry{kernel, metadata(`{"vmlinux": "../evil"}`)}, banger.Invalid, "../evil"},
		{"metadata that is absolute", []entry{kernel, metadata(`{"vmlinux": "/etc/passwd"}`)}, banger.Invalid, "/etc/passwd"},
		{"metadata that leads out by a link", []entry{kernel, {"k", tar.TypeSymlink, "../evil"}, metadata(`{"vmlinux": "k"}`)}, banger.Invalid, "unsafe symlink"},
		{"metadata that names nothing", []entry{kernel, metadata(`{"vmlinux": "none"}`)}, banger.NotFound, "no such file"},
		{"metadata that names no folder", []entry{kernel, metadata(`{"modules": "boot/vmlinuz-6.1"}`)}, banger.NotFound, "no such folder"},
		{"metadata that names no initrd", []entry{kernel, metadata(`{"initrd": "boot"}`)}, banger.NotFound, "no such file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			base := t.TempDir()
			plant(t, base, entry{"evil", 0, kernelOf("6.1")})
			dir := filepath.Join(base, "dir")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			plant(t, dir, tt.entries...)
			before := snapshot(t, base)
			_, _, err := importing(t, directory(t, dir), Options{})
			if e := banger.AsError(err); err == nil || e.Kind != tt.kind || !strings.Contains(e.Msg+e.Hint, tt.says) {
				t.Errorf("%v, want kind %q and %q", err, tt.kind, tt.says)
			}
			if snapshot(t, base) != before {
				t.Error("the source changed")
			}
		})
	}
}

// What an import leaves out, and what it keeps.
func TestImportTakes(t *testing.T) {
	dir := t.TempDir()
	plant(t, dir,
		entry{"boot/vmlinuz-6.1", 0, kernelOf("6.1")},
		entry{modulesOf61 + "kernel/b.ko", 0, "module"},
		entry{modulesOf61 + "kernel/a.ko", tar.TypeLink, modulesOf61 + "kernel/b.ko"},
		entry{modulesOf61 + "kernel/c.ko", tar.TypeSymlink, "../kernel/b.ko"},
		entry{modulesOf61 + "kernel/d.ko", tar.TypeSymlink, "/etc/alternatives/d"},
		entry{modulesOf61 + "kernel/pipe", tar.TypeFifo, ""},
		entry{modulesOf61 + "empty", tar.TypeDir, ""},
	)
	if err := os.Chmod(filepath.Join(dir, modulesOf61, "kernel/b.ko"), 0o4755); err != nil {
		t.Fatal(err)
	}
	k, out, err := importing(t, directory(t, dir), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if files := tree(t, out); files != "modules/kernel/a.ko modules/kernel/b.ko modules/kernel/c.ko modules/kernel/d.ko vmlinux" {
		t.Errorf("files: %s", files)
	}
	a, err := os.Stat(filepath.Join(out, "modules/kernel/a.ko"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.Stat(filepath.Join(out, "modules/kernel/b.ko"))
	if err != nil || !os.SameFile(a, b) || a.Mode() != 0o444 {
		t.Errorf("%v and %v are not one file, %v", a, b, err)
	}
	if target, _ := os.Readlink(filepath.Join(out, "modules/kernel/d.ko")); target != "/etc/alternatives/d" {
		t.Errorf("d.ko leads to %s", target)
	}
	fi, err := os.Stat(filepath.Join(out, "vmlinux"))
	if err != nil || k.Size != fi.Size()+6 {
		t.Errorf("size is %d: %v", k.Size, err)
	}
	source, err := os.Stat(filepath.Join(dir, modulesOf61, "kernel/b.ko"))
	if err != nil || os.SameFile(source, b) {
		t.Errorf("the copy is the original: %v", err)
	}
}

// A file that is larger than all of a kernel may be is not copied, hole or not.
func TestImportBounds(t *testing.T) {
	for name, size := range map[string]int64{modulesOf61 + "a.ko": maxUnpacked + 1, "boot/vmlinuz-6.1": maxVmlinuz + 1, "boot/initrd.img-6.1": maxInitrd + 1} {
		dir := t.TempDir()
		plant(t, dir, entry{"boot/vmlinuz-6.1", 0, kernelOf("6.1")}, entry{"lib/", tar.TypeDir, ""})
		if !strings.HasPrefix(name, "boot/vmlinuz") {
			plant(t, dir, entry{name, 0, ""})
		}
		if err := os.Truncate(filepath.Join(dir, name), size); err != nil {
			t.Fatal(err)
		}
		if _, _, err := importing(t, directory(t, dir), Options{}); !banger.IsKind(err, banger.Invalid) {
			t.Errorf("%s of %d bytes: %v", name, size, err)
		}
	}
	b, _ := tempBundle(t)
	b.entries = maxEntries
	dir := t.TempDir()
	plant(t, dir, entry{"m/a.ko", 0, "x"})
	d, err := openFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.root.Close()
	c := &copying{filling: &filling{bundle: b, options: &Options{}}, folder: d}
	if err := c.addModules(t.Context(), "m", ""); !banger.IsKind(err, banger.Invalid) || !strings.Contains(err.Error(), "more than") {
		t.Errorf("too many files: %v", err)
	}
}

// Whoever changes the folder meanwhile gets an error, not a mix of two kernels.
func TestImportOfWhatChanges(t *testing.T) {
	for name, change := range map[string]func(dir string) error{
		"kernel replaced": func(dir string) error {
			if err := os.WriteFile(dir+"/boot/new", []byte(kernelOf("6.1")), 0o644); err != nil {
				return err
			}
			return os.Rename(dir+"/boot/new", dir+"/boot/vmlinuz-6.1")
		},
		"kernel written to": func(dir string) error { return os.WriteFile(dir+"/boot/vmlinuz-6.1", []byte("short"), 0o644) },
		"kernel removed":    func(dir string) error { return os.Remove(dir + "/boot/vmlinuz-6.1") },
		"module appended to": func(dir string) error {
			f, err := os.OpenFile(dir+"/"+modulesOf61+"a.ko", os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteString("x")
			return errors.Join(err, f.Close())
		},
		"module added":    func(dir string) error { return os.WriteFile(dir+"/"+modulesOf61+"b.ko", nil, 0o644) },
		"modules removed": func(dir string) error { return os.RemoveAll(dir + "/" + modulesOf61) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			plant(t, dir, entry{"boot/vmlinuz-6.1", 0, kernelOf("6.1")}, entry{modulesOf61 + "a.ko", 0, "x"}, entry{modulesOf61 + "z.ko", 0, "z"})
			changed := false
			_, _, err := importing(t, directory(t, dir), Options{Progress: func(p banger.Progress) {
				if p.Step == "copy modules" && !changed { // with the first module under way
					changed = true
					if err := change(dir); err != nil {
						t.Error(err)
					}
				}
			}})
			if !changed || !banger.IsKind(err, banger.Conflict) || !strings.Contains(err.Error(), "changed while it was copied") {
				t.Errorf("changed %t, got %v", changed, err)
			}
		})
	}
}

func TestImportCanceled(t *testing.T) {
	gone := errors.New("nobody waits")
	for _, step := range []string{"take", "copy"} {
		dir := t.TempDir()
		plant(t, dir, entry{"boot/vmlinuz-6.1", 0, kernelOf("6.1")}, entry{modulesOf61 + "a.ko", 0, "x"})
		out := t.TempDir()
		ctx, cancel := context.WithCancelCause(t.Context())
		_, err := Pull(ctx, out, Want{Name: "k"}, []Source{directory(t, dir)}, Options{TempDir: t.TempDir(), Progress: func(p banger.Progress) {
			if strings.HasPrefix(p.Step, step) {
				cancel(gone)
			}
		}})
		if !banger.IsKind(err, banger.Canceled) || tree(t, out) != "" {
			t.Errorf("%s: %v, left %q", step, err, tree(t, out))
		}
	}
}

// TestImportOfOthersFiles reads as a user who may not. Root is made one for
// as long as it takes, in the only thread that this test runs in.
func TestImportOfOthersFiles(t *testing.T) {
	for _, name := range []string{"boot/vmlinuz-6.1", "boot", modulesOf61 + "a.ko", "lib/modules/6.1", "boot/config-6.1"} {
		dir, out, tmp := t.TempDir(), t.TempDir(), t.TempDir()
		plant(t, dir, entry{"boot/vmlinuz-6.1", 0, kernelOf("6.1")}, entry{"boot/config-6.1", 0, needed("m")}, entry{modulesOf61 + "a.ko", 0, "x"})
		for p := out; ; p = filepath.Dir(p) { // the way there, which the test's own folder may bar
			if err := os.Chmod(p, 0o777|os.ModeSticky); err != nil || p == filepath.Dir(out) {
				break
			}
		}
		if err := errors.Join(chmodAll(dir), os.Chmod(tmp, 0o777), os.Chmod(filepath.Join(dir, name), 0)); err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() {
			runtime.LockOSThread() // never unlocked: the thread ends with its user
			if os.Getuid() == 0 {
				if err := unix.Setfsuid(65534); err != nil {
					done <- err
					return
				}
			}
			_, err := Pull(t.Context(), out, Want{Name: "k"}, []Source{directory(t, dir)}, Options{TempDir: tmp})
			done <- err
		}()
		err := <-done
		if e := banger.AsError(err); err == nil || e.Kind != banger.Unavailable || e.Hint != "sudo chmod a+rX "+filepath.Join(dir, name) {
			t.Errorf("%s: %v, hint %q", name, err, banger.AsError(err))
		}
		if err := os.Chmod(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func chmodAll(dir string) error {
	return filepath.WalkDir(dir, func(p string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Chmod(p, 0o755))
	})
}

func TestDirectoryOfNothing(t *testing.T) {
	base := t.TempDir()
	plant(t, base, entry{"file", 0, "x"})
	for dir, kind := range map[string]banger.Kind{base + "/none": banger.NotFound, base + "/file": banger.Invalid, base + "/file/x": banger.NotFound} {
		if _, _, err := importing(t, directory(t, dir), Options{}); !banger.IsKind(err, kind) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v", dir, err)
		}
	}
	for _, dir := range []string{"", "relative", "./x", "/a\x00b", "/a\nb"} {
		if _, err := Directory(dir); !banger.IsKind(err, banger.Invalid) {
			t.Errorf("%q: %v", dir, err)
		}
	}
}
