package sshd

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"fmt"
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

	"banger/internal/hello"
)

// fakePort is the guest's end of a port whose host comes and goes unnoticed:
// what the driver shows as EOF is missed here, the hardest case.
type fakePort struct{ net.Conn }

func (fakePort) WaitHost(context.Context) error { return nil }

func pair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	t.Cleanup(func() { ends[0].Close(); ends[1].Close() })
	return ends[0], ends[1]
}

// guest is a Server behind a port, and a host that speaks to it.
type guest struct {
	t      *testing.T
	srv    *Server
	cfg    hello.Config
	home   string   // of the guest's root
	port   net.Conn // the guest's end
	wire   net.Conn // the host's end
	user   ssh.Signer
	userPK string // PEM
	mux    *yamux.Session
	cancel context.CancelFunc
	done   chan error
}

func newKey(t *testing.T) (ssh.Signer, string) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer, string(pem.EncodeToMemory(block))
}

// etc makes the user data bases of a guest whose root, as which programs run by
// default, is whoever runs the tests: an agent that is not root can run them as
// itself alone. The shell and the home are the same for everybody, and no start
// files of real people are read.
func etc(t *testing.T) (dir, home string) {
	t.Helper()
	dir, home = t.TempDir(), t.TempDir()
	passwd := fmt.Sprintf("root:x:%d:%d::%s:/bin/bash\n", os.Getuid(), os.Getgid(), home)
	if err := os.WriteFile(filepath.Join(dir, "passwd"), []byte(passwd), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, home
}

// newGuest starts a server; change, if not nil, is done to it before.
func newGuest(t *testing.T, change func(*Server, *hello.Config)) *guest {
	t.Helper()
	g := &guest{t: t, srv: &Server{Version: "1.2.3", Init: "test"}, done: make(chan error, 1)}
	g.srv.Etc, g.home = etc(t)
	var user string
	g.user, g.userPK = newKey(t)
	user = string(ssh.MarshalAuthorizedKey(g.user.PublicKey()))
	_, hostKey := newKey(t)
	g.cfg = hello.Config{ID: "0123456789ab", HostKey: hostKey, AuthorizedKeys: []string{user}, Env: []string{"IMAGE=yes", "PATH=/usr/local/bin:/usr/bin:/bin"}}
	if change != nil {
		change(g.srv, &g.cfg)
	}
	g.port, g.wire = pair(t)
	g.serve()
	t.Cleanup(g.stop)
	g.attach(false)
	return g
}

// serve starts the server.
func (g *guest) serve() {
	// Not t.Context: that ends before the clean-up, which still needs the server.
	ctx, cancel := context.WithCancel(context.Background())
	g.cancel = cancel
	go func() { g.done <- g.srv.Serve(ctx, fakePort{g.port}) }()
}

// stop ends the server, which has to leave nothing running.
func (g *guest) stop() {
	g.cancel()
	if g.mux != nil {
		g.mux.Close()
	}
	select {
	case <-g.done:
	case <-time.After(8 * time.Second):
		g.t.Error("Serve does not return")
	}
}

// attach is what a new host does.
func (g *guest) attach(resume bool) {
	g.t.Helper()
	h := hello.Host{Resume: resume, Config: func(context.Context, string) (hello.Config, error) { return g.cfg, nil }}
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Second)
	defer cancel()
	st, err := h.Answer(ctx, g.wire)
	if err != nil {
		g.t.Fatal(err)
	}
	if g.mux, err = yamux.Client(&link{st, hello.Guard(st, false), hello.Join(st)}, muxConfig()); err != nil {
		g.t.Fatal(err)
	}
}

// connect opens a stream to the port.
func (g *guest) connect(port int) (net.Conn, error) {
	c, err := g.mux.Open()
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(8 * time.Second))
	want := fmt.Sprintf("OK %d\n", port)
	got := make([]byte, len(want))
	if _, err = fmt.Fprintf(c, "CONNECT %d\n", port); err == nil {
		_, err = io.ReadFull(c, got)
	}
	if err == nil && string(got) != want {
		err = fmt.Errorf("got %q", got)
	}
	_ = c.SetDeadline(time.Time{})
	if err != nil {
		c.Close()
		return nil, err
	}
	return &chunked{c}, nil
}

func (g *guest) hostKey() ssh.PublicKey {
	key, err := ssh.ParsePrivateKey([]byte(g.cfg.HostKey))
	if err != nil {
		g.t.Fatal(err)
	}
	return key.PublicKey()
}

// dial logs in.
func (g *guest) dial(user string) *ssh.Client {
	g.t.Helper()
	c, err := g.connect(hello.SSHPort)
	if err != nil {
		g.t.Fatal(err)
	}
	sc, chans, reqs, err := ssh.NewClientConn(c, "guest", &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(g.user)}, HostKeyCallback: ssh.FixedHostKey(g.hostKey()),
	})
	if err != nil {
		g.t.Fatal(err)
	}
	client := ssh.NewClient(sc, chans, reqs)
	g.t.Cleanup(func() { client.Close() })
	return client
}

// result is how a program ended and what it said.
type result struct {
	out, err string
	code     int
	signal   string
}

// run is a session channel with a program on it.
type run struct {
	t    *testing.T
	ch   ssh.Channel
	out  buffer // so far
	done chan result
}

// buffer is a bytes.Buffer that can be looked at while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

type text struct{ S string }

// start opens a session, sends the requests in prep, then the one that starts.
func start(t *testing.T, c *ssh.Client, kind, payload string, prep ...func(ssh.Channel) bool) *run {
	t.Helper()
	ch, reqs, err := c.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ch.Close() })
	for _, p := range prep {
		if !p(ch) {
			t.Fatal("a request was refused")
		}
	}
	r := &run{t: t, ch: ch, done: make(chan result, 1)}
	var body []byte
	if kind != "shell" {
		body = ssh.Marshal(text{payload})
	}
	if ok, err := ch.SendRequest(kind, true, body); err != nil || !ok {
		t.Fatalf("%s: %v, %v", kind, ok, err)
	}
	go r.collect(reqs)
	return r
}

// noStatus is the code of a program whose end was not told.
const noStatus = -1

func (r *run) collect(reqs <-chan *ssh.Request) {
	res := result{code: noStatus}
	var errs bytes.Buffer
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(&r.out, r.ch) })
	wg.Go(func() { _, _ = io.Copy(&errs, r.ch.Stderr()) })
	for req := range reqs {
		switch req.Type {
		case "exit-status":
			res.code = int(req.Payload[3])
		case "exit-signal":
			var p struct {
				Name string
				Rest []byte `ssh:"rest"`
			}
			_ = ssh.Unmarshal(req.Payload, &p)
			res.signal = p.Name
		}
	}
	wg.Wait()
	res.out, res.err = r.out.String(), errs.String()
	r.done <- res
}

// ready waits until the program has said so.
func (r *run) ready() {
	r.t.Helper()
	waitFor(r.t, "ready", func() bool { return strings.Contains(r.out.String(), "ready") })
}

// end closes the program's input and waits for its end.
func (r *run) end() result {
	r.t.Helper()
	_ = r.ch.CloseWrite()
	return r.wait()
}

func (r *run) wait() result {
	r.t.Helper()
	select {
	case res := <-r.done:
		return res
	case <-time.After(9 * time.Second):
		r.t.Fatal("the session does not end")
		return result{}
	}
}

func request(kind string, payload any) func(ssh.Channel) bool {
	return func(ch ssh.Channel) bool {
		ok, err := ch.SendRequest(kind, true, ssh.Marshal(payload))
		return ok && err == nil
	}
}

// tell sends a request whose answer may come too late: it ends the program.
func tell(ch ssh.Channel, kind string, payload any) {
	_, _ = ch.SendRequest(kind, false, ssh.Marshal(payload))
}

func setenv(name, value string) func(ssh.Channel) bool {
	return request("env", struct{ Name, Value string }{name, value})
}

func pty(cols, rows uint32, modes string) func(ssh.Channel) bool {
	return request("pty-req", struct {
		Term             string
		Cols, Rows, X, Y uint32
		Modes            string
	}{"xterm-test", cols, rows, 0, 0, modes})
}

// sh runs a command of the shell by our own request: by that of ssh, bash reads
// the start files of whoever runs the tests.
func sh(t *testing.T, c *ssh.Client, command string) result {
	t.Helper()
	return startSh(t, c, command).end()
}

func startSh(t *testing.T, c *ssh.Client, command string, prep ...func(ssh.Channel) bool) *run {
	t.Helper()
	js, err := json.Marshal(hello.Exec{Argv: []string{"bash", "-c", command}})
	if err != nil {
		t.Fatal(err)
	}
	return start(t, c, hello.ExecRequest, string(js), prep...)
}

// image runs a program by our own request.
func image(t *testing.T, c *ssh.Client, e hello.Exec) result {
	t.Helper()
	js, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return start(t, c, hello.ExecRequest, string(js)).end()
}

// listen makes the guest reachable for OpenSSH and returns the port.
func (g *guest) listen() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		g.t.Fatal(err)
	}
	var wg sync.WaitGroup
	g.t.Cleanup(func() { l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			far, err := g.connect(hello.SSHPort)
			if err != nil {
				c.Close()
				continue
			}
			wg.Go(func() { _, _ = io.Copy(far, c); far.Close() })
			wg.Go(func() { _, _ = io.Copy(c, far); c.Close() })
		}
	})
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// waitFor polls for what has no event to wait on in a test.
func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(8 * time.Second); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func readFile(path ...string) string {
	b, _ := os.ReadFile(filepath.Join(path...))
	return string(b)
}
