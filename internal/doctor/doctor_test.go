package doctor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger"
)

func find(t *testing.T, checks []Check, id string) Check {
	t.Helper()
	for _, c := range checks {
		if c.ID == id {
			return c
		}
	}
	t.Fatalf("no check %q", id)
	return Check{}
}

func TestMissingProgramsHaveAFix(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	checks := Run(Host{Info: banger.SystemInfo{Root: "/tmp", Cache: "/tmp",
		Drivers: []banger.Driver{{Name: "qemu", Problem: "find qemu-system-x86_64: not in PATH"}}}})
	if c := find(t, checks, "qemu"); c.Status != Fail || c.Fix == "" {
		t.Errorf("qemu: %+v", c)
	}
	if c := find(t, checks, "mmdebstrap"); c.Status != Warn || c.Fix == "" {
		t.Errorf("mmdebstrap: %+v", c)
	}
}

func TestEmulationIsAWarningWithItsReason(t *testing.T) {
	d := banger.Driver{Name: "qemu", Path: "/usr/bin/qemu-system-x86_64", Version: "7.2", Accel: "tcg", AccelReason: "no vmx"}
	c := find(t, Run(Host{Info: banger.SystemInfo{Root: "/tmp", Cache: "/tmp", Drivers: []banger.Driver{d}}}), "acceleration")
	if c.Status != Warn {
		t.Errorf("acceleration: %+v", c)
	}
}

func TestConfiguration(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.toml")
	info := banger.SystemInfo{Config: file}
	if c := find(t, Run(Host{Info: info}), "config"); c.Status != OK || !strings.Contains(c.Detail, file+" is not there") {
		t.Errorf("none: %+v", c)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if c := find(t, Run(Host{Info: info}), "config"); c.Status != OK || c.Detail != file {
		t.Errorf("good: %+v", c)
	}
	info.ConfigError = banger.Errorf(banger.Invalid, "%s:3: unknown key", file).WithHint("did you mean key?")
	if c := find(t, Run(Host{Info: info}), "config"); c.Status != Fail || c.Detail != file+":3: unknown key" || c.Fix != "did you mean key?" {
		t.Errorf("bad: %+v", c)
	}
}

func TestSubordinateIDs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "subuid")
	if err := os.WriteFile(file, []byte("12345:100000:65536\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "newuidmap"), []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	for uid, want := range map[int]Status{0: OK, 12345: OK, 54321: Warn} {
		if c := subordinateIDs(Host{UID: uid, SubUID: file}); c.Status != want || (want == Warn) != (c.Fix != "") {
			t.Errorf("uid %d: %+v", uid, c)
		}
	}
}
