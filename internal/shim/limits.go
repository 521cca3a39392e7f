package shim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"banger/internal/vmm"
)

// The words of an end that a limit of the VM has brought.
const (
	timeIsUp = "its time was up"
	idleFor  = "it was idle for %s"
)

// limitGrace is what a guest gets to end by itself when a limit was reached.
const limitGrace = 30 * time.Second

// busyShare is how much of one CPU of the host a VMM may use and still be idle:
// one part of this many. A guest in which nothing happens takes less than a
// hundredth, under emulation too.
const busyShare = 20

// maxLook is the longest time between two looks at whether a machine is idle.
const maxLook = 10 * time.Second

// keepLimits ends the machine when it has been up for Spec.Timeout, or idle for
// Spec.IdleTimeout. Both are the shim's because the daemon may not be there.
// They count from the first time that the agent answered, also for a guest that
// reboots. Time goes on for a machine that is paused, but it is not idle then.
func (s *Shim) keepLimits(ctx context.Context) {
	if s.spec.Timeout <= 0 && s.spec.IdleTimeout <= 0 {
		return
	}
	if !s.awaitRunning(ctx) {
		return
	}
	var up, look <-chan time.Time
	if s.spec.Timeout > 0 {
		timer := time.NewTimer(s.spec.Timeout)
		defer timer.Stop()
		up = timer.C
	}
	if s.spec.IdleTimeout > 0 {
		tick := time.NewTicker(max(min(s.spec.IdleTimeout/4, maxLook), time.Millisecond))
		defer tick.Stop()
		look = tick.C
	}
	idle := idleness{since: time.Now()}
	idle.look(s) // what the boot took does not count
	for {
		select {
		case <-up:
			s.expire(ctx, timeIsUp)
			return
		case <-look:
			if idle.look(s) >= s.spec.IdleTimeout {
				s.expire(ctx, fmt.Sprintf(idleFor, s.spec.IdleTimeout))
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// awaitRunning waits until the agent has answered for the first time.
func (s *Shim) awaitRunning(ctx context.Context) bool {
	for {
		s.mu.Lock()
		phase, changed := s.status.Phase, s.changed
		s.mu.Unlock()
		if phase != Starting {
			return phase == Running
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// expire ends the machine as a stop does, for a reason that is nobody's order.
func (s *Shim) expire(ctx context.Context, reason string) {
	s.mu.Lock()
	m := s.machine
	if s.asked == "" { // together with the look at the machine: see reboots
		s.asked, s.expired = reason, true
	}
	expired := s.expired
	s.mu.Unlock()
	switch {
	case !expired: // somebody was faster
	case m == nil: // between two machines of a guest that reboots
		s.cancel(errors.New(reason))
	default:
		s.update(func(st *Status) { st.Expired = reason })
		s.stop(ctx, m, limitGrace)
	}
}

// idleness is what the last look at a machine has seen.
type idleness struct {
	since time.Time // nothing has happened
	at    time.Time // of the look
	pid   int
	cpu   time.Duration
	came  int64 // sessions so far
}

// look tells how long the machine has been idle: without a session of a client,
// and with next to no work.
func (i *idleness) look(s *Shim) time.Duration {
	s.mu.Lock()
	m, running := s.machine, s.status.Phase == Running && !s.status.Paused
	s.mu.Unlock()
	now := idleness{since: i.since, at: time.Now(), came: s.visits.came.Load()}
	if m != nil {
		now.pid = m.Process().PID
		now.cpu = vmm.CPUTime(now.pid)
	}
	worked := now.pid != i.pid || (now.cpu-i.cpu)*busyShare > now.at.Sub(i.at)
	if !running || worked || s.visits.open.Load() > 0 || now.came != i.came {
		now.since = now.at
	}
	*i = now
	return now.at.Sub(now.since)
}

// visits counts the sessions of clients: their connections to the agent.
type visits struct{ open, came atomic.Int64 }

// counted is a listener of a unix socket whose connections are counted.
type counted struct {
	net.Listener
	v *visits
}

func (l counted) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.v.came.Add(1)
	l.v.open.Add(1)
	return &visit{c.(*net.UnixConn), sync.OnceFunc(func() { l.v.open.Add(-1) })}, nil
}

// visit is one connection of a client, of which each direction ends by itself.
type visit struct {
	*net.UnixConn
	leave func()
}

func (v *visit) Close() error {
	v.leave()
	return v.UnixConn.Close()
}
