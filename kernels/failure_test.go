package kernels

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestMisuse(t *testing.T) {
	b := newBench(t)
	for _, args := range [][]string{
		{"--frob"}, {"--jobs"}, {"--jobs", "0"}, {"--jobs", "many"}, {"--source", ""}, {"--source", "/no/such/place"},
		{"--base-url", "file:///x"}, {"--base-url", `https://x/"`}, {"extra"},
	} {
		b.fails(2, []string{"make-generic-kernel.sh --help"}, args...)
	}
	stdout, _, err := b.run("--help")
	if err != nil || stdout == "" {
		t.Errorf("--help: %v, %q", err, stdout)
	}
}

func TestMissingTools(t *testing.T) {
	b := newBench(t)
	b.tool("gcc", `case $* in --version) echo gcc 1 ;; *) ! grep -q gelf ;; esac`)
	b.fails(1, []string{"libelf-dev", "scripts/setup kernel"}, "--source", b.tree)
	// A PATH with nothing but what bash and the checks themselves use.
	bin := filepath.Join(b.dir, "few")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"env", "bash", "dirname", "mkdir", "nproc", "tar", "make", "zstd", "flock", "setpriv", "perl"} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(b.path, "uname"), filepath.Join(bin, "uname")); err != nil {
		t.Fatal(err)
	}
	b.env = []string{"PATH=" + bin}
	b.fails(1, []string{"gcc flex bison bc binutils;", "scripts/setup kernel"}, "--source", b.tree)
}

func TestOtherArchitecture(t *testing.T) {
	b := newBench(t)
	b.tool("uname", "echo aarch64")
	b.fails(1, []string{"aarch64"}, "--source", b.tree)
}

func TestBadSources(t *testing.T) {
	b := newBench(t)
	tar := func(name string, args ...string) string {
		t.Helper()
		path := filepath.Join(b.dir, name)
		if out, err := exec.Command("tar", append([]string{"-C", b.dir, "-caf", path}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return path
	}
	b.write("other/README", "no kernel\n")
	b.fails(1, []string{"is not the source of a Linux kernel"}, "--source", filepath.Join(b.dir, "other"))
	b.fails(1, []string{"is not the source of a Linux kernel"}, "--source", tar("other.tar.gz", "other"))

	whole := b.read(tar("linux.tar.gz", "tree"))
	b.write("cut.tar.gz", string(whole[:len(whole)/2]))
	b.fails(1, []string{"cannot unpack", "cut.tar.gz"}, "--source", filepath.Join(b.dir, "cut.tar.gz"))
	b.write("text", "no tarball\n")
	b.fails(1, []string{"cannot unpack", "text"}, "--source", filepath.Join(b.dir, "text"))

	b.write("tree/.config", "")
	b.fails(1, []string{"has been built in", "mrproper"}, "--source", b.tree)
	if n := len(b.compilations()); n != 0 {
		t.Errorf("%d compilations", n)
	}
}

// TestRefusedOptions is a kernel version that does not know two of the options.
func TestRefusedOptions(t *testing.T) {
	b := newBench(t)
	b.write("tree/refused", "CONFIG_VIRTIO_BLK=y\nCONFIG_EXT4_FS=y\n")
	b.fails(1, []string{"Linux 6.1 did not take these options", "  CONFIG_VIRTIO_BLK=y (got none)\n", "  CONFIG_EXT4_FS=y (got none)\n",
		"kernels/generic-x86_64.config"}, "--source", b.tree)
	if n := len(b.compilations()); n != 0 {
		t.Errorf("%d compilations", n)
	}
}

// TestLeak is a compiler that writes down where it worked.
func TestLeak(t *testing.T) {
	b := newBench(t)
	b.write("tree/leak", "built in ")
	b.fails(1, []string{"would not be reproducible"}, "--source", b.tree)
}

func TestBrokenBuild(t *testing.T) {
	b := newBench(t)
	b.write("tree/Makefile", "VERSION = 6\nPATCHLEVEL = 1\nallnoconfig:\n\tcp $(KCONFIG_ALLCONFIG) $(O)/.config\nvmlinux:\n\t@echo the compiler is unwell; exit 1\n")
	b.fails(1, []string{"the compiler is unwell", "compiling generic-6.1 went wrong"}, "--source", b.tree)
}

func TestNoSpace(t *testing.T) {
	b := newBench(t)
	b.tool("df", `printf 'Filesystem 1024-blocks Used Available Capacity Mounted\nx 1 1 2048 99%% /\n'`)
	b.fails(1, []string{"no space", "has 2 MB", "--cache"}, "--source", b.tree)
}

// TestApt is apt with lists of yesterday, whose version the mirror has no more.
func TestApt(t *testing.T) {
	b := newBench(t)
	fakeApt := func(update string) {
		b.tool("apt-cache", `echo "Package: linux-source"; echo "Depends: linux-source-6.1 (= 6.1.9-2)"`)
		b.tool("apt-get", `
v=1; [ -z "$APT_CONFIG" ] || v=2
case $* in
*update*) `+update+` ;;
"download --print-uris linux-source-6.1")
	echo "'http://mirror/x.deb' linux-source-6.1_6.1.9-${v}_all.deb 1000 SHA256:$v" ;;
download*linux-source-6.1) [ $v = 2 ] && cp `+b.dir+`/package.deb linux-source-6.1_6.1.9-2_all.deb ;;
*) echo "E: what?" >&2; exit 100 ;;
esac`)
	}
	fakeApt("true")
	b.write("pkg/DEBIAN/control", "Package: linux-source-6.1\nVersion: 6.1.9-2\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n")
	if err := os.MkdirAll(filepath.Join(b.dir, "pkg/usr/src"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, argv := range [][]string{
		{"tar", "-C", b.dir, "-cJf", b.dir + "/pkg/usr/src/linux-source-6.1.tar.xz", "tree"},
		{"dpkg-deb", "--root-owner-group", "-b", b.dir + "/pkg", b.dir + "/package.deb"},
	} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", argv, err, out)
		}
	}
	for range 2 {
		if stdout, stderr, err := b.run(); err != nil || stdout == "" {
			t.Fatalf("%v, %q\n%s", err, stdout, stderr)
		}
	}
	if n := len(b.compilations()); n != 1 {
		t.Errorf("%d compilations of one package", n)
	}
	b.clean()

	b.fails(1, []string{"apt cannot give nothing-like-this", "--source TARBALL"}, "--source", "apt:nothing-like-this")
	b.fails(1, []string{"apt cannot give"}, "--source", "apt:; echo")
	fakeApt("echo no network; exit 100")
	b.cache = filepath.Join(b.dir, "empty")
	b.tool("apt-cache", "exit 100")
	b.fails(1, []string{"no network", "apt cannot give linux-source"})
}
