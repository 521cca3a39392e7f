package network

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestSearchDomainsOfTheHost(t *testing.T) {
	for name, c := range map[string]struct {
		conf string
		want []string
	}{
		"loopback stub": {"nameserver 127.0.0.53\noptions edns0\nsearch corp.example lan\n", []string{"corp.example", "lan"}},
		"other server":  {"nameserver 10.1.2.3\n", nil},
		"last one wins": {"search a.example\ndomain b.example\n", []string{"b.example"}},
		"root only":     {"search .\n", nil},
		"too many":      {"search a b c d e f g h\n", []string{"a", "b", "c", "d", "e", "f"}},
		"empty":         {"", nil},
	} {
		path := filepath.Join(t.TempDir(), "resolv.conf")
		if err := os.WriteFile(path, []byte(c.conf), 0o600); err != nil {
			t.Fatal(err)
		}
		u, err := NewUser(path)
		if err != nil || !slices.Equal(u.Search, c.want) {
			t.Errorf("%s: search %v, %v; want %v", name, u.Search, err, c.want)
		}
		if !u.Guest.Contains(u.DNS) || !u.Guest.Contains(u.Gateway) {
			t.Errorf("%s: addresses outside the guest's network", name)
		}
	}
	if _, err := NewUser(filepath.Join(t.TempDir(), "absent")); err != nil {
		t.Errorf("no resolv.conf: %v", err)
	}
}

func TestKernelWord(t *testing.T) {
	u, err := NewUser(filepath.Join(t.TempDir(), "absent"))
	if err != nil {
		t.Fatal(err)
	}
	want := "ip=192.168.127.2::192.168.127.1:255.255.255.0:web:eth0:off:192.168.127.3"
	if got := u.KernelWord("web"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
