//go:build e2e

package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"banger"
)

// TestUpgrade runs a command of another build: it takes the daemon over, and
// the VM of before runs on under it.
func TestUpgrade(t *testing.T) {
	next := filepath.Join(t.TempDir(), "banger") // before newHost, whose clean-up needs it
	h := newHost(t)
	if out, err := h.banger("vm", "create", "--image", "debian-bookworm", "--name", "box").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	before := h.show(t, "box")
	client := &banger.Client{Socket: h.layout(t).Socket()}
	defer client.Close()
	old, err := client.SystemVersion(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	h.bin = next
	build := exec.Command(filepath.Join(suite.repo, "scripts/go"), "build", "-ldflags", "-s -w -X main.version=next", "-buildvcs=false", "-o", h.bin, "./cmd/banger")
	build.Dir = suite.repo
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := h.output("exec", "box", "--", "echo", "here"); err != nil || out != "here" {
		t.Fatalf("exec after the upgrade: %q, %v", out, err)
	}
	now, err := client.SystemVersion(t.Context())
	if err != nil || now.Build == old.Build || now.PID == old.PID || now.Version != "next" {
		t.Errorf("daemon before %+v, after %+v, %v", old, now, err)
	}
	if after := h.show(t, "box"); *after.Machine != *before.Machine {
		t.Errorf("machine before %+v, after %+v", before.Machine, after.Machine)
	}
	if _, err := h.output("vm", "rm", "--force", "box"); err != nil {
		t.Error(err)
	}
}

// TestNoSpace pulls into a file system that is too small: the error says so,
// nothing half made stays, and the daemon serves on.
func TestNoSpace(t *testing.T) {
	dir := t.TempDir()
	script := `set -e
mount -t tmpfs -o size=24m tmpfs "$DIR"
mkdir -m 700 "$DIR/run"
export BANGER_ROOT="$DIR/root" XDG_RUNTIME_DIR="$DIR/run"
banger image pull "$REF" || echo "code=$?"
banger image ls -q
banger daemon stop
find "$DIR" -type f -size +64k
`
	cmd := exec.Command("unshare", "--map-root-user", "--mount", "sh", "-c", script)
	cmd.Env = append(os.Environ(), "DIR="+dir, "REF="+suite.registry+"/library/debian:bookworm", "PATH="+suite.bin+":"+os.Getenv("PATH"))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, &stderr)
	}
	if got := strings.TrimSpace(stdout.String()); got != "code=1" {
		t.Errorf("stdout %q, want code=1 and no file left", got)
	}
	if !strings.Contains(stderr.String(), "no space left") || !strings.Contains(stderr.String(), "hint: ") {
		t.Errorf("stderr %q", &stderr)
	}
}
