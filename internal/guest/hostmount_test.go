package guest

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/hello"
)

func TestIsHostMount(t *testing.T) {
	const table = `22 1 0:21 / / rw - overlay overlay rw
30 22 0:30 / /work rw,relatime shared:5 - 9p banger-host rw,trans=fd
31 22 0:31 / /with\040space rw - 9p banger-host rw
32 22 0:32 / /covered rw - 9p banger-host rw
33 22 0:33 / /covered rw - tmpfs tmpfs rw
34 22 0:34 / /other rw - 9p server rw
35 22 0:35 / /short rw -
`
	for target, want := range map[string]bool{"/": false, "/work": true, "/with space": true, "/covered": false, "/other": false, "/short": false, "/none": false} {
		if is, err := isHostMount(strings.NewReader(table), target); is != want || err != nil {
			t.Errorf("%s: %v, %v", target, is, err)
		}
	}
}

func TestResolved(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir, dir+"/link"); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{dir + "/link": dir, dir + "/link/new": dir + "/new", "/no/such/place": "/no/such/place"} {
		if got := resolved(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

// The end of either side is that of the other one.
func TestCarry(t *testing.T) {
	a, ours := net.Pipe()
	b, theirs := net.Pipe()
	over := carry(a, b)
	go func() { _, _ = ours.Write([]byte("request")) }()
	buf := make([]byte, 7)
	if _, err := theirs.Read(buf); err != nil || string(buf) != "request" {
		t.Errorf("got %q, %v", buf, err)
	}
	_ = theirs.Close()
	<-over
	if _, err := ours.Read(buf); err == nil {
		t.Error("the other side goes on")
	}
}

// A machine is ready with the last of its folders, not before.
func TestMountsWanted(t *testing.T) {
	ready := false
	h := &hostMounts{wanted: 1, ready: func() error { ready = true; return nil }}
	if _, err := h.mount(hello.Mount{Target: "relative"}, nopConn{}); err == nil || ready {
		t.Errorf("a mount that failed: %v, ready %v", err, ready)
	}
}

type nopConn struct{ net.Conn }

func (nopConn) Close() error { return nil }
