package guest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// maxProgram bounds the guest program: it is read from disk at every boot and
// lies in banger's own binary.
const maxProgram = 7_000_000

func TestProgramIsSmall(t *testing.T) {
	out := filepath.Join(t.TempDir(), "banger-guest")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, "banger/cmd/banger-guest")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, b)
	}
	fi, err := os.Stat(out)
	if err != nil {
		t.Fatal(err)
	}
	if fi.Size() > maxProgram {
		t.Errorf("banger-guest has %d bytes, more than %d", fi.Size(), maxProgram)
	}
	t.Logf("banger-guest: %d bytes", fi.Size())
}
