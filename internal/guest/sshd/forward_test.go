package sshd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"banger/internal/hello"
)

// echo answers each connection with what it sent, once that has ended.
func echo(t *testing.T, l net.Listener) {
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b, _ := io.ReadAll(c)
				_, _ = c.Write(append([]byte("echo "), b...))
			}()
		}
	}()
}

// ask sends a question, ends it, and reads the answer.
func ask(t *testing.T, c net.Conn, question string) string {
	t.Helper()
	defer c.Close()
	_, _ = io.WriteString(c, question)
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Error(err)
	}
	b, err := io.ReadAll(c)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

func listen(t *testing.T, network, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// unheard is an address on which nobody listens: one that is taken, as a closed
// listener's could be by another test, and may live on in a child that is about to exec.
func unheard(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	sa, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", sa.(*syscall.SockaddrInet4).Port)
}

func TestForwardToGuest(t *testing.T) {
	t.Parallel()
	c := newGuest(t, nil).dial("root")
	tcp, unix := listen(t, "tcp", "127.0.0.1:0"), listen(t, "unix", filepath.Join(t.TempDir(), "s"))
	echo(t, tcp)
	echo(t, unix)
	big := strings.Repeat("0123456789", 40000)
	for _, l := range []net.Listener{tcp, unix} {
		far, err := c.Dial(l.Addr().Network(), l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if got := ask(t, far, big); got != "echo "+big {
			t.Errorf("%s: got %d bytes", l.Addr().Network(), len(got))
		}
	}
	if _, err := c.Dial("unix", "/no/such/socket"); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("got %v", err)
	}
	if _, err := c.Dial("tcp", unheard(t)); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("got %v", err)
	}
}

func TestForwardFromGuest(t *testing.T) {
	g := newGuest(t, nil)
	c := g.dial("root")
	path := filepath.Join(t.TempDir(), "s")
	tcp, err := c.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	unix, err := c.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Listen("unix", path); err == nil {
		t.Error("the same socket twice")
	}
	for _, l := range []net.Listener{tcp, unix} {
		echo(t, l)
		far, err := net.Dial(l.Addr().Network(), l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if got := ask(t, far, "question"); got != "echo question" {
			t.Errorf("got %q", got)
		}
	}
	if err := tcp.Close(); err != nil { // cancels
		t.Error(err)
	}
	if _, err := net.Dial("tcp", tcp.Addr().String()); err == nil {
		t.Error("still listening")
	}
	c.Close()
	waitFor(t, "socket gone with its connection", func() bool { _, err := os.Lstat(path); return err != nil })
}

// A forwarded connection whose far end says nothing ends with its channel.
func TestForwardIdle(t *testing.T) {
	c := newGuest(t, nil).dial("root")
	l := listen(t, "tcp", "127.0.0.1:0")
	defer l.Close()
	ended := make(chan error, 1)
	go func() {
		far, err := l.Accept()
		if err == nil {
			_, err = far.Read(make([]byte, 1)) // the client's end
			if err == io.EOF {
				_, err = io.Copy(io.Discard, far)
			}
		}
		ended <- err
	}()
	far, err := c.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far.Close()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("the far end is still open")
	}
}

func TestListenerLimit(t *testing.T) {
	c := newGuest(t, nil).dial("root")
	dir := t.TempDir()
	for i := range maxListeners {
		if _, err := c.Listen("unix", filepath.Join(dir, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Listen("unix", filepath.Join(dir, "one too many")); err == nil {
		t.Error("no limit")
	}
}

func TestConnections(t *testing.T) {
	g := newGuest(t, nil)
	for _, port := range []int{0, 1, 24, 4294967295} {
		if c, err := g.connect(port); err == nil {
			c.Close()
			t.Errorf("port %d answered", port)
		}
	}
	for _, line := range []string{"CONNECT\n", "CONNECT  22\n", "CONNECT -22\n", "GET / HTTP/1.1\n", "CONNECT 22\r\n", strings.Repeat("x", 100)} {
		c, err := g.mux.Open()
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = io.WriteString(c, line)
		if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
			t.Errorf("%q: got %q, %v", line, b, err)
		}
		c.Close()
	}
}

func TestAuthentication(t *testing.T) {
	g := newGuest(t, nil)
	other, _ := newKey(t)
	for name, auth := range map[string][]ssh.AuthMethod{
		"none":          nil,
		"another key":   {ssh.PublicKeys(other)},
		"password":      {ssh.Password("")},
		"the right one": {ssh.PublicKeys(other, g.user)},
	} {
		c, err := g.connect(hello.SSHPort)
		if err != nil {
			t.Fatal(err)
		}
		_, _, _, err = ssh.NewClientConn(c, "", &ssh.ClientConfig{User: "root", Auth: auth, HostKeyCallback: ssh.FixedHostKey(g.hostKey())})
		if (err == nil) != (name == "the right one") {
			t.Errorf("%s: %v", name, err)
		}
		c.Close()
	}
}

// A server that was given keys it cannot read lets nobody in, and lives on.
func TestBadConfiguration(t *testing.T) {
	g := newGuest(t, func(_ *Server, cfg *hello.Config) { cfg.HostKey = "junk" })
	c, err := g.connect(hello.SSHPort)
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(c); len(b) > 0 {
		t.Errorf("got %q", b)
	}
	_, g.cfg.HostKey = newKey(t)
	g.mux.Close()
	g.attach(true)
	if got := sh(t, g.dial("root"), "echo hi"); got.out != "hi\n" {
		t.Errorf("got %+v", got)
	}
}

// Hosts come and go, in the middle of a frame too, and each has its own keys.
func TestResync(t *testing.T) {
	g := newGuest(t, nil)
	for i, half := range []string{
		"", "\x00", "\x00\x00\x00\x00\x00\x00\x00\x01\x00", "banger1 ", "\x00\x00\x00\x01\x00\x00\x00\x63\x00\x00\xff\x00half",
		"\x00\x00\x00\x00\x00\x00\x00\x05\x00\x01\x00\x00", "\nbanger1 reset\n",
	} {
		if got := sh(t, g.dial("root"), "echo hi"); got.out != "hi\n" {
			t.Fatalf("%d: got %+v", i, got)
		}
		g.mux.Close()
		_, _ = io.WriteString(g.wire, half)
		_, g.cfg.HostKey = newKey(t)
		g.attach(true)
	}
}

// An agent that is started anew, as the unit after pid 1, breaks the session
// of the host by its hello, wherever in a frame the one before it stopped.
func TestAgentRestart(t *testing.T) {
	t.Parallel()
	g := newGuest(t, nil)
	for _, half := range []string{"", "\x00\x00\x00", "\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\xff\xff half"} {
		g.cancel()
		if err := <-g.done; !errors.Is(err, context.Canceled) {
			t.Errorf("Serve returned %v", err)
		}
		_ = g.port.SetDeadline(time.Time{})
		_, _ = io.WriteString(g.port, half)
		g.serve()
		select {
		case <-g.mux.CloseChan():
		case <-time.After(30 * time.Second):
			t.Fatalf("%q: the host does not notice", half)
		}
		g.attach(true)
		if got := sh(t, g.dial("root"), "echo hi"); got.out != "hi\n" {
			t.Errorf("got %+v", got)
		}
	}
}
