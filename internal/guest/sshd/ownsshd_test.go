package sshd

import (
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

func TestAuthorize(t *testing.T) {
	umask := syscall.Umask(0o022)
	defer syscall.Umask(umask)
	const key = "ssh-ed25519 AAAA banger"
	for name, c := range map[string]struct {
		old  string // of authorized_keys; "-": there is no .ssh
		want string
	}{
		"nothing there":  {"-", key + "\n"},
		"empty":          {"", key + "\n"},
		"another":        {"ssh-rsa BBBB me\n", "ssh-rsa BBBB me\n" + key + "\n"},
		"no newline":     {"ssh-rsa BBBB me", "ssh-rsa BBBB me\n" + key + "\n"},
		"already":        {"#\n" + key + "\nssh-rsa BBBB me\n", "#\n" + key + "\nssh-rsa BBBB me\n"},
		"a longer one":   {key + "2\n", key + "2\n" + key + "\n"},
		"one commented":  {"#" + key + "\n", "#" + key + "\n" + key + "\n"},
		"with an option": {"no-pty " + key + "\n", "no-pty " + key + "\n" + key + "\n"},
	} {
		home := t.TempDir()
		u := user{home: home, uid: uint32(os.Getuid()), gid: uint32(os.Getgid())}
		if os.Getuid() == 0 {
			u.uid, u.gid = 4711, 4712
		}
		path := filepath.Join(home, ".ssh/authorized_keys")
		if c.old != "-" {
			if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(c.old), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 { // the second time there is nothing to do
			if err := authorize(u, key); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != c.want {
			t.Errorf("%s: got %q, %v, want %q", name, b, err, c.want)
		}
		if c.old != "-" {
			continue
		}
		for p, mode := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): os.ModeDir | 0o700} {
			fi, err := os.Stat(p)
			if err != nil || fi.Mode() != mode || fi.Sys().(*syscall.Stat_t).Uid != u.uid || fi.Sys().(*syscall.Stat_t).Gid != u.gid {
				t.Errorf("%s: %v, %v", p, fi, err)
			}
		}
	}
}

// A user's links lead the agent, which is root, to no file outside their home.
func TestAuthorizeStaysAtHome(t *testing.T) {
	for _, link := range []string{".ssh", ".ssh/authorized_keys"} {
		home, out := t.TempDir(), t.TempDir()
		target := out
		if link != ".ssh" {
			target = filepath.Join(out, "victim")
			if err := os.Mkdir(filepath.Join(home, ".ssh"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink(target, filepath.Join(home, link)); err != nil {
			t.Fatal(err)
		}
		if err := authorize(user{home: home}, "ssh-ed25519 AAAA banger"); err == nil {
			t.Errorf("%s is followed", link)
		}
		if left, err := os.ReadDir(out); err != nil || len(left) != 0 {
			t.Errorf("%s: written outside: %v, %v", link, left, err)
		}
	}
}

func TestHostKeys(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"ssh_host_ed25519_key.pub": "ssh-ed25519 AAAA root@box\n", "ssh_host_rsa_key": "secret", "ssh_host_rsa_key.pub": "ssh-rsa BBBB\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"ssh-ed25519 AAAA root@box", "ssh-rsa BBBB"}
	if got := hostKeys(dir); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := hostKeys(filepath.Join(dir, "absent")); len(got) != 0 {
		t.Errorf("got %q", got)
	}
}
