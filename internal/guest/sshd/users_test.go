package sshd

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestLookupUser(t *testing.T) {
	dir := t.TempDir()
	d := databases{filepath.Join(dir, "passwd"), filepath.Join(dir, "group")}
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(d.passwd, "root:x:0:0::/root:/bin/ash\n#comment\nbroken:x:1\nnan:x:abc:0::/:\nbig:x:4294967296:0::/:\nminus:x:4294967295:0::/:\n"+
		"bob:x:1000:100:Bob:/home/bob:/bin/zsh\nbob:x:1001:100:Twice:/home/two:\n1234:x:77:78::/n:\nnohome:x:5:5:::\n+nis::::::\n")
	write(d.group, "root:x:0:\nusers:x:100:bob\nwheel:x:10:alice,bob\nvideo:x:44:bobby\ndup:x:10:bob\nbad:x:y:bob\nlast:x:99:bob")
	for spec, want := range map[string]user{
		"":            {"root", 0, 0, nil, "/root", "/bin/ash"},
		"root":        {"root", 0, 0, nil, "/root", "/bin/ash"},
		"0":           {"root", 0, 0, nil, "/root", "/bin/ash"},
		"bob":         {"bob", 1000, 100, []uint32{10, 99}, "/home/bob", "/bin/zsh"},
		"1000":        {"bob", 1000, 100, []uint32{10, 99}, "/home/bob", "/bin/zsh"},
		"bob:wheel":   {"bob", 1000, 10, nil, "/home/bob", "/bin/zsh"},
		"bob:":        {"bob", 1000, 100, []uint32{10, 99}, "/home/bob", "/bin/zsh"},
		":wheel":      {"root", 0, 10, nil, "/root", "/bin/ash"},
		"1000:7":      {"bob", 1000, 7, nil, "/home/bob", "/bin/zsh"},
		"1234":        {"1234", 77, 78, nil, "/n", ""},
		"4711":        {"", 4711, 0, nil, "/", ""},
		"4711:4712":   {"", 4711, 4712, nil, "/", ""},
		"nohome":      {"nohome", 5, 5, nil, "/", ""},
		"2147483647":  {"", 1<<31 - 1, 0, nil, "/", ""},
		"alice":       {},
		"nan":         {},
		"broken":      {},
		"4294967295":  {},
		"4294967296":  {},
		"-1":          {},
		"bob:nogroup": {},
		"bob:-1":      {},
		"bob:10:10":   {},
	} {
		got, err := d.lookup(spec)
		if want.home == "" {
			if err == nil {
				t.Errorf("%q: got %+v", spec, got)
			}
			continue
		}
		if err != nil || got.name != want.name || got.uid != want.uid || got.gid != want.gid || got.home != want.home || got.shell != want.shell || !slices.Equal(got.groups, want.groups) {
			t.Errorf("%q: got %+v, %v, want %+v", spec, got, err, want)
		}
	}
	none := databases{filepath.Join(dir, "nothing"), filepath.Join(dir, "nothing")}
	if u, err := none.lookup("root"); err != nil || u.home != "/root" {
		t.Errorf("without files: %+v, %v", u, err)
	}
	if _, err := none.lookup("bob"); err == nil || !strings.Contains(err.Error(), "not in") {
		t.Errorf("without files: %v", err)
	}
	if u, err := none.lookup("5:6"); err != nil || u.uid != 5 || u.gid != 6 {
		t.Errorf("without files: %+v, %v", u, err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := (databases{fifo, fifo}).lookup("bob"); err == nil {
		t.Error("a FIFO was read")
	}
	write(d.group, strings.Repeat(strings.Repeat("x", maxEntry)+"\n", 3))
	if u, err := d.lookup("bob"); err != nil || len(u.groups) > 0 {
		t.Errorf("long lines: %+v, %v", u, err)
	}
	var many strings.Builder
	for i := range 3 * maxGroups {
		fmt.Fprintf(&many, "g%d:x:%d:bob\n", i, 200+i)
	}
	write(d.group, many.String())
	if u, err := d.lookup("bob"); err != nil || len(u.groups) != maxGroups {
		t.Errorf("%d groups, %v", len(u.groups), err)
	}
}

func FuzzUsers(f *testing.F) {
	f.Add("bob", "bob:x:1:2::/home:/bin/sh\n", "g:x:3:bob\n")
	f.Add("1:g", "root:x:0:0:root:/root:/bin/sh", "g:x:3:\x00")
	f.Fuzz(func(t *testing.T, spec, passwd, group string) {
		dir := t.TempDir()
		d := databases{filepath.Join(dir, "p"), filepath.Join(dir, "g")}
		_ = os.WriteFile(d.passwd, []byte(passwd), 0o600)
		_ = os.WriteFile(d.group, []byte(group), 0o600)
		u, err := d.lookup(spec)
		if err == nil && (u.home == "" || u.uid == 1<<32-1 || len(u.groups) > maxGroups) {
			t.Errorf("got %+v", u)
		}
	})
}

func TestEnvironment(t *testing.T) {
	got := environment([]string{"A=1", "B=2"}, nil, []string{"A=3", "bad", "=x", "C=", "N=\x00", "D=x=y"})
	if want := []string{"A=3", "B=2", "C=", "D=x=y"}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}
