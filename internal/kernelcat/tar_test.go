package kernelcat

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger"
)

// entry is one entry of a tar archive.
type entry struct {
	name string
	kind byte // 0: a file
	body string
}

func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: 0o644, Typeflag: e.kind}
		if e.kind == 0 {
			h.Typeflag, h.Size = tar.TypeReg, int64(len(e.body))
		} else {
			h.Linkname = e.body
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if e.kind == 0 {
			if _, err := w.Write([]byte(e.body)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// tempBundle is a bundle in new folders: dir/out gets the files.
func tempBundle(t testing.TB) (b *bundle, dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, d := range []string{"out", "tmp"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	if b, err = newBundle(t.Context(), root, filepath.Join(dir, "tmp")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.close)
	return b, dir
}

// tree lists the files below a folder.
func tree(t testing.TB, dir string) string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			p, err = filepath.Rel(dir, p)
			files = append(files, p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(files, " ")
}

func TestAddTar(t *testing.T) {
	const v = "6.12.43+deb13-cloud-amd64"
	b, dir := tempBundle(t)
	err := b.addTar(bytes.NewReader(append(tarOf(t,
		entry{"./", tar.TypeDir, ""},
		entry{"./boot/", tar.TypeDir, ""},
		entry{"./boot/System.map-" + v, 0, "no"},
		entry{"./boot/config-" + v, 0, "CONFIG_A=y\n"},
		entry{"./boot/vmlinuz-" + v, 0, "kernel"},
		entry{"./usr/lib/modules/", tar.TypeDir, ""},
		entry{"./usr/lib/modules/" + v + "/", tar.TypeDir, ""},
		entry{"./usr/lib/modules/" + v + "/build", tar.TypeSymlink, "/usr/src/linux"},
		entry{"./usr/lib/modules/" + v + "/modules.order", 0, "order"},
		entry{"lib/modules/" + v + "/kernel/fs/a.ko", 0, "module"},
		entry{"./usr/share/lib/modules/x", 0, "no"},
		entry{"./usr/share/doc/boot/vmlinuz-1", 0, "no"},
		entry{"./etc/link", tar.TypeLink, "./etc/other"},
	), make([]byte, 4096)...)))
	if err != nil {
		t.Fatal(err)
	}
	if got := tree(t, dir); got != "out/modules/build out/modules/kernel/fs/a.ko out/modules/modules.order tmp/vmlinuz" {
		t.Errorf("files: %s", got)
	}
	if b.version != v || b.vmlinuzSize != 6 || b.modulesSize != 11 || string(b.config) != "CONFIG_A=y\n" {
		t.Errorf("bundle is %+v", b)
	}
	if fi, err := os.Stat(filepath.Join(dir, "out/modules/kernel/fs/a.ko")); err != nil || fi.Mode().Perm()&0o222 != 0 {
		t.Errorf("module can be written to: %v, %v", fi.Mode(), err)
	}
}

// hostileTar is an archive that nobody makes by mistake, or that looks like one.
type hostileTar struct {
	name    string
	entries []entry
	kind    banger.Kind
	left    string // files afterwards
}

func hostileTars() []hostileTar {
	const m = "./lib/modules/6.1/"
	ok := entry{"./boot/vmlinuz-6.1", 0, "kernel"}
	return []hostileTar{
		{"parent", []entry{{"../evil", 0, "x"}}, banger.Invalid, ""},
		{"parent inside", []entry{{m + "../../../../evil", 0, "x"}}, banger.Invalid, ""},
		{"parent at the end", []entry{{m + "kernel/..", tar.TypeDir, ""}}, banger.Invalid, ""},
		{"parent of a file that is not taken", []entry{{"./usr/../../evil", 0, "x"}}, banger.Invalid, ""},
		{"absolute", []entry{{"/lib/modules/6.1/evil", 0, "x"}}, banger.Invalid, ""},
		{"absolute behind a dot", []entry{{".//evil", 0, "x"}}, banger.Invalid, ""},
		{"version is the parent", []entry{{"./lib/modules/../evil", 0, "x"}}, banger.Invalid, ""},
		{"version is odd", []entry{{"./lib/modules/-v/evil", 0, "x"}}, banger.Invalid, ""},
		{"version has a space", []entry{{"./boot/vmlinuz-6 1", 0, "x"}}, banger.Invalid, ""},
		{"no version", []entry{{"./boot/vmlinuz-", 0, "x"}}, "", ""},
		{"two versions", []entry{ok, {"./lib/modules/6.2/a.ko", 0, "x"}}, banger.Invalid, ""},
		{"two kernels", []entry{ok, ok}, banger.Invalid, ""},
		{"file twice", []entry{{m + "a.ko", 0, "x"}, {m + "a.ko", 0, "y"}}, banger.Invalid, "modules/a.ko"},
		{"hard link out", []entry{{m + "a.ko", tar.TypeLink, "/etc/passwd"}}, banger.Invalid, ""},
		{"hard link through a link", []entry{{m + "build", tar.TypeSymlink, "/etc"}, {m + "a.ko", tar.TypeLink, m + "build/passwd"}}, banger.Invalid, "modules/build"},
		{"hard link to a link", []entry{{m + "build", tar.TypeSymlink, "/etc/passwd"}, {m + "a.ko", tar.TypeLink, m + "build"}}, banger.Invalid, "modules/build"},
		{"hard link to what is not there", []entry{{m + "a.ko", tar.TypeLink, m + "b.ko"}}, banger.Invalid, ""},
		{"hard link to another kernel", []entry{{m + "a.ko", 0, "x"}, {m + "b.ko", tar.TypeLink, "./lib/modules/6.2/a.ko"}}, banger.Invalid, "modules/a.ko"},
		{"hard link inside", []entry{{m + "a.ko", 0, "x"}, {m + "b.ko", tar.TypeLink, m + "a.ko"}}, "", "modules/a.ko modules/b.ko"},
		{"file under a file", []entry{{m + "a", 0, "x"}, {m + "a/b.ko", 0, "x"}}, banger.Invalid, "modules/a"},
		{"long path", []entry{{m + strings.Repeat("d/", 300) + "a.ko", 0, "x"}}, banger.Invalid, ""},
		{"link, then a file below it", []entry{{m + "kernel", tar.TypeSymlink, "/etc"}, {m + "kernel/evil", 0, "x"}}, banger.Invalid, "modules/kernel"},
		{"link, then a file in its place", []entry{{m + "a.ko", tar.TypeSymlink, "/etc/passwd"}, {m + "a.ko", 0, "x"}}, banger.Invalid, "modules/a.ko"},
		{"link out", []entry{{m + "a.ko", tar.TypeSymlink, "../../../../evil"}}, banger.Invalid, ""},
		{"link one too far up", []entry{{m + "kernel/a.ko", tar.TypeSymlink, "../../b.ko"}}, banger.Invalid, ""},
		{"link with a control byte", []entry{{m + "a.ko", tar.TypeSymlink, "/x\n"}}, banger.Invalid, ""},
		{"link inside", []entry{{m + "kernel/a.ko", tar.TypeSymlink, "../b.ko"}}, "", "modules/kernel/a.ko"},
		{"name with a control byte", []entry{{m + "a\x1b[2J.ko", 0, "x"}}, banger.Invalid, ""},
		{"name that is not UTF-8", []entry{{m + "a\xff.ko", 0, "x"}}, banger.Invalid, ""},
		{"modules is a link", []entry{{"./lib/modules/6.1", tar.TypeSymlink, "/"}, {m + "evil", 0, "x"}}, "", "modules/evil"},
		{"kernel is a link", []entry{{"./boot/vmlinuz-6.1", tar.TypeSymlink, "/etc/passwd"}}, "", ""},
		{"devices", []entry{{m + "null", tar.TypeChar, ""}, {m + "pipe", tar.TypeFifo, ""}}, "", ""},
	}
}

func TestHostileTar(t *testing.T) {
	for _, tt := range hostileTars() {
		b, dir := tempBundle(t)
		err := b.addTar(bytes.NewReader(tarOf(t, tt.entries...)))
		if tt.kind == "" && err != nil || tt.kind != "" && (err == nil || banger.AsError(err).Kind != tt.kind) {
			t.Errorf("%s: got %v, want kind %q", tt.name, err, tt.kind)
		}
		if got := tree(t, filepath.Join(dir, "out")); got != tt.left {
			t.Errorf("%s: left %q, want %q", tt.name, got, tt.left)
		}
		if got := tree(t, dir); strings.Contains(strings.ReplaceAll(got, "out/modules", ""), "evil") && !strings.Contains(tt.left, "evil") {
			t.Errorf("%s: escaped: %s", tt.name, got)
		}
	}
}

func TestTarBounds(t *testing.T) {
	whole := tarOf(t, entry{"./lib/modules/6.1/a.ko", 0, strings.Repeat("x", 10_000)})
	b, _ := tempBundle(t)
	b.left = 5000
	if err := b.addTar(bytes.NewReader(whole)); !banger.IsKind(err, banger.Invalid) || !strings.Contains(err.Error(), "more than") {
		t.Errorf("too many bytes: %v", err)
	}
	b, _ = tempBundle(t)
	b.entries = maxEntries
	if err := b.addTar(bytes.NewReader(whole)); !banger.IsKind(err, banger.Invalid) {
		t.Errorf("too many files: %v", err)
	}
	for _, n := range []int{100, 512, 600, 5000} {
		b, _ = tempBundle(t)
		if err := b.addTar(bytes.NewReader(whole[:n])); err == nil {
			t.Errorf("cut after %d bytes: no error", n)
		}
	}
}
