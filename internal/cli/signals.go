package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// signals takes the signals of the process: they cancel the command until a
// guest's command is there to get them.
type signals struct {
	ch     chan os.Signal
	cancel context.CancelCauseFunc

	mu      sync.Mutex
	first   syscall.Signal // that cancelled
	forward chan os.Signal // nil: cancel
	count   int            // of interrupts since forward was set
}

// giveUp is the number of interrupts after which a guest's command that does not end is left alone.
const giveUp = 3

func newSignals(cancel context.CancelCauseFunc) *signals {
	s := &signals{ch: make(chan os.Signal, 8), cancel: cancel}
	signal.Notify(s.ch, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	if !signal.Ignored(syscall.SIGHUP) { // under nohup it stays ignored
		signal.Notify(s.ch, syscall.SIGHUP)
	}
	go func() {
		for sig := range s.ch {
			s.take(sig.(syscall.Signal))
		}
	}()
	return s
}

func (s *signals) take(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.forward != nil {
		if sig == syscall.SIGINT {
			s.count++
		}
		if s.count < giveUp {
			select {
			case s.forward <- sig:
			default: // the guest has more of them than it takes
			}
			return
		}
	}
	if s.first != 0 {
		os.Exit(exitSignal + int(sig)) // the second one does not wait for a clean end
	}
	s.first = sig
	s.cancel(fmt.Errorf("interrupted by %s", unix.SignalName(sig)))
}

// pass sends the signals to a guest's command from now on, until stop is called.
func (s *signals) pass() (ch <-chan os.Signal, stop func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := make(chan os.Signal, 8)
	s.forward, s.count = c, 0
	return c, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.forward = nil
	}
}

// got is the number of the signal that cancelled the command, or 0.
func (s *signals) got() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.first)
}

func (s *signals) close() { signal.Stop(s.ch) }
