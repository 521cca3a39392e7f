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

	"banger"
	"banger/internal/agent"
	"banger/internal/hello"
	"banger/internal/state"
	"banger/internal/vmm"
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
		if o.Stop && s.asked == "" {
			s.asked = "stopped" // together with the look at the machine: see reboots
		}
		s.mu.Unlock()
		switch {
		case o.Pause || o.Go:
			go s.setPaused(ctx, m, o.ID, o.Pause) // a kill may have to overtake it
		case o.Grow > 0:
			go s.grow(ctx, m, o.ID, o.Grow)
		case o.Count:
			go s.count(ctx, m, o.ID)
		case o.Kill:
			s.override("killed")
			s.look(ctx, m)
			s.cancel(errors.New("killed"))
		case o.Stop && m == nil: // what has not started yet needs no grace
			s.cancel(errors.New("stopped"))
		case o.Stop:
			go s.stop(ctx, m, o.Grace)
		}
	}
}

// lookTime bounds a last look at a machine.
const lookTime = 500 * time.Millisecond

// look notes what a guest was at that is killed before its agent has answered.
func (s *Shim) look(ctx context.Context, m vmm.Machine) {
	s.mu.Lock()
	phase := s.status.Phase
	s.mu.Unlock()
	if m == nil || phase != Starting {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	if seen, err := m.Look(ctx); err == nil {
		s.update(func(st *Status) { st.Seen = seen })
	}
}

// pauseTime bounds a pause: a VMM that does not answer must not hold up a kill.
const pauseTime = 5 * time.Second

// setPaused stops the machine's CPUs or lets them go on, and answers the order.
func (s *Shim) setPaused(ctx context.Context, m vmm.Machine, id int64, pause bool) {
	ctx, cancel := context.WithTimeout(ctx, pauseTime)
	defer cancel()
	s.mu.Lock()
	phase := s.status.Phase
	s.mu.Unlock()
	var err error
	switch {
	case phase != Running:
		err = banger.Errorf(banger.Conflict, "the machine is %s", phase)
	case pause:
		err = m.Pause(ctx)
	default:
		err = m.Resume(ctx)
	}
	s.update(func(st *Status) {
		st.Answer = &Answer{ID: id}
		if err != nil {
			st.Answer.Error = banger.AsError(err)
			return
		}
		st.Paused = pause
	})
	if err == nil && !pause {
		s.tellTime()
	}
}

// count answers an order for the machine's traffic.
func (s *Shim) count(ctx context.Context, m vmm.Machine, id int64) {
	ctx, cancel := context.WithTimeout(ctx, pauseTime)
	defer cancel()
	answer := &Traffic{ID: id}
	err := error(banger.Errorf(banger.Conflict, "there is no machine yet"))
	if m != nil {
		answer.Traffic, err = m.Traffic(ctx)
	}
	answer.Error = banger.AsError(err)
	s.update(func(st *Status) { st.Traffic = answer })
}

// goOn lets a machine that is paused go on, so that its guest can hear something.
func (s *Shim) goOn(ctx context.Context, m vmm.Machine) {
	s.mu.Lock()
	paused := s.status.Paused
	s.mu.Unlock()
	if paused && m.Resume(ctx) == nil {
		s.update(func(st *Status) { st.Paused = false })
	}
}

// stop ends the machine the gentle way first: the agent, the power button, the kill.
func (s *Shim) stop(ctx context.Context, m vmm.Machine, grace time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	s.goOn(ctx, m)
	if err := s.shutdown(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "ask the agent to power off:", err)
		_ = m.Powerdown(ctx)
	}
	select {
	case <-m.Done():
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.DeadlineExceeded) { // else somebody was faster
			s.overdue(grace)
			_ = m.Kill()
		}
	}
}

// overdue notes that the guest did not end in its time, and what it was to end for.
func (s *Shim) overdue(grace time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	reason := fmt.Sprintf("killed: the guest did not stop within %s", grace)
	if s.expired {
		reason = s.asked + "; " + reason
	}
	s.asked = reason
}

// shutdown asks the agent to power the guest off.
func (s *Shim) shutdown(ctx context.Context) error {
	s.mu.Lock()
	phase := s.status.Phase
	s.mu.Unlock()
	if phase != Running {
		return fmt.Errorf("the guest is %s", phase)
	}
	c, err := s.dialAgent(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Shutdown(ctx, hello.Poweroff)
}

// dialAgent connects to the machine's agent as its clients do.
func (s *Shim) dialAgent(ctx context.Context) (*agent.Client, error) {
	return agent.DialRoot(ctx, s.spec.Machine.RunDir+"/"+state.AgentSocket, s.spec.UserKey, s.spec.HostKey)
}
