package kernelcat

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What WriteModules makes serves kmod's own modprobe.
func TestWriteModules(t *testing.T) {
	modprobe := "/sbin/modprobe"
	if _, err := os.Stat(modprobe); err != nil {
		t.Fatal("no modprobe; run: apt-get install -y --no-install-recommends kmod")
	}
	src := writeFiles(t, map[string][]byte{
		"kernel/net/llc.ko":          moduleELF("depends="),
		"kernel/net/stp.ko":          moduleELF("depends=llc"),
		"kernel/net/bridge.ko":       moduleELF("depends=stp,llc", "alias=rtnl-link-bridge", "softdep=pre: br_netfilter"),
		"kernel/net/br-netfilter.ko": moduleELF("depends=bridge"),
		"kernel/fs/fuse.ko":          moduleELF("depends=", "alias=devname:fuse", "alias=char-major-10-229", "alias=fs-fuse"),
		"kernel/cpu.ko":              moduleELF("depends=", "alias=cpu:type:x86,ven*[0-9A-F]*mod-x"),
		"modules.builtin":            []byte("kernel/fs/ext4/ext4.ko\n"),
		"modules.order":              []byte("kernel/net/llc.ko\n"),
	})
	var archive bytes.Buffer
	if err := WriteModules(&archive, src); err != nil {
		t.Fatal(err)
	}
	var again bytes.Buffer
	if err := WriteModules(&again, src); err != nil || !bytes.Equal(archive.Bytes(), again.Bytes()) {
		t.Errorf("a second time it is another archive: %v", err)
	}
	root := t.TempDir()
	dir := filepath.Join(root, "lib/modules/6.1")
	r := tar.NewReader(&archive)
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, h.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"bridge":                      "llc.ko stp.ko bridge.ko",
		"rtnl-link-bridge":            "llc.ko stp.ko bridge.ko",
		"br_netfilter":                "llc.ko stp.ko bridge.ko br-netfilter.ko",
		"br-netfilter":                "llc.ko stp.ko bridge.ko br-netfilter.ko",
		"fs-fuse":                     "fuse.ko",
		"ext4":                        "builtin ext4",
		"cpu:type:x86,venA1mod-x":     "cpu.ko",
		"cpu:type:x86,ven--mod-x":     "",
		"nothing-of-that-name-at-all": "",
	} {
		out, err := exec.Command(modprobe, "-d", root, "-S", "6.1", "--ignore-install", "--show-depends", name).CombinedOutput()
		var got []string
		for line := range strings.Lines(string(out)) {
			f := strings.Fields(line)
			switch {
			case len(f) == 2 && f[0] == "insmod":
				got = append(got, filepath.Base(f[1]))
			case len(f) == 2 && f[0] == "builtin":
				got = append(got, f...)
			}
		}
		// The soft dependency comes first, and needs what follows.
		if s := strings.Join(got, " "); s != want && !strings.HasSuffix(s, want) || (err == nil) != (want != "") {
			t.Errorf("modprobe %s: %q, want %q (%v)\n%s", name, s, want, err, out)
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, "modules.devname")); err != nil || string(b) != "fuse fuse c10:229\n" {
		t.Errorf("modules.devname: %q, %v", b, err)
	}
}

func TestTrie(t *testing.T) {
	var tr trie
	for _, k := range []string{"abc", "abd", "ab", "x", "abcd", "ab"} {
		tr.add(k, "v-"+k, 0)
	}
	want := "\xb0\x07\xf4\x57\x00\x02\x00\x01"
	if b := tr.bytes(); string(b[:8]) != want || len(b) < 60 {
		t.Errorf("index is % x", b)
	}
	if n := len((&trie{}).bytes()); n != 12 {
		t.Errorf("an empty index has %d bytes", n)
	}
}
