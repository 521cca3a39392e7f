package vmmtest

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// modules are loaded in this order by the guest, where the kernel has them as
// modules: each after those it needs.
var modules = []string{
	"virtio_ring", "virtio", "virtio_mmio", "virtio_blk", "virtio_console", "virtio-rng",
	"failover", "net_failover", "virtio_net", "button", "evdev", "pvpanic", "pvpanic-mmio",
}

// kernelDir is the directory of the kernel to test with.
func kernelDir(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("BANGER_TEST_KERNEL")
	if dir == "" {
		t.Fatal("BANGER_TEST_KERNEL is not set: want a directory with vmlinux and modules/")
	}
	if _, err := os.Stat(filepath.Join(dir, "vmlinux")); err != nil {
		t.Fatalf("BANGER_TEST_KERNEL: %v", err)
	}
	return dir
}

// buildInitrd makes the guest: the test's own init, static, and the modules.
func buildInitrd(t *testing.T, kernel string) string {
	t.Helper()
	dir := t.TempDir()
	bin := filepath.Join(dir, "init")
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", bin, "banger/internal/vmm/vmmtest/testinit")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build testinit: %v\n%s", err, out)
	}
	found := map[string]string{}
	err := filepath.WalkDir(filepath.Join(kernel, "modules"), func(path string, d fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(filepath.Base(path), ".ko"); ok {
			found[name] = path
		}
		return err
	})
	if err != nil {
		t.Fatalf("look for modules: %v", err)
	}
	var c cpio
	c.add("init", 0o100755, read(t, bin))
	c.add("modules", 0o040755, nil)
	for i, m := range modules {
		if path := found[m]; path != "" {
			c.add(fmt.Sprintf("modules/%02d-%s.ko", i, m), 0o100644, read(t, path))
		}
	}
	c.add("TRAILER!!!", 0, nil)
	path := filepath.Join(dir, "initrd")
	if err := os.WriteFile(path, c.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// cpio is an archive as the kernel unpacks it. Format: newc,
// linux/Documentation/driver-api/early-userspace/buffer-format.rst.
type cpio struct {
	bytes.Buffer
	inode int
}

func (c *cpio) add(name string, mode int, data []byte) {
	c.inode++
	fmt.Fprintf(c, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		c.inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
	c.pad()
	c.Write(data)
	c.pad()
}

func (c *cpio) pad() { c.Write(make([]byte, -c.Len()&3)) }
