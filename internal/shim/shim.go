// Package shim is the process that holds one machine: parent of its VMM, transport of its agent, keeper of its console.
package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/agent"
	"banger/internal/hello"
	"banger/internal/share"
	"banger/internal/state"
	"banger/internal/vmm"
)

// Shim holds one machine from its start to its end.
type Shim struct {
	Dir    string // the VM's directory, with its boot.json
	Driver vmm.Driver

	spec    Spec
	began   time.Time
	machine vmm.Machine
	folders []*share.Folder // of spec.Mounts

	mu      sync.Mutex
	status  Status
	changed chan struct{} // closed at each change of status, then replaced
	asked   string        // who asked for the end, for its reason
	expired bool          // it was a limit of the VM
	cancel  context.CancelCauseFunc

	visits visits
}

// Run boots the machine, serves its sockets and returns when it has ended;
// control is the socket for the daemon, already listening. The end is written
// to exit.json first, for a daemon that is not there to hear of it.
func (s *Shim) Run(ctx context.Context, control *net.UnixListener) error {
	ctx, s.cancel = context.WithCancelCause(ctx)
	defer s.cancel(nil)
	s.began = time.Now()
	s.changed = make(chan struct{})
	s.status.Phase = Starting
	if err := state.ReadRecord(filepath.Join(s.Dir, state.BootFile), &s.spec); err != nil {
		return err
	}
	if !filepath.IsAbs(s.spec.Machine.RunDir) {
		return fmt.Errorf("read record %s: it names no run directory", state.BootFile)
	}
	watchers := s.serveControl(ctx, control)
	end := s.hold(ctx)
	err := s.finish(end)
	watchers() // each has been told the end
	return err
}

// hold is the machine's life, top to bottom.
func (s *Shim) hold(ctx context.Context) *End {
	fail := func(err error) *End {
		e := banger.AsError(err)
		return &End{State: banger.Failed, Reason: e.Msg, Error: e}
	}
	log, err := openConsole(filepath.Join(s.Dir, state.ConsoleLog))
	if err != nil {
		return fail(err)
	}
	defer log.Close()
	if err := s.openFolders(); err != nil {
		return fail(err)
	}
	defer s.closeFolders()

	tty, err := openTTY(s.spec.Machine.RunDir)
	if err != nil {
		return fail(err)
	}
	defer tty.close()
	s.spec.Machine.Console, s.spec.Machine.Keys = io.MultiWriter(log, tty), tty.input
	limits, lifted := context.WithCancel(ctx)
	var keeper sync.WaitGroup
	keeper.Go(func() { s.keepLimits(limits) })
	defer keeper.Wait()
	defer lifted()
	for {
		sock := filepath.Join(s.spec.Machine.RunDir, state.AgentSocket)
		_ = os.Remove(sock) // of an earlier run whose shim was killed
		listener, err := net.Listen("unix", sock)
		if err != nil {
			return fail(fmt.Errorf("listen for the agent's clients: %w", err))
		}
		m, err := s.Driver.Start(ctx, s.spec.Machine)
		if err != nil {
			_ = listener.Close()
		}
		if err != nil && ctx.Err() != nil { // it was told to end before the machine ran
			return s.stoppedEarly(context.Cause(ctx))
		}
		if err != nil {
			return fail(err)
		}
		s.started(m)
		s.serve(ctx, m, counted{listener, &s.visits})
		if !s.reboots(m) {
			return s.endOf(m)
		}
	}
}

// stoppedEarly is the end of a machine that was told to end before it ran.
func (s *Shim) stoppedEarly(cause error) *End {
	reason := s.ask(cause.Error())
	s.mu.Lock()
	defer s.mu.Unlock()
	return &End{State: banger.Stopped, Reason: reason, Expired: s.expired}
}

// serve holds a machine that runs until it has ended.
func (s *Shim) serve(ctx context.Context, m vmm.Machine, listener net.Listener) {
	serving, stopServing := context.WithCancel(ctx)
	heard := make(chan struct{})
	var transport sync.WaitGroup
	transport.Go(func() {
		t := &agent.Transport{Dial: untilEnd(m, heard), Config: s.config, Event: func(e agent.Event) {
			s.event(e)
			if e.Kind == agent.Ready && len(s.folders) > 0 {
				transport.Go(func() { s.mountFolders(serving, m, &transport) })
			}
		}}
		_ = t.Serve(serving, listener) // its error is why it was stopped
	})
	transport.Go(func() {
		if err := s.keepTime(serving); serving.Err() == nil {
			fmt.Fprintln(os.Stderr, "keep the guest's time:", err)
		}
	})
	defer transport.Wait()
	defer stopServing()

	select {
	case <-m.Done():
		s.hear(ctx, heard)
	case <-ctx.Done(): // the shim itself was told to end
		s.ask(context.Cause(ctx).Error())
		_ = m.Kill()
		<-m.Done()
	}
}

// reboots reports whether the guest asked for another boot, which a machine
// that was not asked to end gets in a VMM of its own. A guest that has not come
// up and resets would do so for ever.
func (s *Shim) reboots(m vmm.Machine) (again bool) {
	s.update(func(st *Status) {
		again = m.Exit().Guest == vmm.GuestReset && s.asked == "" && st.Phase == Running
		if again {
			s.machine, s.began = nil, time.Now()
			st.Phase, st.Paused, st.Boot, st.Reboots = Starting, false, Timeline{}, st.Reboots+1
		}
	})
	return again
}

// untilEnd dials the machine's agent stream until the machine has ended. That
// it is asked for once more means that all the guest has said was heard.
func untilEnd(m vmm.Machine, heard chan struct{}) func(context.Context) (net.Conn, error) {
	tell := sync.OnceFunc(func() { close(heard) })
	return func(ctx context.Context) (net.Conn, error) {
		select {
		case <-m.Done():
			tell()
			return nil, errors.New("the machine has ended")
		default:
			return m.Dial(ctx)
		}
	}
}

// hearTime bounds the wait for a guest's last words: they have been sent, the
// transport only has to get to them.
const hearTime = 2 * time.Second

// hear lets the transport come to the end of the stream of a guest that did
// not boot: pid 1 says why, and powers off at once.
func (s *Shim) hear(ctx context.Context, heard <-chan struct{}) {
	s.mu.Lock()
	phase := s.status.Phase
	s.mu.Unlock()
	if phase != Starting {
		return
	}
	select {
	case <-heard:
	case <-time.After(hearTime):
	case <-ctx.Done():
	}
}

// started records the machine, and makes its end possible by order.
func (s *Shim) started(m vmm.Machine) {
	info := m.Info()
	self, _ := vmm.ProcessOf(os.Getpid()) // cannot fail for a process that runs
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	s.update(func(st *Status) {
		s.machine = m
		st.Boot.VMM = s.elapsed()
		st.Machine = &banger.Machine{
			Driver: info.Name, Version: info.Version, Accel: info.Accel, AccelReason: info.AccelReason,
			BootPath: s.spec.BootPath, BootReason: s.spec.BootReason, Cmdline: info.Cmdline,
			VMM: m.Process(), Shim: self, BootID: string(trim(boot)),
		}
	})
}

// config answers one hello of the guest.
func (s *Shim) config(context.Context, string) (hello.Config, error) {
	c := s.spec.Hello
	c.Time = time.Now().UnixNano()
	return c, nil
}

// event notes how far the guest has come.
func (s *Shim) event(e agent.Event) {
	s.update(func(st *Status) {
		switch {
		case e.Kind == agent.Booting:
			st.Boot.Init = s.elapsed()
		case e.Kind == agent.Failed && st.Phase == Starting: // one that runs has booted, whatever it says
			st.Guest = e.Text
		case e.Kind == agent.Ready && st.Phase == Starting:
			st.Boot.Agent = s.elapsed()
			if len(s.folders) == 0 { // else it runs once they are mounted
				st.Phase = Running
			}
		}
	})
}

// endOf puts the end of the machine into words.
func (s *Shim) endOf(m vmm.Machine) *End {
	exit := m.Exit()
	s.mu.Lock()
	asked, guest, expired := s.asked, s.status.Guest, s.expired
	s.mu.Unlock()
	failed := func(format string, args ...any) *End {
		return &End{State: banger.Failed, Reason: fmt.Sprintf(format, args...)}
	}
	stopped := func(reason string) *End { return &End{State: banger.Stopped, Reason: reason, Expired: expired} }
	switch {
	case guest != "":
		return failed("the guest could not boot: %s", guest)
	case exit.Guest == vmm.GuestPanic:
		return failed("the guest's kernel panicked: %s", exit.Panic)
	case asked != "":
		return stopped(asked)
	case exit.Guest == vmm.GuestShutdown:
		return stopped("the guest powered off")
	case exit.Guest == vmm.GuestReset:
		return failed("the guest rebooted before its agent answered")
	case exit.Signal != 0:
		return failed("the VMM was ended by %s", unix.SignalName(exit.Signal))
	}
	return failed("the VMM ended with code %d: %s", exit.Code, exit.Output)
}

// finish makes the end known: on disk first, then to whoever watches. Between
// the two its sockets go, so that no new start of the VM can meet them.
func (s *Shim) finish(end *End) error {
	end.Time = time.Now().UTC()
	s.mu.Lock()
	last := s.status
	s.mu.Unlock()
	last.Phase, last.End = Ended, end
	err := state.WriteRecord(filepath.Join(s.Dir, state.ExitFile), last)
	err = errors.Join(err, os.RemoveAll(s.spec.Machine.RunDir))
	s.update(func(st *Status) { *st = last })
	return err
}

// update changes the status and wakes everyone who watches it.
func (s *Shim) update(f func(*Status)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.status)
	close(s.changed)
	s.changed = make(chan struct{})
}

// ask notes the first reason for an end that somebody asked for, and returns it.
func (s *Shim) ask(reason string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked == "" {
		s.asked = reason
	}
	return s.asked
}

// override is ask for an end by force, which goes before one that was asked for gently.
func (s *Shim) override(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = reason
}

func (s *Shim) elapsed() int64 { return time.Since(s.began).Milliseconds() }

func trim(b []byte) []byte {
	for len(b) > 0 && b[len(b)-1] == '\n' {
		b = b[:len(b)-1]
	}
	return b
}
