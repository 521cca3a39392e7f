//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// listed is one line of rootlist.
type listed struct {
	Path, First    []byte
	Mode, UID, GID uint32
	Size           int64
	Sec, Nsec      int64
	Links, Rdev    uint64
	Target         []byte
	Xattrs         map[string][]byte
	SHA256         string
}

func (e *listed) isDir() bool { return e.Mode&unix.S_IFMT == unix.S_IFDIR }

// line is all of it that has to be the same. What a directory's size is depends
// on the file system alone.
func (e *listed) line() string {
	size := e.Size
	if e.isDir() {
		size = 0
	}
	return fmt.Sprintf("mode=%o owner=%d:%d size=%d mtime=%d.%09d links=%d rdev=%#x target=%q first=%q xattrs=%q sha256=%s",
		e.Mode, e.UID, e.GID, size, e.Sec, e.Nsec, e.Links, e.Rdev, e.Target, e.First, e.Xattrs, e.SHA256)
}

// listing is a tree by path.
type listing map[string]*listed

func parseListing(tb testing.TB, b []byte) listing {
	tb.Helper()
	all := listing{}
	for line := range bytes.Lines(b) {
		var e listed
		if err := json.Unmarshal(line, &e); err != nil {
			tb.Fatalf("rootlist: %v in %q", err, line)
		}
		all[string(e.Path)] = &e
	}
	return all
}

// compare fails the test with the first differences. Paths in spared may
// differ in anything.
func (want listing) compare(tb testing.TB, what string, got listing, spared func(path string, want, got *listed) bool) {
	tb.Helper()
	var wrong []string
	for p, w := range want {
		g := got[p]
		switch {
		case spared != nil && spared(p, w, g):
		case g == nil:
			wrong = append(wrong, fmt.Sprintf("%q is missing: %s", p, w.line()))
		case g.line() != w.line():
			wrong = append(wrong, fmt.Sprintf("%q\n\tgot  %s\n\twant %s", p, g.line(), w.line()))
		}
	}
	for p, g := range got {
		if want[p] == nil && (spared == nil || !spared(p, nil, g)) {
			wrong = append(wrong, fmt.Sprintf("%q is there: %s", p, g.line()))
		}
	}
	slices.Sort(wrong)
	if n := len(wrong); n > 0 {
		tb.Errorf("%s: %d of %d entries differ:\n%s", what, n, len(want), strings.Join(wrong[:min(n, 20)], "\n"))
	}
}

// exact is a test of one image against what other tools make of it.
type exact struct {
	t        *testing.T
	dir      string // for scratch
	oci      string // a layout with the images
	rootlist string // the program
	box      string // in front of a shell command in the guest: busybox, where that is all there is
	asRoot   bool   // compare the root of a machine too, not just its image
	host     *host
}

func newExact(t *testing.T) *exact {
	t.Helper()
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("only root can unpack an image with all owners and devices")
	}
	dir, err := os.MkdirTemp("", "banger-exact-") // buildah wants lower case
	check(t, err)
	t.Cleanup(func() { check(t, os.RemoveAll(dir)) })
	x := &exact{t: t, dir: dir, host: newHost(t), box: "/bin/busybox ", asRoot: true}
	x.oci, x.rootlist = filepath.Join(x.dir, "oci"), filepath.Join(x.dir, "rootlist")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", x.rootlist, "./internal/e2e/rootlist")
	build.Dir, build.Env = suite.repo, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build rootlist: %v\n%s", err, out)
	}
	return x
}

// run runs a program in the scratch folder and gives its output.
func (x *exact) run(name string, args ...string) string {
	x.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = x.dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		x.t.Fatalf("%s %s: %v\n%s%s\n(programs that are missing: apt-get install -y --no-install-recommends umoci skopeo buildah tar)",
			name, strings.Join(args, " "), err, stderr.String(), out)
	}
	return string(out)
}

// list lists a folder of this host.
func (x *exact) list(dir string) listing {
	x.t.Helper()
	return parseListing(x.t, []byte(x.run(x.rootlist, dir)))
}

// unpack lists what umoci makes of an image.
func (x *exact) unpack(oci, tag string) (want listing, rootfs string) {
	x.t.Helper()
	bundle := filepath.Join(x.dir, "unpacked-"+tag)
	x.run("umoci", "unpack", "--image", oci+":"+tag, bundle)
	rootfs = filepath.Join(bundle, "rootfs")
	return x.list(rootfs), rootfs
}

// inGuest pulls an image of a layout over the registry, boots it, and compares
// every entry: of the image as the guest's kernel reads it, and of the root that
// its programs see.
func (x *exact) inGuest(oci, tag string, want listing, push ...string) {
	x.t.Helper()
	ref := suite.registry + "/exact/" + tag + ":1"
	x.run("skopeo", append(append([]string{"--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"}, push...),
		"oci:"+oci+":"+tag, "docker://"+ref)...)
	x.banger("image", "pull", ref, "--name", tag)
	vm := "exact-" + tag
	x.banger("vm", "create", "--image", tag, "--name", vm)
	x.upload(vm)

	got := parseListing(x.t, x.banger("exec", "-u", "0", vm, "--", "/run/rootlist", "-mount", "/dev/vdb", "/run/exact"))
	want.compare(x.t, "image "+tag, got, nil)
	x.t.Logf("image %s: %d entries compared", tag, len(want))

	if x.asRoot {
		live := parseListing(x.t, x.banger("exec", "-u", "0", vm, "--", "/run/rootlist", "/"))
		want.compare(x.t, "root of "+vm, live, ofMachine)
	}
	x.banger("vm", "rm", "--force", vm)
}

// ofMachine spares what a machine makes of its image: folders that are mounted
// on, what it is called, and the number of folders in one, which an overlay does
// not count.
func ofMachine(p string, want, got *listed) bool {
	switch p {
	case ".", "dev", "proc", "sys", "run", "tmp", "etc", "etc/hostname", "etc/hosts", "etc/resolv.conf", "etc/machine-id":
		return true
	}
	if want == nil { // a mount point that the image lacks
		return got.isDir() && (path.Dir(p) == "." || strings.HasPrefix(p+"/", "lib/modules/"))
	}
	if got == nil || !want.isDir() {
		return got == nil && (strings.HasPrefix(p, "dev/") || strings.HasPrefix(p, "run/") || strings.HasPrefix(p, "tmp/")) // below a mount
	}
	same := *got
	same.Links = want.Links
	return same.line() == want.line()
}

func (x *exact) banger(args ...string) []byte {
	x.t.Helper()
	var stderr bytes.Buffer
	cmd := x.host.banger(args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		x.t.Fatalf("banger %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return out
}

// upload puts rootlist into a VM, where nothing of it is in the way.
func (x *exact) upload(vm string) {
	x.t.Helper()
	f, err := os.Open(x.rootlist)
	if err != nil {
		x.t.Fatal(err)
	}
	defer f.Close()
	argv := strings.Fields("exec -i -u 0 " + vm + " -- " + x.box + "sh -c")
	cmd := x.host.banger(append(argv, x.box+"cat >/run/rootlist && "+x.box+"chmod 755 /run/rootlist")...)
	cmd.Stdin = f
	if out, err := cmd.CombinedOutput(); err != nil {
		x.t.Fatalf("upload rootlist: %v\n%s", err, out)
	}
}

// TestExactUmoci compares an image of layers by umoci, by hand, and by GNU tar,
// of all that tar and a file system can hold.
func TestExactUmoci(t *testing.T) {
	x := newExact(t)
	x.run("skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", "docker://"+suite.registry+"/library/busybox:static", "oci:"+x.oci+":base")
	bundle := filepath.Join(x.dir, "bundle")
	x.run("umoci", "unpack", "--image", x.oci+":base", bundle)
	weird(t, filepath.Join(bundle, "rootfs"))
	x.run("umoci", "repack", "--refresh-bundle", "--image", x.oci+":one", bundle)
	change(t, filepath.Join(bundle, "rootfs"))
	x.run("umoci", "repack", "--refresh-bundle", "--image", x.oci+":two", bundle)
	layers := append([]string{x.handmade()}, x.sparse("0.0", "0.1", "1.0")...)
	x.addLayers("two", "three", layers...)

	_, rootfs := x.unpack(x.oci, "three")
	// umoci cannot read old GNU sparse files and global headers.
	last := x.gnuSparse()
	x.addLayers("three", "umoci", last)
	x.run("tar", "-C", rootfs, "-xpf", last)
	// Nor does it keep these.
	set(t, filepath.Join(rootfs, "hand/attributes"), "user.empty", "")
	set(t, filepath.Join(rootfs, "hand/attributes"), "security.selinux", "system_u:object_r:bin_t:s0\x00")
	want := x.list(rootfs)
	x.trueTimes(want, x.layers(x.oci, "umoci"))
	x.inGuest(x.oci, "umoci", want)
}

// TestExactBuildah does so with layers as buildah writes them, and a manifest
// of Docker's kind.
func TestExactBuildah(t *testing.T) {
	x := newExact(t)
	buildah := func(args ...string) string {
		t.Helper()
		return strings.TrimSpace(x.run("buildah", append([]string{"--storage-driver", "vfs",
			"--root", filepath.Join(x.dir, "storage"), "--runroot", filepath.Join(x.dir, "runroot")}, args...)...))
	}
	t.Cleanup(func() { buildah("rm", "--all") })
	x.run("skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", "docker://"+suite.registry+"/library/busybox:static", "oci:"+x.oci+":base")
	for _, step := range []struct {
		from, to string
		fill     func(testing.TB, string)
	}{{"oci:" + x.oci + ":base", "one", weird}, {"oci:" + x.oci + ":one", "buildah", change}} {
		c := buildah("from", step.from)
		step.fill(t, buildah("mount", c))
		buildah("umount", c)
		buildah("commit", "--quiet", c, "oci:"+x.oci+":"+step.to)
	}
	want, _ := x.unpack(x.oci, "buildah")
	x.trueTimes(want, x.layers(x.oci, "buildah"))
	x.inGuest(x.oci, "buildah", want, "--format", "v2s2")
}
