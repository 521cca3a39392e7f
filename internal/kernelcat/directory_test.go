package kernelcat

import (
	"archive/tar"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"banger"
)

// payload is what all images of these tests hold.
var payload = sync.OnceValue(func() []byte { return packGzip(vmlinuxELF(elf.EM_X86_64, true, 2000)) })

// kernelOf is a bzImage that says which version it is.
func kernelOf(version string) string {
	return string(withVersion(bzImage(payload()), version+" (you@there) #1 SMP"))
}

// plant makes files below dir: names that end in / are folders, bodies of
// links are their targets.
func plant(t *testing.T, dir string, entries ...entry) {
	t.Helper()
	for _, e := range entries {
		p := filepath.Join(dir, e.name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch e.kind {
		case 0:
			err = os.WriteFile(p, []byte(e.body), 0o640)
		case tar.TypeDir:
			err = os.Mkdir(p, 0o750)
		case tar.TypeSymlink:
			err = os.Symlink(e.body, p)
		case tar.TypeLink:
			err = os.Link(filepath.Join(dir, e.body), p)
		case tar.TypeFifo:
			err = syscall.Mkfifo(p, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// moduleSet are modules of a version, with what banger needs, below
// root/lib/modules. Their names say how they are packed; here nobody looks.
func moduleSet(root, version, packing string) []entry {
	var all []entry
	for name, b := range debianModules() {
		if strings.HasSuffix(name, ".ko") {
			name += packing
		}
		all = append(all, entry{root + "lib/modules/" + version + "/" + name, 0, string(b)})
	}
	return all
}

// needed is a configuration whose drivers are all as told.
func needed(how string) string {
	var b strings.Builder
	for _, f := range features {
		fmt.Fprintf(&b, "%s=%s\n", f.config, how)
	}
	return b.String()
}

// snapshot is everything about a tree that an import must leave as it is.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		fmt.Fprintln(&b, p, fi.Mode(), fi.Size(), fi.ModTime().UnixNano())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// importing imports a folder into a new one and checks what holds of every
// import: the source is as before, a failure leaves nothing.
func importing(t *testing.T, s Source, o Options) (k Entry, out string, err error) {
	t.Helper()
	base := t.TempDir()
	out, o.TempDir = filepath.Join(base, "out"), filepath.Join(base, "tmp")
	for _, d := range []string{out, o.TempDir} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	k, err = Pull(t.Context(), out, Want{Name: "k"}, []Source{s}, o)
	if files := tree(t, o.TempDir); files != "" {
		t.Errorf("working files left: %s", files)
	}
	if left, _ := os.ReadDir(out); err != nil && len(left) > 0 {
		t.Errorf("left after %v: %s", err, tree(t, out))
	}
	return k, out, err
}

func directory(t *testing.T, dir string) Source {
	t.Helper()
	s, err := Directory(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var layouts = []struct {
	name    string
	entries []entry
	version string
	has     string // some of the files, or with a minus what must not be there
	overlay string // how the kernel has it
}{
	{"Debian 12", append(moduleSet("", "6.1.0-56-amd64", ""),
		entry{"boot/vmlinuz-6.1.0-56-amd64", 0, kernelOf("6.1.0-56-amd64")},
		entry{"boot/config-6.1.0-56-amd64", 0, needed("m")},
		entry{"boot/initrd.img-6.1.0-56-amd64", 0, "initrd"},
		entry{"boot/System.map-6.1.0-56-amd64", 0, "ffff"},
		entry{"vmlinuz", tar.TypeSymlink, "boot/vmlinuz-6.1.0-56-amd64"},
		entry{"lib/modules/6.1.0-56-amd64/build", tar.TypeSymlink, "/usr/src/linux-headers-6.1.0-56-amd64"},
		entry{"usr/lib/modules/", tar.TypeDir, ""},
	), "6.1.0-56-amd64", "modules/build modules/kernel/fs/overlayfs/overlay.ko modules/modules.builtin -initrd.img -config", "module"},
	{"Debian 13, with headers", append(moduleSet("usr/", "6.12.117+deb13-amd64", ".xz"),
		entry{"lib", tar.TypeSymlink, "usr/lib"},
		entry{"boot/vmlinuz-6.12.117+deb13-amd64", 0, kernelOf("6.12.117+deb13-amd64")},
		entry{"usr/lib/modules/6.12.117+deb13-amd64/build", tar.TypeSymlink, "../../../src/linux-headers-6.12.117"},
		entry{"usr/lib/modules/6.12.117+deb13-amd64/source", tar.TypeSymlink, "../../../src/linux-headers-6.12.117-common"},
	), "6.12.117+deb13-amd64", "modules/build modules/source modules/kernel/fs/overlayfs/overlay.ko.xz", "module"},
	{"Ubuntu with two kernels and one put aside", append(append(moduleSet("usr/", "6.8.0-9-generic", ".zst"), moduleSet("usr/", "6.8.0-45-generic", ".zst")...),
		entry{"lib", tar.TypeSymlink, "/usr/lib"},
		entry{"boot/vmlinuz-6.8.0-9-generic", 0, kernelOf("6.8.0-9-generic")},
		entry{"boot/vmlinuz-6.8.0-45-generic", 0, kernelOf("6.8.0-45-generic")},
		entry{"boot/vmlinuz-6.8.0-99-generic.old", 0, kernelOf("6.8.0-99-generic")},
		entry{"boot/vmlinuz", tar.TypeSymlink, "vmlinuz-6.8.0-45-generic"},
		entry{"boot/vmlinuz.old", tar.TypeSymlink, "vmlinuz-6.8.0-9-generic"},
	), "6.8.0-45-generic", "modules/kernel/fs/overlayfs/overlay.ko.zst", "module"},
	{"Fedora", append(moduleSet("usr/", "6.11.4-301.fc41.x86_64", ".xz"),
		entry{"lib", tar.TypeSymlink, "usr/lib"},
		entry{"usr/lib/modules/6.11.4-301.fc41.x86_64/vmlinuz", 0, kernelOf("6.11.4-301.fc41.x86_64")},
		entry{"usr/lib/modules/6.11.4-301.fc41.x86_64/config", 0, needed("m")},
		entry{"usr/lib/modules/6.11.4-301.fc41.x86_64/symvers.xz", 0, "x"},
		entry{"boot/loader/entries/x.conf", 0, "title Fedora"},
		entry{"boot/vmlinuz-6.11.4-301.fc41.x86_64", 0, kernelOf("6.11.4-301.fc41.x86_64")},
		entry{"etc/os-release", tar.TypeSymlink, "../usr/lib/os-release"},
		entry{"usr/lib/os-release", 0, "NAME=\"Fedora Linux\"\nID=fedora\n"},
		entry{"boot/vmlinuz-0-rescue-6a7f3b", 0, kernelOf("6.10.0-1.fc41.x86_64")},
		entry{"boot/.vmlinuz-6.11.4-301.fc41.x86_64.hmac", 0, "x"},
	), "6.11.4-301.fc41.x86_64", "modules/symvers.xz modules/config -modules/vmlinuz", "module"},
	{"Arch: no version in names", append(moduleSet("usr/", "6.9.1-arch1-1", ".zst"),
		entry{"lib", tar.TypeSymlink, "usr/lib"},
		entry{"boot/vmlinuz-linux", 0, kernelOf("6.9.1-arch1-1")},
		entry{"boot/vmlinuz-linux-lts", 0, kernelOf("6.6.30-1-lts")},
		entry{"boot/initramfs-linux.img", 0, "initrd"},
		entry{"usr/lib/modules/6.9.1-arch1-1/pkgbase", 0, "linux"},
		entry{"usr/lib/modules/6.6.30-1-lts/pkgbase", 0, "linux-lts"},
	), "6.9.1-arch1-1", "modules/pkgbase -initrd.img", "module"},
	{"a /boot", []entry{
		{"vmlinuz-6.1.0-9-amd64", 0, kernelOf("6.1.0-9-amd64")},
		{"vmlinuz-6.1.0-10-amd64", 0, kernelOf("6.1.0-10-amd64")},
		{"config-6.1.0-10-amd64", 0, needed("m")},
		{"initrd.img-6.1.0-9-amd64", 0, "nine"},
		{"initrd.img-6.1.0-10-amd64", 0, "ten"},
	}, "6.1.0-10-amd64", "initrd.img", ""},
	{"Fedora's /boot", []entry{
		{"vmlinuz-6.11.4-301.fc41.x86_64", 0, kernelOf("6.11.4-301.fc41.x86_64")},
		{"initramfs-6.11.4-301.fc41.x86_64.img", 0, "initrd"},
	}, "6.11.4-301.fc41.x86_64", "initrd.img", ""},
	{"Alpine's initrd", []entry{
		{"boot/vmlinuz-virt", 0, kernelOf("6.6.30-0-virt")},
		{"boot/initramfs-virt", 0, "initrd"},
	}, "6.6.30-0-virt", "initrd.img", ""},
	{"lists of modules, but no modules", []entry{
		{"boot/vmlinuz-6.6.30", 0, kernelOf("6.6.30")},
		{"boot/initrd.img-6.6.30", 0, "initrd"},
		{"lib/modules/6.6.30/modules.builtin", 0, "kernel/fs/ext4/ext4.ko\n"},
	}, "6.6.30", "initrd.img -modules", ""},
	{"all built in, with a list of that", []entry{
		{"boot/vmlinuz-6.6.30", 0, kernelOf("6.6.30")},
		{"lib/modules/6.6.30/modules.builtin", 0, "kernel/fs/overlayfs/overlay.ko\n"},
	}, "6.6.30", "modules/modules.builtin", "builtin"},
	{"a tree in which a kernel was built", []entry{
		{"arch/x86/boot/bzImage", 0, kernelOf("6.12.0")},
		{"arch/x86_64/boot/bzImage", tar.TypeSymlink, "../../x86/boot/bzImage"},
		{"vmlinux", 0, string(vmlinuxELF(elf.EM_X86_64, true, 100_000))},
		{".config", 0, needed("y")},
	}, "6.12.0", "-modules -initrd.img", "builtin"},
	{"a tree in which a kernel was built for another boot loader", []entry{
		{"vmlinux", 0, string(vmlinuxELF(elf.EM_X86_64, true, 2000)) + "Linux version 6.12.1 (you@there) #1\x00" + ikconfig(needed("y"))},
	}, "6.12.1", "-modules -initrd.img", "builtin"},
	{"a kernel that is packed as a whole", []entry{
		{"vmlinuz", 0, zipped(string(vmlinuxELF(elf.EM_X86_64, true, 2000)) + "Linux version 6.12.1 (you@there) #1\x00")},
	}, "6.12.1", "", ""},
	{"make tar-pkg", append(moduleSet("", "6.12.0", ""),
		entry{"boot/vmlinuz-6.12.0", 0, kernelOf("6.12.0")},
		entry{"boot/vmlinux-6.12.0", 0, string(vmlinuxELF(elf.EM_X86_64, true, 100_000))},
		entry{"boot/config-6.12.0", 0, needed("m")},
	), "6.12.0", "modules/kernel/fs/overlayfs/overlay.ko", "module"},
	{"a bundle", []entry{
		{"vmlinux", 0, string(vmlinuxELF(elf.EM_X86_64, true, 100_000))},
		{"config", 0, needed("y")},
		{"modules/kernel/a.ko", 0, string(moduleELF())},
		{"metadata.json", 0, `{"kernel_version": "6.12.0-mine", "distro": "mine", "args": ["quiet"]}`},
	}, "6.12.0-mine", "modules/kernel/a.ko", "builtin"},
	{"metadata that names the files", []entry{
		{"out/Image", 0, kernelOf("6.5.0")},
		{"out/mods/kernel/a.ko", 0, string(moduleELF())},
		{"boot/vmlinuz-6.6.0", 0, kernelOf("6.6.0")},
		{"metadata.json", 0, `{"vmlinux": "out/Image", "modules": "out/mods"}`},
	}, "6.5.0", "modules/kernel/a.ko", ""},
	{"metadata that names an initrd", []entry{
		{"k", 0, kernelOf("6.5.0")},
		{"i", 0, "initrd"},
		{"metadata.json", 0, `{"vmlinux": "k", "initrd": "./i"}`},
	}, "6.5.0", "initrd.img", ""},
	{"newest by version, not by name", []entry{
		{"boot/vmlinuz-6.9.12", 0, kernelOf("6.9.12")},
		{"boot/vmlinuz-6.10.0-rc7", 0, kernelOf("6.10.0-rc7")},
		{"boot/vmlinuz-6.10.0", 0, kernelOf("6.10.0")},
		{"boot/vmlinuz-6.10.0.xz", 0, "packed"},
	}, "6.10.0", "-modules", ""},
	{"a name that lies", append(append(moduleSet("", "6.1.0", ""), moduleSet("", "6.2.0", ".gz")...),
		entry{"boot/vmlinuz-6.1.0", 0, kernelOf("6.2.0")},
	), "6.2.0", "modules/kernel/fs/overlayfs/overlay.ko.gz", "module"},
	{"a link to nothing beside a kernel", []entry{
		{"boot/vmlinuz-6.2.0", tar.TypeSymlink, "gone"},
		{"boot/vmlinuz-6.1.0", 0, kernelOf("6.1.0")},
	}, "6.1.0", "", ""},
	{"links from folder to folder", append(moduleSet("data/", "6.1.0", ""),
		entry{"boot/vmlinuz-6.1.0", tar.TypeSymlink, "/images/current"},
		entry{"images/current", tar.TypeSymlink, "../images/./real"},
		entry{"images/real", 0, kernelOf("6.1.0")},
		entry{"lib/modules", tar.TypeSymlink, "/data/lib/modules"},
	), "6.1.0", "modules/kernel/fs/overlayfs/overlay.ko", "module"},
}

func TestImportLayouts(t *testing.T) {
	for _, tt := range layouts {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			plant(t, dir, tt.entries...)
			before := snapshot(t, dir)
			k, out, err := importing(t, directory(t, dir), Options{})
			if err != nil {
				t.Fatalf("%v, hint %q", err, banger.AsError(err).Hint)
			}
			if k.KernelVersion != tt.version || k.Features["overlay"] != tt.overlay || k.Source != "import:"+dir || k.Features["pvh"] != "builtin" {
				t.Errorf("record is %+v", k)
			}
			if want := map[string]string{"Fedora": "fedora", "a bundle": "mine"}[tt.name]; k.Distro != want {
				t.Errorf("it is of %q, want %q", k.Distro, want)
			}
			files := strings.Fields(tree(t, out))
			if !slices.Contains(files, "vmlinux") {
				t.Errorf("no vmlinux in %v", files)
			}
			for _, want := range strings.Fields(tt.has) {
				not, no := strings.CutPrefix(want, "-")
				has := slices.ContainsFunc(files, func(f string) bool { return f == not || strings.HasPrefix(f, not+"/") })
				if has == no {
					t.Errorf("want %s in %v", want, files)
				}
			}
			if after := snapshot(t, dir); after != before {
				t.Errorf("the source was\n%s, is\n%s", before, after)
			}
			checkImported(t, out, k)
		})
	}
}

// checkImported checks modes, sizes and digest of what was imported.
func checkImported(t *testing.T, out string, k Entry) {
	t.Helper()
	var size int64
	for _, p := range strings.Fields(tree(t, out)) {
		fi, err := os.Lstat(filepath.Join(out, p))
		if err != nil {
			t.Fatal(err)
		}
		if fi.Mode().IsRegular() {
			size += fi.Size()
			if fi.Mode().Perm() != 0o444 {
				t.Errorf("%s has mode %v", p, fi.Mode())
			}
		}
	}
	if k.Size != size {
		t.Errorf("the record says %d bytes, there are %d", k.Size, size)
	}
	if sum, _, err := SumFile(filepath.Join(out, "vmlinux")); err != nil || sum != k.SHA256 {
		t.Errorf("vmlinux has %s, the record %s: %v", sum, k.SHA256, err)
	}
	if target, err := os.Readlink(filepath.Join(out, "modules/build")); err == nil && !strings.HasPrefix(target, "/usr/src/") {
		t.Errorf("build leads to %s", target)
	}
}
