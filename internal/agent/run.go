package agent

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"banger"
	"banger/internal/hello"
)

// WindowSize is the size of a terminal in characters.
type WindowSize struct{ Rows, Cols int }

// Request is one program to run in the guest.
type Request struct {
	Argv    []string // run as it is, without a shell
	Command string   // for the user's shell; used if there is no Argv; both empty: a login shell
	Login   bool     // run Command as ssh does: as the user that logged in, in their home
	Env     []string // NAME=value, over the image's
	Dir     string   // empty: the image's
	User    string   // user[:group]; empty: the image's, for Login the one that logged in
	// Timeout, if it is not zero, ends the program, whose exit code then is hello.TimedOut.
	Timeout time.Duration

	TTY        bool
	Term       string // $TERM
	Rows, Cols int

	// Stdin is copied until its end; nil is empty. A Read of it that is under
	// way when the program ends is not waited for.
	Stdin          io.Reader
	Stdout, Stderr io.Writer // nil: thrown away
	Signals        <-chan os.Signal
	Resize         <-chan WindowSize
}

// Exit is how a program ended.
type Exit struct {
	Code   int    // 128+n for signal n; 127 not found, 126 not to be run
	Signal string // TERM, KILL...; empty if it exited
}

// Run runs a program to its end. When ctx ends, the connection is closed, the
// guest ends the program, and the cause of ctx is the error. A guest that goes
// away before the program's end makes it Unavailable.
func (c *Client) Run(ctx context.Context, r Request) (Exit, error) {
	js, err := r.exec(false)
	if err != nil {
		return Exit{}, err
	}
	return c.guarded(ctx, "run in the guest", func() (Exit, error) { return c.run(r, hello.ExecRequest, js) })
}

// exec is the request as the guest wants it.
func (r Request) exec(detach bool) (string, error) {
	js, err := json.Marshal(hello.Exec{Argv: r.Argv, Command: r.Command, Login: r.Login, Env: r.Env, Dir: r.Dir, User: r.User,
		Timeout: r.Timeout.Milliseconds(), Detach: detach})
	if err != nil {
		return "", fmt.Errorf("run in the guest: %w", err)
	}
	if len(js) > hello.MaxExec {
		return "", banger.Errorf(banger.Invalid, "run in the guest: command line and environment have %d bytes, more than %d", len(js), hello.MaxExec)
	}
	return string(js), nil
}

// guarded closes the connection when ctx ends, whose cause then is the error.
func (c *Client) guarded(ctx context.Context, what string, f func() (Exit, error)) (Exit, error) {
	defer c.guard(ctx)()
	exit, err := f()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return Exit{}, fmt.Errorf("%s: %w", what, err)
	}
	return exit, nil
}

// run makes one request of a session, and sees to its end.
func (c *Client) run(r Request, kind, payload string) (Exit, error) {
	ch, reqs, err := c.session()
	if err != nil {
		return Exit{}, err
	}
	defer ch.Close()
	if r.TTY {
		if err := requestTTY(ch, r); err != nil {
			return Exit{}, err
		}
	}
	if err := ask(ch, kind, ssh.Marshal(struct{ Text string }{payload})); err != nil {
		return Exit{}, err
	}
	return c.collect(ch, reqs, r)
}

// collect passes everything on until the program has ended.
func (c *Client) collect(ch ssh.Channel, reqs <-chan *ssh.Request, r Request) (Exit, error) {
	ended := make(chan struct{})
	var running sync.WaitGroup
	defer running.Wait()
	defer close(ended)
	go func() {
		if r.Stdin != nil {
			_, _ = io.Copy(ch, r.Stdin)
		}
		_ = ch.CloseWrite()
	}()
	running.Go(func() { control(ch, r, ended) })
	errs := make(chan error, 2)
	pass := func(w io.Writer, from io.Reader) {
		if w == nil {
			w = io.Discard
		}
		_, err := io.Copy(w, from)
		if err != nil {
			c.Close() // the program's words find no ear
		}
		errs <- err
	}
	go pass(r.Stdout, ch)
	go pass(r.Stderr, ch.Stderr())
	exit, ok := exitOf(reqs)
	if err := errors.Join(<-errs, <-errs); err != nil {
		return Exit{}, err
	}
	if !ok {
		return Exit{}, banger.Errorf(banger.Unavailable, "the connection broke before the program ended")
	}
	return exit, nil
}

// control sends signals and window sizes.
func control(ch ssh.Channel, r Request, ended <-chan struct{}) {
	for {
		var err error
		select {
		case <-ended:
			return
		case sig, ok := <-r.Signals:
			if n, isNum := sig.(syscall.Signal); isNum {
				_, err = ch.SendRequest("signal", false, ssh.Marshal(struct{ Name string }{hello.SignalName(n)}))
			} else if !ok {
				r.Signals = nil
			}
		case w, ok := <-r.Resize:
			if !ok {
				r.Resize = nil
				continue
			}
			_, err = ch.SendRequest("window-change", false, ssh.Marshal(struct{ Cols, Rows, X, Y uint32 }{uint32(w.Cols), uint32(w.Rows), 0, 0}))
		}
		if err != nil {
			return
		}
	}
}

// exitOf reads how the program ended, until the channel is closed.
func exitOf(reqs <-chan *ssh.Request) (exit Exit, ok bool) {
	for req := range reqs {
		switch req.Type {
		case "exit-status":
			if len(req.Payload) == 4 {
				exit, ok = Exit{Code: int(binary.BigEndian.Uint32(req.Payload) & 0xff)}, true
			}
		case "exit-signal":
			var p struct {
				Name string
				Rest []byte `ssh:"rest"`
			}
			if ssh.Unmarshal(req.Payload, &p) != nil {
				break
			}
			exit, ok = Exit{Code: 255, Signal: "unknown"}, true
			if sig := hello.ParseSignal(p.Name); sig != 0 {
				exit = Exit{Code: 128 + int(sig), Signal: hello.SignalName(sig)}
			}
		}
		if req.WantReply {
			_ = req.Reply(false, nil)
		}
	}
	return exit, ok
}

func requestTTY(ch ssh.Channel, r Request) error {
	return ask(ch, "pty-req", ssh.Marshal(struct {
		Term             string
		Cols, Rows, X, Y uint32
		Modes            string
	}{r.Term, uint32(r.Cols), uint32(r.Rows), 0, 0, ""}))
}

// session opens a session channel.
func (c *Client) session() (ssh.Channel, <-chan *ssh.Request, error) {
	ch, reqs, err := c.ssh.OpenChannel("session", nil)
	if err != nil {
		return nil, nil, banger.Errorf(banger.Unavailable, "open a session: %s", clean(err.Error()))
	}
	return ch, reqs, nil
}

// ask sends a request that the guest must grant.
func ask(ch ssh.Channel, name string, payload []byte) error {
	ok, err := ch.SendRequest(name, true, payload)
	if err != nil {
		return banger.Errorf(banger.Unavailable, "send %s: %s", name, clean(err.Error()))
	}
	if !ok {
		return banger.Errorf(banger.Unsupported, "the guest's agent refuses %s", name)
	}
	return nil
}
