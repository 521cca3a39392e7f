package state

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestCacheReadsOnlyWhatChanged(t *testing.T) {
	s := newStore(t)
	start := time.Now()
	s.Cache = &Cache[record]{now: func() time.Time { return start.Add(time.Hour) }}
	var checked []string
	s.Check = func(_, name string, _ record) error {
		checked = append(checked, name)
		return nil
	}
	for i, name := range []string{"a", "b", "c", "d"} {
		if err := add(t, s, name, i, false); err != nil {
			t.Fatal(err)
		}
		if err := WriteFile(s.Path(name, "vmlinux"), []byte("kernel"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	list := func(read, want string) {
		t.Helper()
		checked = nil
		got, err := s.List()
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, r := range got {
			if r.Problem != "" {
				r.Name += "!"
			}
			names = append(names, r.Name)
		}
		if g := strings.Join(names, " "); g != want {
			t.Errorf("listed %q, want %q", g, want)
		}
		if c := strings.Join(checked, " "); c != read {
			t.Errorf("read %q, want %q", c, read)
		}
	}
	list("a b c d", "a b c d")
	list("", "a b c d")

	if err := WriteRecord(s.Path("a", s.File), record{Name: "A", Value: 0}); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(s.Path("b", "vmlinux")); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete("c"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.Path("d", s.File), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	list("a b", "A b d!")
	list("", "A b d!") // the bad one is read, and found bad, each time
	if err := WriteRecord(s.Path("d", s.File), record{Name: "d"}); err != nil {
		t.Fatal(err)
	}
	list("d", "A b d")
	if err := add(t, s, "d", 7, true); err != nil {
		t.Fatal(err)
	}
	list("d", "A b d")

	// A file system's clock has ticks: a change right now may be followed by
	// another one that looks the same.
	s.Cache = &Cache[record]{now: func() time.Time { return start }}
	list("a b d", "A b d")
	list("a b d", "A b d")
}
