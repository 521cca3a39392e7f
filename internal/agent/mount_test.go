package agent

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"banger"
	"banger/internal/hello"
)

// A mount's stream lasts as long as the mount does, whatever becomes of the
// connection that it was ordered on.
func TestMount(t *testing.T) {
	noLeaks(t)
	r := newRig(t)
	over := make(chan struct{})
	var guest net.Conn
	r.mount = func(m hello.Mount, stream net.Conn) (<-chan struct{}, error) {
		if m != (hello.Mount{Target: "/work", ReadOnly: true}) {
			t.Errorf("ordered %+v", m)
		}
		guest = stream
		// As the kernel does, which does not mount what does not answer.
		if _, err := io.WriteString(stream, "version"); err != nil {
			return nil, err
		}
		b := make([]byte, 7)
		_, err := io.ReadFull(stream, b)
		return over, err
	}
	r.boot()
	c := r.dial()
	var host net.Conn
	echo := func(stream net.Conn) {
		host = stream
		go func() { _, _ = io.CopyN(stream, stream, 7) }()
	}
	if err := c.Mount(t.Context(), hello.Mount{Target: "/work", ReadOnly: true}, echo); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	for _, way := range [][2]net.Conn{{guest, host}, {host, guest}} {
		b := make([]byte, 4)
		if _, err := io.WriteString(way[0], "more"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(way[1], b); err != nil || string(b) != "more" {
			t.Errorf("got %q, %v", b, err)
		}
	}
	close(over)
	_ = host.SetReadDeadline(time.Now().Add(8 * time.Second))
	if _, err := host.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after the mount: %v", err)
	}
	_ = host.Close()
}

func TestMountRefused(t *testing.T) {
	noLeaks(t)
	r := newRig(t)
	r.mount = func(_ hello.Mount, stream net.Conn) (<-chan struct{}, error) {
		_ = stream.Close()
		return nil, errors.New("no 9p\x1b[2J" + strings.Repeat("!", 1<<20))
	}
	stop := r.boot()
	var host net.Conn
	err := r.dial().Mount(t.Context(), hello.Mount{Target: "/work"}, func(stream net.Conn) { host = stream })
	if !banger.IsKind(err, banger.Invalid) && !banger.IsKind(err, banger.Unavailable) || len(err.Error()) > 8<<10 {
		t.Errorf("too long a reason: %.200v", err)
	}
	if _, err := host.Write(nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the stream is open: %v", err)
	}
	stop()
	r.mount = func(_ hello.Mount, stream net.Conn) (<-chan struct{}, error) {
		_ = stream.Close()
		return nil, errors.New("no 9p\x1b[2J")
	}
	r.boot()
	err = r.dial().Mount(t.Context(), hello.Mount{Target: "/work"}, func(net.Conn) {})
	if !banger.IsKind(err, banger.Invalid) || err.Error() != `no 9p\x1b[2J` {
		t.Errorf("got %v", err)
	}
	stop()
}
