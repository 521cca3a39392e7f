package kernelcat

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger"
)

const imageDigest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// fakeImage is an image whose layers are the tar archives. It counts what is
// opened and what is closed again.
type fakeImage struct {
	layers    [][]byte
	opened    []int  // times, of each layer
	open      int    // layers, and the image itself
	atEnd     error  // in place of the first layer's end
	ref, arch string // that were asked for
}

// imageOf makes an image of layers, the lowest first, each of lines: "f NAME
// CONTENT", "d NAME", "l NAME TARGET" for a symbolic link, "h NAME TARGET" for
// a hard link, "c NAME" for a device.
func imageOf(t *testing.T, layers ...[]string) *fakeImage {
	t.Helper()
	im := &fakeImage{opened: make([]int, len(layers))}
	for _, lines := range layers {
		im.layers = append(im.layers, layerOf(t, lines...))
	}
	return im
}

func layerOf(t testing.TB, lines ...string) []byte {
	t.Helper()
	kinds := map[string]byte{"f": 0, "d": tar.TypeDir, "l": tar.TypeSymlink, "h": tar.TypeLink, "c": tar.TypeChar}
	var entries []entry
	for _, line := range lines {
		kind, rest, _ := strings.Cut(line, " ")
		name, body, _ := strings.Cut(rest, " ")
		entries = append(entries, entry{name, kinds[kind], body})
	}
	return tarOf(t, entries...)
}

func (im *fakeImage) openImage(_ context.Context, ref, arch string, progress func(banger.Progress)) (*Image, error) {
	im.ref, im.arch = ref, arch
	im.open++
	out := &Image{Ref: "registry.example/" + ref, Digest: imageDigest, Close: func() error { im.open--; return nil }}
	for i, b := range im.layers {
		out.Layers = append(out.Layers, func(ctx context.Context) (io.ReadCloser, error) {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			im.opened[i]++
			im.open++
			progress(banger.Progress{Step: "transfer", Done: int64(im.opened[i])})
			var r io.Reader = bytes.NewReader(b)
			if i == 0 && im.atEnd != nil {
				r = io.MultiReader(r, errReader{im.atEnd})
			}
			return &fakeLayer{Reader: r, im: im}, nil
		})
	}
	return out, nil
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

type fakeLayer struct {
	io.Reader
	im     *fakeImage
	closed bool
}

func (l *fakeLayer) Close() error {
	if !l.closed {
		l.closed = true
		l.im.open--
	}
	return nil
}

// taken fills a bundle from the image and tells what it then has: the version,
// the files with their content, and the notices.
func (im *fakeImage) taken(t *testing.T) (string, error) {
	t.Helper()
	b, dir := tempBundle(t)
	var said []string
	f := &filling{bundle: b, tmp: filepath.Join(dir, "tmp"), arch: "x86_64", options: &Options{
		OpenImage: im.openImage,
		Progress: func(p banger.Progress) {
			if p.Notice {
				said = append(said, p.Step)
			}
		},
	}}
	_, err := imageSource{"kernel:1"}.fill(t.Context(), f)
	if im.open != 0 {
		t.Errorf("%d readers are not closed", im.open)
	}
	if strings.Contains(tree(t, dir), "evil") {
		t.Errorf("escaped: %s", tree(t, dir))
	}
	if err != nil {
		return "", err
	}
	got := []string{b.version}
	if b.config != nil {
		got = append(got, "config="+string(b.config))
	}
	for _, p := range strings.Fields(tree(t, dir)) {
		text, err := os.ReadFile(filepath.Join(dir, p))
		if link, lerr := os.Readlink(filepath.Join(dir, p)); lerr == nil {
			text, err = []byte("->"+link), nil
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, strings.TrimPrefix(strings.TrimPrefix(p, "out/"), "tmp/")+"="+string(text))
	}
	return strings.Join(append(got, said...), " "), nil
}

// What an image gives is what its layers are when they lie over each other.
func TestImageLayers(t *testing.T) {
	const k, m = "f boot/vmlinuz-6.1 K", "lib/modules/6.1/"
	for name, c := range map[string]struct {
		layers [][]string
		want   string
	}{
		"one layer":              {[][]string{{k, "f boot/config-6.1 C", "f " + m + "kernel/a.ko A", "d etc", "f etc/x X"}}, "6.1 config=C modules/kernel/a.ko=A vmlinuz=K"},
		"two layers":             {[][]string{{k}, {"f " + m + "a.ko A"}}, "6.1 modules/a.ko=A vmlinuz=K"},
		"names with a dot":       {[][]string{{"f ./boot/vmlinuz-6.1 K"}, {"f ./" + m + "a.ko A"}}, "6.1 modules/a.ko=A vmlinuz=K"},
		"names with a slash":     {[][]string{{"f /boot/vmlinuz-6.1 OLD"}, {"f boot/vmlinuz-6.1 K"}}, "6.1 vmlinuz=K"},
		"a file is replaced":     {[][]string{{k, "f " + m + "a.ko OLD"}, {"f " + m + "a.ko NEW"}}, "6.1 modules/a.ko=NEW vmlinuz=K"},
		"a kernel is replaced":   {[][]string{{"f boot/vmlinuz-6.1 OLD"}, {k}}, "6.1 vmlinuz=K"},
		"the last one wins":      {[][]string{{k, "f " + m + "a.ko OLD", "f " + m + "a.ko NEW"}}, "6.1 modules/a.ko=NEW vmlinuz=K"},
		"whiteout":               {[][]string{{k, "f " + m + "a.ko A", "f " + m + "b.ko B"}, {"f " + m + ".wh.a.ko "}}, "6.1 modules/b.ko=B vmlinuz=K"},
		"whiteout of a folder":   {[][]string{{k, "f " + m + "a.ko A"}, {"f lib/.wh.modules "}}, "6.1 vmlinuz=K"},
		"whiteout of a kernel":   {[][]string{{k, "f boot/vmlinuz-6.2 NEW"}, {"f boot/.wh.vmlinuz-6.2 "}}, "6.1 vmlinuz=K"},
		"whiteout, own layer":    {[][]string{{k, "f " + m + "a.ko OLD"}, {"f " + m + "a.ko NEW", "f " + m + ".wh.a.ko "}}, "6.1 modules/a.ko=NEW vmlinuz=K"},
		"whiteout, then anew":    {[][]string{{k, "f " + m + "a.ko OLD"}, {"f lib/.wh.modules ", "f " + m + "b.ko B"}}, "6.1 modules/b.ko=B vmlinuz=K"},
		"whiteout of nothing":    {[][]string{{k}, {"f x/.wh.y ", "f boot/.wh.z "}}, "6.1 vmlinuz=K"},
		"whiteout, back above":   {[][]string{{k, "f " + m + "a.ko 1"}, {"f " + m + ".wh.a.ko "}, {"f " + m + "a.ko 3"}}, "6.1 modules/a.ko=3 vmlinuz=K"},
		"opaque":                 {[][]string{{k, "f " + m + "a.ko A"}, {"f " + m + ".wh..wh..opq ", "f " + m + "b.ko B"}}, "6.1 modules/b.ko=B vmlinuz=K"},
		"opaque after its files": {[][]string{{k, "f " + m + "x/a.ko A"}, {"f " + m + "b.ko B", "f " + m + ".wh..wh..opq "}}, "6.1 modules/b.ko=B vmlinuz=K"},
		"opaque root":            {[][]string{{k, "f boot/vmlinuz-6.2 NEW"}, {"f .wh..wh..opq ", k}}, "6.1 vmlinuz=K"},
		"opaque elsewhere":       {[][]string{{k}, {"f boot/grub/.wh..wh..opq "}}, "6.1 vmlinuz=K"},
		"names of AUFS":          {[][]string{{k, "f " + m + "a.ko A"}, {"f lib/modules/.wh..wh.plnk x", "f " + m + ".wh..wh.aufs x"}}, "6.1 modules/a.ko=A vmlinuz=K"},
		"folder becomes a file":  {[][]string{{k, "f " + m + "x/a.ko A"}, {"f " + m + "x X"}}, "6.1 modules/x=X vmlinuz=K"},
		"file becomes a folder":  {[][]string{{k, "f " + m + "x X"}, {"d " + m + "x", "f " + m + "x/a.ko A"}}, "6.1 modules/x/a.ko=A vmlinuz=K"},
		"no folder's entry":      {[][]string{{k, "f " + m + "x X"}, {"f " + m + "x/a.ko A"}}, "6.1 modules/x/a.ko=A vmlinuz=K"},
		"file becomes no file":   {[][]string{{k, "f " + m + "x X"}, {"d " + m + "x"}}, "6.1 vmlinuz=K"},
		"file becomes a device":  {[][]string{{k, "f " + m + "a.ko A"}, {"c " + m + "a.ko"}}, "6.1 vmlinuz=K"},
		"lib becomes a link":     {[][]string{{k, "f " + m + "a.ko OLD", "f usr/" + m + "a.ko A"}, {"l lib usr/lib"}}, "6.1 modules/a.ko=A vmlinuz=K"},
		"lib and usr/lib":        {[][]string{{k, "f " + m + "a.ko OLD", "f usr/" + m + "b.ko B"}, {"f usr/" + m + "a.ko A"}}, "6.1 modules/a.ko=A modules/b.ko=B vmlinuz=K"},
		"links":                  {[][]string{{k, "f " + m + "a.ko A", "l " + m + "build /usr/src/linux", "l " + m + "x/b.ko ../a.ko"}}, "6.1 modules/a.ko=A modules/build=->/usr/src/linux modules/x/b.ko=->../a.ko vmlinuz=K"},
		"links to headers":       {[][]string{{k, "f " + m + "a.ko A", "l " + m + "build ../../../usr/src/linux"}}, "6.1 modules/a.ko=A vmlinuz=K"},
		"hard link":              {[][]string{{k, "f " + m + "a.ko A", "h " + m + "b.ko " + m + "a.ko"}}, "6.1 modules/a.ko=A modules/b.ko=A vmlinuz=K"},
		"hard link downwards":    {[][]string{{k, "f " + m + "a.ko A"}, {"h " + m + "b.ko " + m + "a.ko"}}, "6.1 modules/a.ko=A modules/b.ko=A vmlinuz=K"},
		"hard link, old name":    {[][]string{{k, "f " + m + "a.ko A", "h " + m + "b.ko " + m + "a.ko"}, {"f " + m + "a.ko NEW"}}, "6.1 modules/a.ko=NEW modules/b.ko=A vmlinuz=K"},
		"hard links of ostree": {[][]string{{"f ostree/repo/objects/1.file K", "f ostree/repo/objects/2.file A", "f ostree/repo/objects/3.file C",
			"h usr/" + m + "vmlinuz ostree/repo/objects/1.file", "h usr/" + m + "a.ko ostree/repo/objects/2.file", "h usr/" + m + "b.ko ostree/repo/objects/2.file",
			"h usr/" + m + "config ostree/repo/objects/3.file"}}, "6.1 config=C modules/a.ko=A modules/b.ko=A vmlinuz=K"},
	} {
		t.Run(name, func(t *testing.T) {
			im := imageOf(t, c.layers...)
			if got, err := im.taken(t); err != nil || got != c.want {
				t.Errorf("got %q, %v; want %q", got, err, c.want)
			}
		})
	}
}

func TestHostileImage(t *testing.T) {
	const k, m = "f boot/vmlinuz-6.1 K", "lib/modules/6.1/"
	nested := func(lines ...string) string { return "f kernel.tar " + string(layerOf(t, lines...)) }
	for name, c := range map[string]struct {
		layers [][]string
		want   string // a part of the error
	}{
		"no kernel":                  {[][]string{{"f etc/passwd x"}, {"f " + m + "a.ko A"}}, "holds no kernel"},
		"kernel that was removed":    {[][]string{{k}, {"f boot/.wh.vmlinuz-6.1 "}}, "holds no kernel"},
		"kernel is a link":           {[][]string{{"l boot/vmlinuz-6.1 /etc/passwd"}}, "holds no kernel"},
		"empty":                      {[][]string{{}}, "holds no kernel"},
		"parent":                     {[][]string{{k, "f ../evil x"}}, "holds the path"},
		"parent inside":              {[][]string{{k, "f " + m + "../../../../evil x"}}, "holds the path"},
		"parent of a whiteout":       {[][]string{{k, "f boot/../../.wh.x "}}, "holds the path"},
		"whiteout of the parent":     {[][]string{{k}, {"f boot/.wh... "}}, "whiteout of no file"},
		"whiteout of nothing":        {[][]string{{k}, {"f boot/.wh. "}}, "whiteout of no file"},
		"version is odd":             {[][]string{{"f boot/vmlinuz-6\x1b K"}}, "holds the path"},
		"version has a slash's look": {[][]string{{"f boot/vmlinuz-6%2f K"}}, "no kernel version"},
		"control byte":               {[][]string{{k, "f " + m + "a\x1b[2J.ko A"}}, "holds the path"},
		"not UTF-8":                  {[][]string{{k, "f " + m + "a\xff.ko A"}}, "holds the path"},
		"long path":                  {[][]string{{k, "f " + m + strings.Repeat("d/", 300) + "a.ko A"}}, "holds the path"},
		"link out":                   {[][]string{{k, "l " + m + "a.ko ../../../../evil"}}, "unsafe symlink"},
		"link with a control byte":   {[][]string{{k, "l " + m + "a.ko /x\n"}}, "unsafe symlink"},
		"link, then a file below it": {[][]string{{k, "l " + m + "x /etc", "f " + m + "x/evil x"}}, "as a file too"},
		"file below a file":          {[][]string{{k, "f " + m + "x x", "f " + m + "x/a.ko x"}}, "as a file too"},
		"hard link out":              {[][]string{{k, "h " + m + "a.ko ../../etc/passwd"}}, "holds the path"},
		"hard link to nothing":       {[][]string{{k, "h " + m + "a.ko etc/passwd"}}, "hard link to \"etc/passwd\", which is no file"},
		"hard link to a later file":  {[][]string{{k, "h " + m + "a.ko x", "f y Y"}, {"f x X"}}, "hard link to \"x\", which is no file"},
		"kernel and config are one":  {[][]string{{"f x X", "h boot/vmlinuz-6.1 x", "h boot/config-6.1 x"}}, "are one file"},
		"two sets of modules":        {[][]string{{"f vmlinux K", "f lib/modules/6.1/a.ko A", "f lib/modules/6.2/a.ko A"}}, "modules for both 6.1 and 6.2"},
		"nested: two sets":           {[][]string{{"f kernel K", nested("f lib/modules/6.1/a.ko A", "f lib/modules/6.2/a.ko A")}}, "both kernel 6.1 and 6.2"},
		"nested: parent":             {[][]string{{"f kernel K", nested("f ../evil x")}}, "holds the path"},
		"nested: link out":           {[][]string{{"f kernel K", nested("l " + m + "a ../../evil")}}, "unsafe symlink"},
		"nested: through a link":     {[][]string{{"f kernel K", nested("l "+m+"x /", "f "+m+"x/evil x")}}, "modules/x"},
		"nested: kernel":             {[][]string{{"f kernel K", nested("f kernel K2")}}, "a kernel twice"},
		"nested: nested":             {[][]string{{"f kernel K", nested(nested("f kernel.tar x"))}}, "an archive in an archive"},
		"nested: no archive":         {[][]string{{"f kernel K", "f kernel.tar " + strings.Repeat("x", 600)}}, "read archive"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := imageOf(t, c.layers...).taken(t)
			if !banger.IsKind(err, banger.Invalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %q, %v; want %q", got, err, c.want)
			}
		})
	}
}

func TestImageBounds(t *testing.T) {
	one := layerOf(t, "f lib/modules/6.1/a/b/c.ko "+strings.Repeat("x", 10_000))
	for name, spoil := range map[string]func(*layerTree){
		"bytes":   func(l *layerTree) { l.left = 5000 },
		"entries": func(l *layerTree) { l.entries = maxLayerEntries },
		"names":   func(l *layerTree) { l.made = maxEntries - 5 },
	} {
		l := newLayerTree()
		spoil(l)
		if err := l.add(0, bytes.NewReader(one)); !banger.IsKind(err, banger.Invalid) {
			t.Errorf("too many %s: %v", name, err)
		}
	}
	for _, n := range []int{100, 512, 600, 5000} {
		if err := newLayerTree().add(0, bytes.NewReader(one[:n])); err == nil {
			t.Errorf("cut after %d bytes: no error", n)
		}
	}
	// What is not taken does not count against what a kernel may have.
	b, dir := tempBundle(t)
	b.left = 100
	im := imageOf(t, []string{"f usr/big " + strings.Repeat("x", 10_000), "f kernel K"})
	f := &filling{bundle: b, tmp: dir, options: &Options{OpenImage: im.openImage}}
	if _, err := (imageSource{"k"}).fill(t.Context(), f); err != nil {
		t.Error(err)
	}
}

// pull pulls the image as the daemon does. It leaves no working file, and after
// an error nothing at all.
func (im *fakeImage) pull(t *testing.T, ctx context.Context) (Entry, string, []banger.Progress, error) {
	t.Helper()
	dir := t.TempDir()
	out, tmp := filepath.Join(dir, "out"), filepath.Join(dir, "tmp")
	for _, d := range []string{out, tmp} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s, err := ParseSource("oci://linuxkit/kernel:6.6.71")
	if err != nil {
		t.Fatal(err)
	}
	var progress []banger.Progress
	k, err := Pull(ctx, out, Want{Name: "k", Arch: "x86_64"}, []Source{s}, Options{
		TempDir: tmp, OpenImage: im.openImage, Progress: func(p banger.Progress) { progress = append(progress, p) },
	})
	if left := tree(t, tmp); left != "" || im.open != 0 {
		t.Errorf("left: %q, and %d open", left, im.open)
	}
	if left := tree(t, out); err != nil && left != "" {
		t.Errorf("after an error there is %s", left)
	}
	return k, out, progress, err
}

func TestPullImage(t *testing.T) {
	vmlinux := vmlinuxELF(elf.EM_X86_64, true, 100_000)
	var modules []entry
	for name, b := range debianModules() {
		modules = append(modules, entry{"./lib/modules/6.6.71-linuxkit/" + name, 0, string(b)})
	}
	im := &fakeImage{opened: make([]int, 3), layers: [][]byte{
		tarOf(t, entry{"etc/os-release", 0, "x"}),
		tarOf(t, entry{"kernel", 0, "old"}, entry{"kernel-dev.tar", 0, "x"}, entry{"kernel.tar", 0, string(tarOf(t, modules...))}),
		tarOf(t, entry{"kernel", 0, string(bzImage(packGzip(vmlinux)))}),
	}}
	k, out, progress, err := im.pull(t, t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if im.ref != "linuxkit/kernel:6.6.71" || im.arch != "x86_64" {
		t.Errorf("asked for %s, %s", im.ref, im.arch)
	}
	if k.Source != "oci:registry.example/linuxkit/kernel:6.6.71@"+imageDigest || k.Digest != imageDigest ||
		k.KernelVersion != "6.6.71-linuxkit" || k.Features["overlay"] != "module" || k.Features["pvh"] != "builtin" {
		t.Errorf("record is %+v", k)
	}
	if got, _ := os.ReadFile(filepath.Join(out, "vmlinux")); !bytes.Equal(got, vmlinux) {
		t.Error("vmlinux is another one")
	}
	if fmt.Sprint(im.opened) != "[1 2 2]" {
		t.Errorf("layers were opened %v times", im.opened)
	}
	transfers, last := 0, banger.Progress{}
	for _, p := range progress {
		if p.Step == "transfer" {
			transfers++
		}
		if strings.HasPrefix(p.Step, "unpack the kernel of registry.example") {
			last = p
		}
	}
	if transfers != 3 || last.Total == 0 || last.Done > last.Total {
		t.Errorf("%d layers told of transfer, last %+v", transfers, last)
	}

	// LinuxKit's kernel may be packed as a whole.
	for _, kind := range []string{"gzip", "zstd", "xz"} {
		b := packed(t, kind)
		if kind != "gzip" {
			b = b[:len(b)-4] // the size word of the kernel's build
		}
		im = &fakeImage{opened: make([]int, 1), layers: [][]byte{tarOf(t, entry{"kernel", 0, string(b)})}}
		if k, _, _, err := im.pull(t, t.Context()); err != nil || k.SHA256 != packedSHA256 {
			t.Errorf("%s: %+v, %v", kind, k, err)
		}
	}
	im = &fakeImage{opened: make([]int, 1), layers: [][]byte{tarOf(t, entry{"kernel", 0, string(packed(t, "gzip")[:3000])})}}
	if _, _, _, err := im.pull(t, t.Context()); !banger.IsKind(err, banger.Invalid) {
		t.Errorf("damaged gzip: %v", err)
	}

	// Without modules it is a kernel too.
	im = &fakeImage{opened: make([]int, 1), layers: [][]byte{tarOf(t, entry{"vmlinux", 0, string(vmlinux)},
		entry{"metadata.json", 0, `{"distro":"own","kernel_version":"6.18.1","args":["quiet"]}`}, entry{"config", 0, "CONFIG_VIRTIO_BLK=y\n"})}}
	if k, _, _, err = im.pull(t, t.Context()); err != nil || k.Distro != "own" || k.KernelVersion != "6.18.1" || k.Features["virtio_blk"] != "builtin" {
		t.Errorf("record is %+v, %v", k, err)
	}
}

// What fails after content was taken leaves nothing.
func TestPullImageErrors(t *testing.T) {
	kernel := string(bzImage(packGzip(vmlinuxELF(elf.EM_X86_64, true, 100))))
	files := []string{"f lib/modules/6.1/a.ko A"}
	whole := func() *fakeImage {
		im := imageOf(t, files)
		im.layers[0] = tarOf(t, entry{"boot/vmlinuz-6.1", 0, kernel}, entry{"lib/modules/6.1/a.ko", 0, "A"})
		return im
	}
	wrong := banger.Errorf(banger.Unavailable, "layer 1/1: wrong digest")
	for name, c := range map[string]struct {
		do   func(*fakeImage)
		kind banger.Kind
		want string
	}{
		"digest wrong at the end": {func(im *fakeImage) { im.atEnd = wrong }, banger.Unavailable, "wrong digest"},
		"cut":                     {func(im *fakeImage) { im.layers[0] = im.layers[0][:700]; im.atEnd = wrong }, banger.Unavailable, "wrong digest"},
		"no kernel":               {func(im *fakeImage) { im.layers[0] = layerOf(t, files...) }, banger.Invalid, "registry.example/linuxkit/kernel:6.6.71: the image holds no kernel"},
		"damaged kernel":          {func(im *fakeImage) { im.layers[0] = layerOf(t, "f kernel x") }, banger.Unsupported, "neither an x86 bzImage nor an ELF file"},
		"another machine's": {func(im *fakeImage) {
			im.layers[0] = tarOf(t, entry{"vmlinux", 0, string(vmlinuxELF(elf.EM_AARCH64, true, 100))})
		}, banger.Unsupported, "the kernel is for aarch64, this host is x86_64"},
	} {
		t.Run(name, func(t *testing.T) {
			im := whole()
			c.do(im)
			_, _, _, err := im.pull(t, t.Context())
			if !banger.IsKind(err, c.kind) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s: %s", err, c.kind, c.want)
			}
		})
	}
	// The second reading differs from the first.
	im := whole()
	second := im.opened
	open := im.openImage
	o := Options{TempDir: t.TempDir(), OpenImage: func(ctx context.Context, ref, arch string, p func(banger.Progress)) (*Image, error) {
		i, err := open(ctx, ref, arch, func(banger.Progress) {
			if second[0] == 2 {
				im.atEnd = wrong
			}
		})
		return i, err
	}}
	dir := t.TempDir()
	if _, err := Pull(t.Context(), dir, Want{Name: "k", Arch: "x86_64"}, []Source{imageSource{"k"}}, o); !banger.IsKind(err, banger.Unavailable) {
		t.Errorf("wrong at the second reading: %v", err)
	}
	if left := tree(t, dir) + tree(t, o.TempDir); left != "" || im.open != 0 {
		t.Errorf("left %s, %d open", left, im.open)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, _, err := whole().pull(t, ctx); !banger.IsKind(err, banger.Canceled) || !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if _, err := Pull(t.Context(), dir, Want{Name: "k"}, []Source{imageSource{"k"}}, Options{TempDir: o.TempDir}); !banger.IsKind(err, banger.Unsupported) {
		t.Errorf("without a way to images: %v", err)
	}
}

func TestParseImage(t *testing.T) {
	for in, name := range map[string]string{
		"oci://debian": "debian-latest",
		"oci://docker.io/linuxkit/kernel:6.6.71-abc":      "kernel-6.6.71-abc",
		"oci://127.0.0.1:5000/a/b__c:T":                   "b__c-T",
		"oci://127.0.0.1:5000/a/b@" + imageDigest:         "b-0123456789ab",
		"oci://127.0.0.1:5000/a/b:v1@" + imageDigest:      "b-0123456789ab",
		"oci://quay.io/x/" + strings.Repeat("a", 80):      strings.Repeat("a", 64),
		"oci://quay.io/fedora/fedora-bootc:42":            "fedora-bootc-42",
		"oci://quay.io/centos-bootc/centos-bootc:stream9": "centos-bootc-stream9",
	} {
		s, err := ParseSource(in)
		if err != nil || s.String() != in || s.DefaultName() != name || ValidateName(s.DefaultName()) != nil {
			t.Errorf("%s: %v, named %s; %v", in, s, s.DefaultName(), err)
		}
	}
	for _, in := range []string{"oci://", "oci:///x", "oci://a\x1b", "oci:x"} {
		if s, err := ParseSource(in); !banger.IsKind(err, banger.Invalid) {
			t.Errorf("%q: %v, %v", in, s, err)
		}
	}
}

func FuzzImage(f *testing.F) {
	seed := func(lines ...string) []byte { return layerOf(f, lines...) }
	f.Add(seed("f boot/vmlinuz-6.1 K", "f lib/modules/6.1/a.ko A", "l lib/modules/6.1/build ../../x"), seed("f lib/modules/6.1/.wh.a.ko ", "h boot/config-6.1 boot/vmlinuz-6.1"))
	f.Add(seed("f kernel K", "f kernel.tar "+string(seed("f lib/modules/6.1/x/a.ko A", "l lib/modules/6.1/y x"))), seed("f .wh..wh..opq ", "f vmlinux V", "d modules"))
	f.Add(seed("f objects/1 K", "h usr/lib/modules/6.1/vmlinuz objects/1", "h usr/lib/modules/6.1/a objects/1"), seed("c boot/x", "f modules/a/b x", "f initrd.img I"))
	f.Fuzz(func(t *testing.T, low, high []byte) {
		dir := t.TempDir()
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		b, err := newBundle(t.Context(), root, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer b.close()
		im := &fakeImage{opened: make([]int, 2), layers: [][]byte{low, high}}
		_, err = imageSource{"k"}.fill(t.Context(), &filling{bundle: b, options: &Options{OpenImage: im.openImage}})
		if im.open != 0 || err == nil && b.version == "" && im.opened[0]+im.opened[1] < 3 {
			t.Errorf("%d open, opened %v, %v", im.open, im.opened, err)
		}
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range files {
			if e.Name() != vmlinuxFile && e.Name() != initrdFile && e.Name() != modulesDir {
				t.Errorf("wrote %q", e.Name())
			}
		}
	})
}
