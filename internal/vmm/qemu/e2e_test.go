//go:build e2e

package qemu

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"banger/internal/vmm/vmmtest"
)

func TestConformance(t *testing.T) { vmmtest.Run(t, New()) }

// TestConfined looks at the process of a real QEMU from outside.
func TestConfined(t *testing.T) {
	t.Setenv("SECRET_OF_OURS", "x")
	spec := fakeSpec(t)
	spec.Kernel = os.Getenv("BANGER_TEST_KERNEL") + "/vmlinux"
	m, err := New().Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = m.Kill()
		<-m.Done()
	}()
	pid := m.Process().PID
	proc := func(name string) string {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if !regexp.MustCompile(`(?m)^Seccomp:\s*2$`).MatchString(proc("status")) {
		t.Error("no seccomp filter")
	}
	if sid, err := unix.Getsid(pid); err != nil || sid != pid {
		t.Errorf("session %d (%v), want its own, %d", sid, err, pid)
	}
	if strings.Contains(proc("environ"), "SECRET") {
		t.Error("QEMU has our environment")
	}
}
