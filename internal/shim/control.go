package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"banger/internal/agent"
	"banger/internal/hello"
	"banger/internal/state"
)

// serveControl answers the daemon: to each connection a line of status now and
// at every change, from each the orders to stop or kill. It returns a function
// that waits until every connection has been told the end and closes the rest.
func (s *Shim) serveControl(ctx context.Context, l *net.UnixListener) func() {
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { s.report(c) })
			go s.obey(ctx, c)
		}
	})
	return func() {
		_ = l.Close() // removes the socket too
		all.Wait()
	}
}

// report writes the status at every change until the end was told.
func (s *Shim) report(c net.Conn) {
	defer c.Close()
	for {
		s.mu.Lock()
		status, changed := s.status, s.changed
		s.mu.Unlock()
		// A daemon that does not read must not hold up the shim's own end.
		_ = c.SetWriteDeadline(time.Now().Add(5 * time.Second))
		if json.NewEncoder(c).Encode(status) != nil || status.Phase == Ended {
			return
		}
		<-changed
	}
}

// obey carries out the orders that come over one connection.
func (s *Shim) obey(ctx context.Context, c net.Conn) {
	for dec := json.NewDecoder(c); ; {
		var o order
		if dec.Decode(&o) != nil {
			return
		}
		s.mu.Lock()
		m := s.machine
		s.mu.Unlock()
		switch {
		case o.Kill:
			s.override("killed")
			s.cancel(errors.New("killed"))
		case o.Stop && m == nil: // what has not started yet needs no grace
			s.cancel(errors.New(s.ask("stopped")))
		case o.Stop:
			s.ask("stopped")
			go s.stop(ctx, o.Grace)
		}
	}
}

// stop ends the machine the gentle way first: the agent, the power button, the kill.
func (s *Shim) stop(ctx context.Context, grace time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	if err := s.shutdown(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "ask the agent to power off:", err)
		_ = s.machine.Powerdown(ctx)
	}
	select {
	case <-s.machine.Done():
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.DeadlineExceeded) { // else somebody was faster
			s.override(fmt.Sprintf("killed: the guest did not stop within %s", grace))
			_ = s.machine.Kill()
		}
	}
}

// shutdown asks the agent to power the guest off.
func (s *Shim) shutdown(ctx context.Context) error {
	s.mu.Lock()
	phase := s.status.Phase
	s.mu.Unlock()
	if phase != Running {
		return fmt.Errorf("the guest is %s", phase)
	}
	signer, err := agent.LoadOrCreateUserKey(s.spec.UserKey)
	if err != nil {
		return err
	}
	host, _, _, _, err := ssh.ParseAuthorizedKey([]byte(s.spec.HostKey))
	if err != nil {
		return fmt.Errorf("parse host key: %w", err)
	}
	c, err := agent.Dial(ctx, s.spec.Machine.RunDir+"/"+state.AgentSocket, agent.Options{User: "root", Signer: signer, HostKey: host})
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Shutdown(ctx, hello.Poweroff)
}
