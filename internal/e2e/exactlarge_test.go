//go:build e2e && large

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// largeImage makes the layout with the large image, or finds it in the cache.
func largeImage(tb testing.TB) string {
	tb.Helper()
	cmd := exec.Command(filepath.Join(suite.repo, "scripts/test-image-large"))
	cmd.Dir, cmd.Stderr = suite.repo, os.Stderr
	out, err := cmd.Output()
	check(tb, err)
	return strings.TrimSpace(string(out))
}

// TestExactLarge compares a Debian with Python, Node and compilers.
func TestExactLarge(t *testing.T) {
	x := newExact(t)
	x.box, x.asRoot = "", false // it is enough to read so much once in an emulated machine
	oci := largeImage(t)
	want, _ := x.unpack(oci, "large")
	x.trueTimes(want, x.layers(oci, "large"))
	x.inGuest(oci, "large", want)
}
