package kernelcat

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"banger"
)

// moduleELF makes a relocatable ELF file that has nothing but a .modinfo section.
func moduleELF(info ...string) []byte {
	const names = "\x00.modinfo\x00.shstrtab\x00"
	modinfo := strings.Join(info, "\x00") + "\x00"
	h := elf.Header64{Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Shoff: 64, Shentsize: 64, Shnum: 3, Shstrndx: 2}
	copy(h.Ident[:], elf.ELFMAG+"\x02\x01\x01")
	data := uint64(64 + 3*64)
	var b bytes.Buffer
	binary.Write(&b, binary.LittleEndian, h)
	binary.Write(&b, binary.LittleEndian, []elf.Section64{
		{},
		{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: data, Size: uint64(len(modinfo))},
		{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: data + uint64(len(modinfo)), Size: uint64(len(names))},
	})
	b.WriteString(modinfo + names)
	return b.Bytes()
}

// writeFiles writes files below a new folder.
func writeFiles(t *testing.T, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, b := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// debianModules are modules with the dependencies of Debian's 6.1 cloud kernel.
func debianModules() map[string][]byte {
	return map[string][]byte{
		"kernel/drivers/virtio/virtio.ko":                    moduleELF("license=GPL", "depends=virtio_ring", "name=virtio"),
		"kernel/drivers/virtio/virtio_ring.ko":               moduleELF("license=GPL", "depends=", "name=virtio_ring"),
		"kernel/drivers/virtio/virtio_mmio.ko":               moduleELF("depends=virtio,virtio_ring"),
		"kernel/drivers/block/virtio_blk.ko":                 moduleELF("depends=virtio,virtio_ring"),
		"kernel/drivers/char/virtio_console.ko":              moduleELF("depends=virtio,virtio_ring"),
		"kernel/drivers/char/hw_random/virtio-rng.ko":        moduleELF("depends=virtio,virtio_ring"),
		"kernel/drivers/net/virtio_net.ko":                   moduleELF("depends=virtio_ring,virtio,net_failover"),
		"kernel/drivers/net/net_failover.ko":                 moduleELF("depends=failover"),
		"kernel/net/core/failover.ko":                        moduleELF("depends="),
		"kernel/fs/overlayfs/overlay.ko":                     moduleELF("depends="),
		"kernel/fs/erofs/erofs.ko":                           moduleELF("depends=libcrc32c"),
		"kernel/lib/libcrc32c.ko":                            moduleELF("softdep=pre: crc32c", "depends="),
		"kernel/net/vmw_vsock/vmw_vsock_virtio_transport.ko": moduleELF("depends="),
		builtinFile: []byte("kernel/fs/ext4/ext4.ko\nkernel/crypto/crc32c_generic.ko\n"),
	}
}

func moduleOrder(dir string, names []string) ([]string, error) {
	t, err := openModules(dir)
	if err != nil {
		return nil, err
	}
	defer t.root.Close()
	return t.order(names)
}

func TestModuleOrder(t *testing.T) {
	dir := writeFiles(t, debianModules())
	for _, tt := range []struct {
		names, want string
	}{
		{"virtio", "virtio_ring virtio"},
		{"virtio_mmio virtio_blk overlay", "virtio_ring virtio virtio_mmio virtio_blk overlay"},
		{"virtio-net", "virtio_ring virtio failover net_failover virtio_net"},
		{"virtio_rng", "virtio_ring virtio virtio-rng"},
		{"virtio-rng virtio_rng", "virtio_ring virtio virtio-rng"},
		{"ext4 overlay", "overlay"},
		{"erofs", "libcrc32c erofs"},
		{"", ""},
	} {
		got, err := moduleOrder(dir, strings.Fields(tt.names))
		if err != nil {
			t.Errorf("%s: %v", tt.names, err)
			continue
		}
		var names []string
		for _, p := range got {
			if _, err := os.Stat(filepath.Join(dir, p)); err != nil {
				t.Error(err)
			}
			names = append(names, strings.TrimSuffix(filepath.Base(p), ".ko"))
		}
		if s := strings.Join(names, " "); s != tt.want {
			t.Errorf("%s: got %s, want %s", tt.names, s, tt.want)
		}
	}
}

func TestModuleOrderBad(t *testing.T) {
	var packed bytes.Buffer
	z, _ := zstd.NewWriter(&packed)
	z.Write(moduleELF("depends=plain"))
	z.Close()
	var zipped bytes.Buffer
	g := gzip.NewWriter(&zipped)
	g.Write(moduleELF("depends=packed"))
	g.Close()
	dir := writeFiles(t, map[string][]byte{
		"kernel/plain.ko":          moduleELF("depends="),
		"kernel/packed.ko.zst":     packed.Bytes(),
		"kernel/zipped.ko.gz":      zipped.Bytes(),
		"kernel/xz.ko.xz":          []byte("\xfd7zXZ\x00"),
		"kernel/notzstd.ko.zst":    moduleELF(),
		"kernel/notgzip.ko.gz":     moduleELF(),
		"kernel/a.ko":              moduleELF("depends=b"),
		"kernel/b.ko":              moduleELF("depends=a"),
		"kernel/soft.ko":           moduleELF("softdep=pre: softer nonesuch post: xz", "depends="),
		"kernel/softer.ko":         moduleELF("softdep=pre: soft", "depends="),
		"kernel/self.ko":           moduleELF("depends=self"),
		"kernel/needy.ko":          moduleELF("depends=plain,nonesuch"),
		"kernel/broken.ko":         []byte("\x7fELF"),
		"kernel/nosections.ko":     append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 57)...),
		"kernel/twice.ko":          moduleELF("depends=nonesuch"),
		"updates/dkms/twice.ko":    moduleELF("depends=plain"),
		"kernel/plain.ko.sig":      []byte("x"),
		"kernel/drivers/readme.md": []byte("x"),
	})
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "kernel/link.ko")); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		want string // files, or
		kind banger.Kind
		msg  string
	}{
		{name: "zipped", want: "kernel/plain.ko kernel/packed.ko.zst kernel/zipped.ko.gz"},
		{name: "soft", want: "kernel/softer.ko kernel/soft.ko"},
		{name: "nosections", want: "kernel/nosections.ko"},
		{name: "twice", want: "kernel/plain.ko updates/dkms/twice.ko"},
		{name: "xz", kind: banger.Invalid, msg: "kernel/xz.ko.xz"},
		{name: "notzstd", kind: banger.Invalid, msg: "kernel/notzstd.ko.zst"},
		{name: "notgzip", kind: banger.Invalid, msg: "kernel/notgzip.ko.gz"},
		{name: "a", kind: banger.Invalid, msg: "depend on each other"},
		{name: "self", kind: banger.Invalid, msg: "depend on each other"},
		{name: "needy", kind: banger.NotFound, msg: "no module nonesuch, which needy depends on"},
		{name: "none-such", kind: banger.NotFound, msg: "no module none_such"},
		{name: "../plain", kind: banger.NotFound, msg: "no module"},
		{name: "link", kind: banger.NotFound, msg: "no module link"},
		{name: "broken", kind: banger.Invalid, msg: "kernel/broken.ko"},
	} {
		got, err := moduleOrder(dir, []string{tt.name})
		if tt.kind == "" {
			if s := strings.Join(got, " "); err != nil || s != tt.want {
				t.Errorf("%s: got %s, %v", tt.name, s, err)
			}
		} else if !banger.IsKind(err, tt.kind) || !strings.Contains(err.Error(), tt.msg) {
			t.Errorf("%s: got %v, want kind %s with %q", tt.name, err, tt.kind, tt.msg)
		}
	}
	if _, err := moduleOrder(filepath.Join(dir, "nonesuch"), nil); err == nil {
		t.Error("no folder: no error")
	}
}

// modulePackers are what distributions pack modules with.
// Source: linux/scripts/Makefile.modinst.
var modulePackers = map[string][]string{
	".xz":  {"xz", "--check=crc32", "--lzma2=dict=1MiB", "-c"},
	".zst": {"zstd", "-T0", "-q", "-c"},
	".gz":  {"gzip", "-n", "-c"},
}

func packModule(t *testing.T, packing string, b []byte) []byte {
	t.Helper()
	argv := modulePackers[packing]
	c := exec.Command(argv[0], argv[1:]...)
	c.Stdin = bytes.NewReader(b)
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%v: %v; run: apt-get install -y --no-install-recommends xz-utils zstd gzip", argv, err)
	}
	return out
}

// Packed as their distributions do, modules are put in order and read like others.
func TestPackedModules(t *testing.T) {
	for packing := range modulePackers {
		files := debianModules()
		for name, b := range files {
			if strings.HasSuffix(name, ".ko") {
				files[name+packing] = packModule(t, packing, b)
				delete(files, name)
			}
		}
		dir := writeFiles(t, files)
		got, err := InitrdModules("k", dir)
		if err != nil || len(got) != 10 || got[0] != "kernel/drivers/virtio/virtio_ring.ko"+packing {
			t.Errorf("%s: %v, %v", packing, got, err)
		}
		name, b, err := ReadModule(dir, "kernel/drivers/char/hw_random/virtio-rng.ko"+packing)
		if err != nil || name != "virtio-rng.ko" || !bytes.Equal(b, debianModules()["kernel/drivers/char/hw_random/virtio-rng.ko"]) {
			t.Errorf("%s: read %q, %d bytes, %v", packing, name, len(b), err)
		}
		packed := files["kernel/fs/overlayfs/overlay.ko"+packing]
		for _, n := range []int{1, 10, len(packed) / 2, len(packed) - 1} {
			cut := writeFiles(t, map[string][]byte{"a.ko" + packing: packed[:n]})
			if _, _, err := ReadModule(cut, "a.ko"+packing); !banger.IsKind(err, banger.Invalid) {
				t.Errorf("%s cut after %d bytes: %v", packing, n, err)
			}
		}
	}
	dir := writeFiles(t, map[string][]byte{"a.ko": []byte("plain")})
	if name, b, err := ReadModule(dir, "a.ko"); err != nil || name != "a.ko" || string(b) != "plain" {
		t.Errorf("plain: %q, %q, %v", name, b, err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "b.ko")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"b.ko", "../a.ko", "none.ko"} {
		if _, _, err := ReadModule(dir, name); err == nil {
			t.Errorf("%s was read", name)
		}
	}
}

// A module that unpacks to more than any has, or whose dictionary asks for more
// memory than any needs, is refused.
func TestModuleBombs(t *testing.T) {
	for packing := range modulePackers {
		packed := packModule(t, packing, make([]byte, 1<<20))
		if b, err := unpackModule(bytes.NewReader(packed), packing, 1<<20); err != nil || len(b) != 1<<20 {
			t.Errorf("%s: %d bytes, %v", packing, len(b), err)
		}
		if _, err := unpackModule(bytes.NewReader(packed), packing, 1<<20-1); !banger.IsKind(err, banger.Invalid) || !strings.Contains(err.Error(), "more than") {
			t.Errorf("%s: %v", packing, err)
		}
	}
	wide := bytes.Clone(packModule(t, ".xz", []byte("x")))
	dictionary := bytes.Index(wide, []byte{0x21, 1}) + 2 // filter LZMA2, one byte of properties
	wide[dictionary] = 40                                // 4 GiB
	binary.LittleEndian.PutUint32(wide[20:], crc32.ChecksumIEEE(wide[12:20]))
	dir := writeFiles(t, map[string][]byte{"a.ko.xz": wide})
	if _, _, err := ReadModule(dir, "a.ko.xz"); !banger.IsKind(err, banger.Invalid) || !strings.Contains(err.Error(), "dictionary") {
		t.Errorf("a wide dictionary: %v", err)
	}
}

func TestInitrdModules(t *testing.T) {
	files := debianModules()
	got, err := InitrdModules("k", writeFiles(t, files))
	want := []string{
		"kernel/drivers/virtio/virtio_ring.ko", "kernel/drivers/virtio/virtio.ko", "kernel/drivers/virtio/virtio_mmio.ko",
		"kernel/drivers/block/virtio_blk.ko", "kernel/fs/overlayfs/overlay.ko", "kernel/drivers/char/virtio_console.ko",
		"kernel/net/core/failover.ko", "kernel/drivers/net/net_failover.ko", "kernel/drivers/net/virtio_net.ko",
		"kernel/drivers/char/hw_random/virtio-rng.ko",
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	delete(files, "kernel/drivers/char/hw_random/virtio-rng.ko")
	if got, err := InitrdModules("k", writeFiles(t, files)); err != nil || len(got) != len(want)-1 {
		t.Errorf("without virtio-rng: got %v, %v", got, err)
	}
	delete(files, "kernel/fs/overlayfs/overlay.ko")
	if _, err := InitrdModules("k", writeFiles(t, files)); !banger.IsKind(err, banger.Unsupported) || err.Error() != "kernel k has no overlay" {
		t.Errorf("without overlay: %v", err)
	}
}

func TestFeatures(t *testing.T) {
	config := "# CONFIG_IP_PNP is not set\nCONFIG_VIRTIO_MMIO_CMDLINE_DEVICES=y\nCONFIG_9P_FS=m\nCONFIG_FUSE_FS=y\nCONFIG_CMDLINE=\"a=b\"\n"
	got, err := Features(writeFiles(t, debianModules()), strings.NewReader(config), true)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"virtio_mmio": "module", "virtio_blk": "module", "virtio_net": "module", "virtio_console": "module", "virtio_rng": "module",
		"vsock": "module", "overlay": "module", "erofs": "module", "ext4": "builtin", "fuse": "builtin",
		"virtio_mmio_cmdline": "builtin", "pvh": "builtin",
	}
	for name := range want {
		if got[name] != want[name] {
			t.Errorf("%s is %q, want %q", name, got[name], want[name])
		}
	}
	if len(got) != len(want) {
		t.Errorf("got %v", got)
	}
	// a kernel built without modules says everything in its configuration
	got, err = Features(t.TempDir(), strings.NewReader("CONFIG_OVERLAY_FS=y\nCONFIG_IP_PNP=y\n"), false)
	if err != nil || len(got) != 2 || got["overlay"] != "builtin" || got["ip_pnp"] != "builtin" {
		t.Errorf("without modules: got %v, %v", got, err)
	}
}
