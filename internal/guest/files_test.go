package guest

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"banger/internal/hello"
)

func TestHosts(t *testing.T) {
	const local = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
	const web = "127.0.1.1 web # this machine, by banger\n"
	for _, c := range []struct{ name, old, want string }{
		{"absent", "", local + web},
		{"kept", "127.0.0.1\tlocalhost db\n10.0.0.7 files # nas\n", "127.0.0.1\tlocalhost db\n10.0.0.7 files # nas\n" + web},
		{"no newline at the end", "10.0.0.7 files", "10.0.0.7 files\n" + local + web},
		{"second boot", local + web, local + web},
		{"renamed", local + "127.0.1.1 db # this machine, by banger\n10.0.0.7 files\n", local + "10.0.0.7 files\n" + web},
		{"another's line stays", local + "127.0.1.1 web.example web\n", local + "127.0.1.1 web.example web\n" + web},
		{"commented out", "#127.0.0.1 localhost\n", "#127.0.0.1 localhost\n" + local + web},
	} {
		if got := hosts(c.old, "web"); got != c.want {
			t.Errorf("%s: got\n%swant\n%s", c.name, got, c.want)
		}
	}
}

func TestResolvConf(t *testing.T) {
	n := hello.Net{DNS: []string{"192.168.127.3", "fe80::3"}, Search: []string{"lan", "example.org"}}
	want := "search lan example.org\nnameserver 192.168.127.3\nnameserver fe80::3\n"
	if got := resolvConf(n); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestMachineID(t *testing.T) {
	for _, c := range []struct{ old, id, want string }{
		{"", "ab", "ab\n"},
		{"\n", "ab", "ab\n"},
		{"uninitialized\n", "ab", "ab\n"},
		{"cd\n", "ab", "cd\n"},
		{"", "", ""},
	} {
		if got := machineID(c.old, c.id); got != c.want {
			t.Errorf("machineID(%q, %q) = %q, want %q", c.old, c.id, got, c.want)
		}
	}
}

func TestWriteFile(t *testing.T) {
	umask := syscall.Umask(0o022) // what the kernel starts pid 1 with, whoever runs the tests
	defer syscall.Umask(umask)
	dir := t.TempDir()
	path := filepath.Join(dir, "etc", "resolv.conf")
	check := func(what, want string) {
		t.Helper()
		fi, err := os.Lstat(path)
		if err != nil || !fi.Mode().IsRegular() || fi.Mode().Perm() != 0o644 {
			t.Fatalf("%s: %v, %v", what, fi, err)
		}
		if b, _ := os.ReadFile(path); string(b) != want {
			t.Fatalf("%s: got %q", what, b)
		}
		if n := len(dirNames(filepath.Dir(path))); n != 1 {
			t.Fatalf("%s: %d files in the directory", what, n)
		}
	}
	write := func(text string) {
		t.Helper()
		if err := writeFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("a\n") // the directory is missing
	check("new", "a\n")
	before, _ := os.Stat(path)
	write("a\n")
	if after, _ := os.Stat(path); !os.SameFile(before, after) {
		t.Error("the same content was written again")
	}
	write("b\n")
	check("changed", "b\n")
	os.Remove(path)
	if err := os.Symlink("../run/systemd/resolve/stub-resolv.conf", path); err != nil {
		t.Fatal(err)
	}
	write("c\n")
	check("dangling symlink", "c\n")
	os.Remove(path)
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := writeFile(path, "d\n", 0o644); err == nil || len(dirNames(filepath.Dir(path))) != 1 {
		t.Errorf("over a directory: error %v, files %v", err, dirNames(filepath.Dir(path)))
	}
}
