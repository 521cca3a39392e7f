//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// generic sets $GENERIC to a folder with the kernel that `make kernel` builds,
// which has every driver built in.
func generic(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: generic")
	}
	dir, err := genericKernel()
	ts.Check(err)
	ts.Setenv("GENERIC", dir)
}

// genericKernel is where `make kernel` keeps its result.
func genericKernel() (string, error) {
	dir := filepath.Join(cacheDir(), "generic", "current")
	if _, err := os.Stat(filepath.Join(dir, "vmlinux")); err != nil {
		return "", &os.PathError{Op: "find the generic kernel (run: make kernel)", Path: dir, Err: err}
	}
	return dir, nil
}

// debianInitrd sets $DEBIAN to a folder with a kernel of Debian and the initrd
// that Debian makes for it, and pushes an image with the modules of that kernel
// to the registry, as library/debian:kernel.
func debianInitrd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: debian-initrd")
	}
	dir := filepath.Join(cacheDir(), "flat")
	ts.Check(command("scripts/test-flat", dir).Run())
	_, port, _ := strings.Cut(suite.registry, ":")
	ts.Check(command("scripts/test-push", filepath.Join(dir, "oci")+":kernel", port, "library/debian:kernel").Run())
	ts.Setenv("DEBIAN", filepath.Join(dir, "boot"))
}
