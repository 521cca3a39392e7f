package state

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger"
)

type record struct {
	Name    string
	Value   int
	Problem string `json:",omitempty"`
}

func newStore(t *testing.T) Store[record] {
	t.Helper()
	return Store[record]{Dir: t.TempDir(), File: "manifest.json", Noun: "kernel",
		Broken: func(name, problem string) record { return record{Name: name, Problem: problem} }}
}

func add(t *testing.T, s Store[record], name string, v int, replace bool) error {
	t.Helper()
	stage, err := s.Stage()
	if err != nil {
		t.Fatal(err)
	}
	err = s.Commit(stage, name, record{Name: name, Value: v}, replace)
	if err != nil {
		_ = os.RemoveAll(stage)
	}
	return err
}

func TestStoreLife(t *testing.T) {
	s := newStore(t)
	if err := add(t, s, "debian-6.1", 1, false); err != nil {
		t.Fatal(err)
	}
	if err := add(t, s, "debian-6.1", 2, false); !banger.IsKind(err, banger.Exists) {
		t.Fatalf("second commit: %v, want exists", err)
	}
	if err := add(t, s, "debian-6.1", 3, true); err != nil {
		t.Fatal(err)
	}
	if v, err := s.Get("debian-6.1"); err != nil || v.Value != 3 {
		t.Fatalf("get = %+v, %v", v, err)
	}
	if err := s.Delete("debian-6.1"); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(s.Dir); len(left) != 0 {
		t.Fatalf("left behind: %v", left)
	}
}

func TestStoreMissingHintsTheNearestName(t *testing.T) {
	s := newStore(t)
	if err := add(t, s, "debian-6.1", 1, false); err != nil {
		t.Fatal(err)
	}
	_, err := s.Get("debain-6.1")
	if e := banger.AsError(err); e.Kind != banger.NotFound || !strings.Contains(e.Hint, "debian-6.1") {
		t.Fatalf("got %+v", e)
	}
}

// What is removed while somebody looks at it is not there, and not broken.
func TestStoreRemovedMeanwhile(t *testing.T) {
	s := newStore(t)
	s.Check = func(dir, _ string, _ record) error {
		return errors.Join(os.RemoveAll(dir), errors.New("a file is missing"))
	}
	for _, name := range []string{"one", "two"} {
		if err := add(t, s, name, 1, false); err != nil {
			t.Fatal(err)
		}
	}
	if v, err := s.Get("one"); !banger.IsKind(err, banger.NotFound) || v != (record{}) {
		t.Errorf("got %+v, %v", v, err)
	}
	if list, err := s.List(); err != nil || len(list) != 0 {
		t.Errorf("listed %+v, %v", list, err)
	}
}

func TestStoreListsBadRecords(t *testing.T) {
	bad := map[string]func(path string) error{
		"half":    func(p string) error { return os.WriteFile(p, []byte(`{"Name": "ha`), 0o600) },
		"empty":   func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"symlink": func(p string) error { return os.Symlink("/etc/passwd", p) },
		"folder":  func(p string) error { return os.Mkdir(p, 0o700) },
		"long":    func(p string) error { return os.WriteFile(p, make([]byte, maxRecord+1), 0o600) },
		"absent":  func(string) error { return nil },
	}
	s := newStore(t)
	if err := add(t, s, "good", 1, false); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range bad {
		if err := os.Mkdir(s.Path(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := spoil(s.Path(name, s.File)); err != nil {
			t.Fatal(err)
		}
	}
	list, err := s.List()
	if err != nil || len(list) != len(bad)+1 {
		t.Fatalf("list = %v, %v", list, err)
	}
	for _, r := range list {
		if (r.Name == "good") != (r.Problem == "") {
			t.Errorf("%s: problem %q", r.Name, r.Problem)
		}
	}
	for name := range bad {
		if err := s.Delete(name); err != nil {
			t.Errorf("delete %s: %v", name, err)
		}
	}
}

func TestSweepRemovesLeftoversOnly(t *testing.T) {
	s := newStore(t)
	if err := add(t, s, "kept", 1, false); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stage(); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(s.Dir, trashPrefix+"x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Sweep(); err != nil {
		t.Fatal(err)
	}
	left, _ := os.ReadDir(s.Dir)
	if len(left) != 1 || left[0].Name() != "kept" {
		t.Fatalf("left: %v", left)
	}
}

func TestNames(t *testing.T) {
	for _, bad := range []string{"", ".", "..", "../x", "a/b", ".hidden", "-flag", "a b", "a\n", strings.Repeat("x", 129)} {
		if ValidateName("image", bad) == nil {
			t.Errorf("name %q was taken", bad)
		}
	}
	for _, bad := range []string{"", "-a", "A", "a_b", "a.b", "a,b", "a/../b", strings.Repeat("x", 64)} {
		if ValidateVMName(bad) == nil {
			t.Errorf("vm name %q was taken", bad)
		}
	}
	for _, good := range []string{"a", "0", "web-1", strings.Repeat("x", 63)} {
		if err := ValidateVMName(good); err != nil {
			t.Error(err)
		}
	}
}

func TestNearest(t *testing.T) {
	names := []string{"debian-bookworm", "debian-trixie", "golden"}
	for in, want := range map[string]string{"debian-bokworm": "debian-bookworm", "goldne": "golden", "zzz": "", "": ""} {
		if got := Nearest(in, names); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestLocateKeepsSocketPathsShort(t *testing.T) {
	root := "/" + strings.Repeat("long/", 60)
	l, err := Locate(func(k string) string { return map[string]string{"BANGER_ROOT": root}[k] })
	if err != nil {
		t.Fatal(err)
	}
	if p := filepath.Join(l.VMRun("0123456789ab"), AgentSocket); len(p) > 107 {
		t.Errorf("%q has %d bytes", p, len(p))
	}
	other, _ := Locate(func(k string) string { return map[string]string{"BANGER_ROOT": root + "x"}[k] })
	if other.Run == l.Run {
		t.Error("two roots share one run directory")
	}
}

func TestLocateConfig(t *testing.T) {
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		env  map[string]string
		want string
	}{
		{map[string]string{"HOME": "/home/u"}, "/home/u/.config/banger/config.toml"},
		{map[string]string{"HOME": "/home/u", "XDG_CONFIG_HOME": "/etc/u"}, "/etc/u/banger/config.toml"},
		{map[string]string{"HOME": "/home/u", "XDG_CONFIG_HOME": "relative"}, "/home/u/.config/banger/config.toml"},
		{map[string]string{"HOME": "/home/u", "XDG_CONFIG_HOME": "/etc/u", "BANGER_ROOT": "/r"}, "/r/config.toml"},
		{map[string]string{"HOME": "/home/u", "BANGER_ROOT": "/r", "BANGER_CONFIG": "/c.toml"}, "/c.toml"},
		{map[string]string{"HOME": "/home/u", "BANGER_CONFIG": "c.toml"}, wd + "/c.toml"},
	} {
		if l, err := Locate(func(k string) string { return tt.env[k] }); err != nil || l.Config != tt.want {
			t.Errorf("%v: %q, %v; want %q", tt.env, l.Config, err, tt.want)
		}
	}
}

func TestLockFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	l, err := LockFile(path, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := LockFile(path, false); !errors.Is(err, ErrLocked) {
		t.Fatalf("second lock: %v", err)
	}
	l.Unlock()
	l, err = LockFile(path, true)
	if err != nil {
		t.Fatal(err)
	}
	l.Unlock()
}

func TestKeysLockOneAtATime(t *testing.T) {
	var k Keys
	unlock, err := k.Lock(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancelCause(t.Context())
	cancel(fmt.Errorf("gone"))
	if _, err := k.Lock(gone, "a"); err == nil {
		t.Fatal("a held key was given out")
	}
	other, err := k.Lock(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	other()
	got := make(chan error, 1)
	go func() {
		second, err := k.Lock(t.Context(), "a")
		if err == nil {
			second()
		}
		got <- err
	}()
	unlock()
	if err := <-got; err != nil {
		t.Fatal(err)
	}
}
