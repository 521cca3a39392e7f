package sshd

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"banger/internal/hello"
)

// maxEnv bounds what env requests may add to one session, in bytes.
const maxEnv = 64 << 10

// session is one session channel: requests that prepare it, then one program
// or subsystem, then the program's exit.
type session struct {
	conn    *conn
	ch      ssh.Channel
	env     []string // from env requests, and TERM
	envSize int
	tty     *tty
	agent   *agentSocket
	proc    *process // once started
	started bool
	gone    chan struct{} // closed when the channel is
}

// session serves one session channel. Requests are answered in order; none
// waits for the program.
func (c *conn) session(ctx context.Context, nc ssh.NewChannel) {
	ch, reqs, err := nc.Accept()
	if err != nil {
		return
	}
	s := &session{conn: c, ch: ch, gone: make(chan struct{})}
	for r := range reqs {
		ok, then := s.request(r.Type, r.Payload)
		if r.WantReply {
			_ = r.Reply(ok, nil)
		}
		if then != nil { // after the reply, which clients expect before data
			c.srv.running.Go(then)
		}
	}
	// The channel is closed: by us, as the program has ended, or the client is gone.
	close(s.gone)
	s.tty.Close()
	if s.proc != nil {
		s.proc.hangUp(cmp.Or(c.srv.grace, hangUpGrace), c.srv.ending)
	}
	s.agent.Close()
}

// request answers one request, and says what is to run next, if it starts something.
func (s *session) request(kind string, payload []byte) (ok bool, then func()) {
	switch kind {
	case "pty-req":
		return s.requestTTY(payload), nil
	case "env":
		return s.requestEnv(payload), nil
	case "auth-agent-req@openssh.com":
		return s.requestAgent(), nil
	case "window-change":
		var p struct{ Cols, Rows, X, Y uint32 }
		return ssh.Unmarshal(payload, &p) == nil && s.tty.resize(p.Cols, p.Rows, p.X, p.Y), nil
	case "signal":
		var p struct{ Name string }
		return ssh.Unmarshal(payload, &p) == nil && s.proc != nil && s.proc.signal(hello.ParseSignal(p.Name)), nil
	case "break":
		return s.tty.sendBreak(), nil
	case "shell", "exec", "subsystem", hello.ExecRequest, hello.AttachRequest:
		if s.started {
			return false, nil
		}
		s.started = true
		return s.start(kind, payload)
	}
	return false, nil
}

// start starts the program or subsystem of the session.
func (s *session) start(kind string, payload []byte) (ok bool, then func()) {
	var p struct{ Text string }
	if kind != "shell" && ssh.Unmarshal(payload, &p) != nil {
		return false, nil
	}
	switch kind {
	case "shell":
		return true, s.run(s.loginProgram(hello.Exec{}))
	case "exec":
		return true, s.run(s.loginProgram(hello.Exec{Command: p.Text}))
	case "subsystem":
		return s.subsystem(p.Text)
	}
	if kind == hello.AttachRequest {
		return true, func() { s.attach(p.Text) }
	}
	var e hello.Exec
	if err := json.Unmarshal([]byte(p.Text), &e); err != nil || e.Detach && s.tty != nil {
		return false, nil
	}
	prog, err := s.imageProgram(e)
	if e.Detach {
		return true, func() { s.detach(prog, err, e) }
	}
	then = s.run(prog, err)
	if s.proc != nil && e.Timeout > 0 {
		go s.proc.limit(time.Duration(e.Timeout)*time.Millisecond, cmp.Or(s.conn.srv.grace, hangUpGrace)) // ends with the process
	}
	return true, then
}

// run starts the program and returns what sees it to its end. A program that
// cannot be started is told of on stderr and by the exit status.
func (s *session) run(p program, err error) func() {
	if err == nil {
		s.proc, err = s.conn.srv.start(p, s.ch, s.tty)
	}
	if err != nil {
		return func() { s.refuse(err) }
	}
	proc := s.proc
	return func() { proc.wait() }
}

// refuse ends the session of a program that could not be started.
func (s *session) refuse(err error) {
	fmt.Fprintf(s.ch.Stderr(), "banger: %s\n", strings.ReplaceAll(err.Error(), "\n", " "))
	exit(s.ch, startStatus(err))
}

// exit ends a session with an exit status.
func exit(ch ssh.Channel, status int) {
	_ = ch.CloseWrite()
	_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(status)}))
	_ = ch.Close()
}

func (s *session) requestTTY(payload []byte) bool {
	var p struct {
		Term             string
		Cols, Rows, X, Y uint32
		Modes            string
	}
	if ssh.Unmarshal(payload, &p) != nil || s.tty != nil || s.started {
		return false
	}
	t, err := openTTY()
	if err != nil {
		s.conn.srv.Log.Error("open a terminal", "err", err)
		return false
	}
	s.tty = t
	t.setModes([]byte(p.Modes))
	t.resize(p.Cols, p.Rows, p.X, p.Y)
	return p.Term == "" || s.addEnv("TERM", p.Term)
}

// requestEnv takes the names that OpenSSH servers usually take. A program of
// hello.ExecRequest brings its own environment.
func (s *session) requestEnv(payload []byte) bool {
	var p struct{ Name, Value string }
	if ssh.Unmarshal(payload, &p) != nil {
		return false
	}
	switch p.Name {
	case "LANG", "COLORTERM", "NO_COLOR", "TERM":
	default:
		if !strings.HasPrefix(p.Name, "LC_") {
			return false
		}
	}
	return s.addEnv(p.Name, p.Value)
}

func (s *session) addEnv(name, value string) bool {
	s.envSize += len(name) + len(value) + 2
	if s.envSize > maxEnv || strings.ContainsAny(name, "=\x00") || strings.Contains(value, "\x00") {
		return false
	}
	s.env = append(s.env, name+"="+value)
	return true
}

func (s *session) requestAgent() bool {
	if s.agent != nil || s.started {
		return false
	}
	u, err := s.conn.srv.lookupUser(s.conn.ssh.User())
	if err != nil {
		return false
	}
	a, err := s.conn.listenAgent(u)
	if err != nil {
		s.conn.srv.Log.Error("forward the client's key agent", "err", err)
		return false
	}
	s.agent = a
	return s.addEnv("SSH_AUTH_SOCK", a.path)
}

// agentSocket is where the client's key agent can be reached in the guest.
type agentSocket struct {
	conn *conn
	dir  string
	path string
}

func (c *conn) listenAgent(u user) (*agentSocket, error) {
	dir, err := os.MkdirTemp("/tmp", "ssh-")
	if err != nil { // an image may have no /tmp, but /run was mounted at boot
		if dir, err = os.MkdirTemp("/run", "ssh-"); err != nil {
			return nil, err
		}
	}
	a := &agentSocket{conn: c, dir: dir, path: dir + "/agent"}
	l, err := listenUnixAs(a.path, u)
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	_ = os.Lchown(dir, int(u.uid), int(u.gid))
	if !c.listen("unix:"+a.path, l, agentHeader) {
		os.RemoveAll(dir)
		return nil, errTooMany
	}
	return a, nil
}

// Close takes the socket away. It may be called on nil.
func (a *agentSocket) Close() {
	if a == nil {
		return
	}
	a.conn.cancel("unix:" + a.path)
	os.RemoveAll(a.dir)
}
