package guest

import (
	"errors"
	"net"
	"strconv"
	"strings"
	"testing"
)

func TestLookTCP(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		want := "tcp:" + strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
		if seen, err := look(t.Context(), want); seen != "" || err != nil {
			t.Errorf("%s listens: %q, %v", addr, seen, err)
		}
		l.Close()
		if seen, err := look(t.Context(), want); seen != "connection refused" || err != nil {
			t.Errorf("%s does not listen: %q, %v", addr, seen, err)
		}
	}
	if _, err := look(t.Context(), "udp:53"); err == nil || !strings.Contains(err.Error(), `"udp:53"`) {
		t.Errorf("got %v", err)
	}
}

func TestUnitSeen(t *testing.T) {
	for _, c := range []struct {
		out  string
		err  error
		want string
	}{
		{"LoadState=loaded\nActiveState=active\n", nil, ""},
		{"LoadState=loaded\nActiveState=activating\n", nil, "it is activating"},
		{"LoadState=loaded\nActiveState=failed\n", nil, "it is failed"},
		{"LoadState=not-found\nActiveState=inactive\n", nil, "there is no such unit"},
		{"", errors.New("exit status 1"), "systemd does not answer"},
		{"", nil, "systemd says nothing of it"},
	} {
		if got := unitSeen(c.out, c.err); got != c.want {
			t.Errorf("unitSeen(%q, %v) = %q, want %q", c.out, c.err, got, c.want)
		}
	}
}
