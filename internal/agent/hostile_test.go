package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	"golang.org/x/crypto/ssh"

	"banger"
	"banger/internal/hello"
)

// shake does the guest's part of the handshake and gives the stream behind it.
func shake(t *testing.T, c net.Conn) hello.Stream {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Second)
	defer cancel()
	_, st, err := hello.Ask(ctx, c, hello.Agent)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func frame(kind, flags byte, stream, size uint32) []byte {
	b := []byte{0, kind, 0, flags}
	b = binary.BigEndian.AppendUint32(b, stream)
	return binary.BigEndian.AppendUint32(b, size)
}

// Frames that the guest must not send end the session, and a new one is made.
func TestHostileFrames(t *testing.T) {
	noLeaks(t)
	for name, bytes := range map[string][]byte{
		"4 GiB":             frame(0, 0, 1, 1<<32-1),
		"a stream":          frame(1, 1, 2, 0),
		"a stream and data": frame(0, 1, 2, 100),
		"a ping":            frame(2, 1, 0, 7),
		"another version":   []byte("\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"),
		"text":              []byte("\x1b[2J hello"),
		"go away":           frame(3, 0, 0, 1),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			st := shake(t, r.port.guest)
			r.expect(Ready)
			_, _ = st.Write(bytes)
			if e := r.expect(Lost); strings.ContainsAny(e.Text, "\x1b\n") {
				t.Errorf("event %q", e.Text)
			}
			r.boot()
			run(t, r.dial(), Request{Command: "true"})
		})
	}
}

func TestHostileText(t *testing.T) {
	r := newRig(t)
	if err := hello.Fail(r.port.guest, "mount: \x1b]0;owned\x07\nno\u202e "+strings.Repeat("x", 10000)); err != nil {
		t.Fatal(err)
	}
	e := r.expect(Failed)
	if !strings.HasPrefix(e.Text, `mount: \x1b]0;owned\a\nno\u202e xxx`) || len(e.Text) > maxText+10 {
		t.Errorf("got %d bytes %.60q", len(e.Text), e.Text)
	}
	junk := make([]byte, 300<<10)
	for i := range junk {
		junk[i] = byte(i * 7)
	}
	_, _ = r.port.guest.Write(junk)
	r.boot()
}

// A guest that says go and then nothing: connections end, Serve ends.
func TestSilentGuest(t *testing.T) {
	noLeaks(t)
	r := newRig(t)
	shake(t, r.port.guest)
	r.expect(Ready)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, r.socket, r.opts); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	for range maxStreams + 20 { // more than the guest's answers have room for
		c, err := net.Dial("unix", r.socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = io.WriteString(c, "CONNECT 22\n")
	}
	if err := r.stop(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Clients of the CONNECT socket that do not keep to the form.
func TestClients(t *testing.T) {
	noLeaks(t)
	r := newRig(t)
	r.boot()
	var silent []net.Conn
	for range 20 {
		c, err := net.Dial("unix", r.socket)
		if err != nil {
			t.Fatal(err)
		}
		silent = append(silent, c)
	}
	for _, line := range []string{"CONNECT x\n", "GET / HTTP/1.1\r\n", strings.Repeat("A", 4000), "CONNECT 24\n", "CONNECT 4294967296\n"} {
		c, err := net.Dial("unix", r.socket)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = io.WriteString(c, line)
		if b, err := io.ReadAll(c); len(b) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%.20q: got %q, %v", line, b, err)
		}
		c.Close()
	}
	run(t, r.dial(), Request{Command: "true"})
	if err := r.stop(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	for _, c := range silent {
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("still open")
		}
		c.Close()
	}
}

// fakeGuest is a guest whose SSH server does as the test says.
func fakeGuest(t *testing.T, r *rig, serve func(ssh.Channel, <-chan *ssh.Request)) {
	t.Helper()
	st := shake(t, r.port.guest)
	cfg := muxConfig()
	mux, err := yamux.Server(&link{r.port.guest, st, r.port.guest}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mux.Close() })
	key, err := ssh.ParsePrivateKey([]byte(r.cfg.HostKey))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		c, err := mux.Accept()
		if err != nil {
			return
		}
		_, _ = hello.ReadConnect(c)
		_, _ = io.WriteString(c, "OK 22\n")
		sc := &ssh.ServerConfig{NoClientAuth: true}
		sc.AddHostKey(key)
		_, chans, reqs, err := ssh.NewServerConn(c, sc)
		if err != nil {
			return
		}
		go ssh.DiscardRequests(reqs)
		for nc := range chans {
			if ch, reqs, err := nc.Accept(); err == nil {
				go serve(ch, reqs)
			}
		}
	}()
	r.expect(Ready)
}

func TestHostileServer(t *testing.T) {
	grant := func(reqs <-chan *ssh.Request) {
		for req := range reqs {
			_ = req.Reply(true, nil)
		}
	}
	signal := func(name string) []byte {
		return ssh.Marshal(struct {
			Name       string
			Core       bool
			Text, Lang string
		}{name, false, "", ""})
	}
	for name, tc := range map[string]struct {
		serve func(ssh.Channel, <-chan *ssh.Request)
		want  Exit
		kind  banger.Kind
	}{
		"no end told": {func(ch ssh.Channel, reqs <-chan *ssh.Request) {
			go grant(reqs)
			ch.Close()
		}, Exit{}, banger.Unavailable},
		"malformed status": {func(ch ssh.Channel, reqs <-chan *ssh.Request) {
			go grant(reqs)
			_, _ = ch.SendRequest("exit-status", false, []byte{1, 2})
			ch.Close()
		}, Exit{}, banger.Unavailable},
		"great status": {func(ch ssh.Channel, reqs <-chan *ssh.Request) {
			(<-reqs).Reply(true, nil)
			_, _ = ch.SendRequest("exit-status", false, []byte{255, 255, 255, 5})
			ch.Close()
		}, Exit{Code: 5}, ""},
		"signal of no name": {func(ch ssh.Channel, reqs <-chan *ssh.Request) {
			(<-reqs).Reply(true, nil)
			_, _ = ch.SendRequest("exit-signal", false, signal("\x1b[2J"))
			ch.Close()
		}, Exit{Code: 255, Signal: "unknown"}, ""},
		"refusal": {func(_ ssh.Channel, reqs <-chan *ssh.Request) {
			for req := range reqs {
				_ = req.Reply(false, nil)
			}
		}, Exit{}, banger.Unsupported},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			fakeGuest(t, r, tc.serve)
			exit, err := r.dial().Run(t.Context(), Request{Argv: []string{"x"}})
			if exit != tc.want || tc.kind != "" && !banger.IsKind(err, tc.kind) || tc.kind == "" && err != nil {
				t.Errorf("got %+v, %v", exit, err)
			}
		})
	}
}

// A health answer without end does not fill the host's memory.
func TestHostileAnswer(t *testing.T) {
	r := newRig(t)
	fakeGuest(t, r, func(ch ssh.Channel, reqs <-chan *ssh.Request) {
		go func() {
			for req := range reqs {
				_ = req.Reply(true, nil)
			}
		}()
		for {
			if _, err := ch.Write(make([]byte, 4096)); err != nil {
				return
			}
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	if _, err := r.dial().Health(ctx); !banger.IsKind(err, banger.Unavailable) {
		t.Errorf("got %v", err)
	}
}

func TestUserKey(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "ssh", "id")
	var wg sync.WaitGroup
	keys := make([]string, 8)
	for i := range keys {
		wg.Go(func() {
			s, err := LoadOrCreateUserKey(path)
			if err != nil {
				t.Error(err)
				return
			}
			keys[i] = string(s.PublicKey().Marshal())
		})
	}
	wg.Wait()
	for _, k := range keys {
		if k != keys[0] {
			t.Error("two keys")
		}
	}
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode() != 0o600 {
		t.Errorf("mode %v", st.Mode())
	}
	if all, _ := os.ReadDir(filepath.Dir(path)); len(all) != 1 {
		t.Errorf("left behind: %v", all)
	}
	link, fifo := filepath.Join(dir, "link"), filepath.Join(dir, "fifo")
	if err := errors.Join(os.Symlink(path, link), syscall.Mkfifo(fifo, 0o600)); err != nil {
		t.Fatal(err)
	}
	open, junk := filepath.Join(dir, "open"), filepath.Join(dir, "junk")
	b, _ := os.ReadFile(path)
	if err := errors.Join(os.WriteFile(open, b, 0o600), os.Chmod(open, 0o640), os.WriteFile(junk, []byte("junk"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{link, fifo, open, junk, dir} {
		if _, err := LoadOrCreateUserKey(bad); !banger.IsKind(err, banger.Invalid) {
			t.Errorf("%s: %v", filepath.Base(bad), err)
		}
	}
}

func TestHostKey(t *testing.T) {
	private, public, err := NewHostKey()
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.ParsePrivateKey([]byte(private))
	if err != nil || public+"\n" != string(ssh.MarshalAuthorizedKey(s.PublicKey())) {
		t.Errorf("%v, %q", err, public)
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"":                    "",
		"plain é ü":           "plain é ü",
		"a\x00b\x7f\r\n\t":    `a\x00b\x7f\r\n\t`,
		"bad \xff utf8":       `bad \xff utf8`,
		"\u009b31m \u2028":    `\u009b31m \u2028`,
		"real \uFFFD":         "real \uFFFD",
		`back\slash "quoted"`: `back\slash "quoted"`,
	} {
		if got := clean(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
	if got := clean(strings.Repeat("\x00", maxText)); len(got) > maxText+10 {
		t.Errorf("%d bytes", len(got))
	}
}
