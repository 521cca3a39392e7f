package state

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestCacheReadsOnlyWhatChanged(t *testing.T) {
	s := newStore(t)
	s.Cache = &Cache[record]{}
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
	try := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	list("a b c d", "a b c d")
	list("", "a b c d")
	version := func() uint64 {
		t.Helper()
		_, v, err := s.ListVersion()
		try(err)
		return v
	}
	first := version()
	if first == 0 || version() != first {
		t.Error("the version changes by itself")
	}
	try(WriteRecord(s.Path("a", s.File), record{Name: "a", Value: 0}))
	if version() == first {
		t.Error("the version is that of another list")
	}

	try(WriteRecord(s.Path("a", s.File), record{Name: "A", Value: 0}))
	try(os.Remove(s.Path("b", "vmlinux")))
	try(s.Delete("c"))
	try(os.WriteFile(s.Path("d", s.File), []byte("{"), 0o644))
	list("a b", "A b d!")
	list("", "A b d!") // the bad one is read, and found bad, each time
	try(WriteRecord(s.Path("d", s.File), record{Name: "d"}))
	list("d", "A b d")
	try(add(t, s, "d", 7, true)) // the folders of both names change places
	list("d", "A b d")

	// Two changes that follow each other faster than the file system's clock
	// ticks, the second in place and of the same length.
	try(os.WriteFile(s.Path("b", s.File), []byte(`{"name":"1"}`), 0o644))
	list("b", "A 1 d")
	try(os.WriteFile(s.Path("b", s.File), []byte(`{"name":"2"}`), 0o644))
	list("b", "A 2 d")

	try(os.Rename(s.Path("a"), s.Path("z")))
	list("z", "2 d A")
	try(WriteRecord(s.Path("z", s.File), record{Name: "Z"}))
	list("z", "2 d Z")
	try(os.Mkdir(s.Path("e"), 0o755)) // by hand, its record not there yet
	list("", "2 d e! Z")
	try(WriteRecord(s.Path("e", s.File), record{Name: "e"}))
	list("e", "2 d e Z")
}

// Without a place for one more watch, without one for the store, and after more
// changes than the kernel tells, a list is what the folders are.
func TestCacheWithoutWatches(t *testing.T) {
	s := newStore(t)
	s.Cache = &Cache[record]{}
	if err := add(t, s, "a", 1, false); err != nil {
		t.Fatal(err)
	}
	value := func(want int) {
		t.Helper()
		list, err := s.List()
		if err != nil || len(list) != 1 || list[0].Value != want {
			t.Errorf("got %+v, %v, want one with %d", list, err, want)
		}
	}
	value(1)
	lose := map[string]func(){
		"the record's":   func() { s.Cache.records["a"].watch, s.Cache.records["a"].kept = -1, false },
		"the store's":    func() { s.Cache.watcher.close() },
		"the descriptor": func() { _ = s.Cache.watcher.file.Close() },
	}
	next := 1
	for name, f := range lose {
		f()
		for range 2 {
			next++
			if err := add(t, s, "a", next, true); err != nil {
				t.Fatal(name, err)
			}
			value(next)
		}
	}
	for i := range 20000 { // more than fs.inotify.max_queued_events has by default
		if err := unix.Chmod(s.Path("a", s.File), uint32(0o600+i%2*0o40)); err != nil {
			t.Fatal(err)
		}
		if err := unix.Chmod(s.Path("a"), uint32(0o700+i%2*0o50)); err != nil {
			t.Fatal(err)
		}
	}
	if err := WriteRecord(s.Path("a", s.File), record{Value: -1}); err != nil {
		t.Fatal(err)
	}
	value(-1)
}
