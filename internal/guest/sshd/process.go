package sshd

import (
	"cmp"
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"banger/internal/hello"
)

// Times of a program's end. What a program wrote before its end is always
// delivered. Background children may keep its output open: what they write is
// passed on until they have been quiet for drainQuiet (a pipeline into which
// the program wrote its last words needs a moment), at most for drainMax;
// then the exit status goes out and the output is closed.
const (
	drainQuiet = 500 * time.Millisecond // emulated, on a busy host
	drainMax   = 2 * time.Second
	// hangUpGrace is what a program gets between SIGHUP, as its client is
	// gone, and SIGKILL. When the agent ends there is no time for more.
	hangUpGrace = 5 * time.Second
	endingGrace = time.Second
)

// process is one program of one session, in a process group of its own.
type process struct {
	os     *os.Process
	ch     ssh.Channel
	tty    *tty
	in     *os.File   // its standard input, or the terminal
	outs   []*os.File // its standard output and error, or the terminal
	exited chan struct{}
	drain  time.Duration // at most, as drainMax

	mu      sync.Mutex
	reaped  bool // the process group may belong to somebody else
	expired bool // it took too long
}

// start starts the program on the terminal, or on three pipes if that is nil.
func (s *Server) start(p program, ch ssh.Channel, t *tty) (*process, error) {
	attr := &os.ProcAttr{Dir: p.dir, Env: p.env, Sys: &syscall.SysProcAttr{Setsid: true}}
	if os.Getuid() == 0 {
		attr.Sys.Credential = &syscall.Credential{Uid: p.user.uid, Gid: p.user.gid, Groups: p.user.groups}
	} else if int(p.user.uid) != os.Getuid() {
		return nil, notRunnable("run as user %d: the agent is not root", p.user.uid)
	}
	proc := &process{ch: ch, tty: t, exited: make(chan struct{}), drain: cmp.Or(s.drain, drainMax)}
	if t != nil {
		attr.Sys.Setctty = true // of descriptor 0
		attr.Files = []*os.File{t.slave, t.slave, t.slave}
		proc.in, proc.outs = t.master, []*os.File{t.master}
		if err := t.slave.Chown(int(p.user.uid), -1); err != nil {
			return nil, err
		}
		defer t.slave.Close()
	} else {
		var err error
		if attr.Files, err = proc.pipes(); err != nil {
			return nil, err
		}
		defer closeAll(attr.Files)
	}
	var err error
	if proc.os, err = s.startCalm(p, attr); err != nil {
		if t == nil {
			closeAll(append(proc.outs, proc.in))
		}
		return nil, execError(p.path, err)
	}
	return proc, nil
}

// pipes makes the three pipes and returns the program's ends.
func (p *process) pipes() (theirs []*os.File, err error) {
	var ours []*os.File
	for i := range 3 {
		r, w, err := os.Pipe()
		if err != nil {
			closeAll(append(ours, theirs...))
			return nil, err
		}
		_ = control(r, func(fd int) error { // fewer switches; without it all works
			_, err := unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, 1<<20)
			return err
		})
		if i == 0 {
			r, w = w, r
		}
		ours, theirs = append(ours, r), append(theirs, w)
	}
	p.in, p.outs = ours[0], ours[1:]
	return theirs, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// wait passes input and output on until the program has ended, and reports how.
func (p *process) wait() {
	go p.copyIn() // ends with the channel, or as the program closes its input
	status := p.outputs(p.ch, p.ch.Stderr())
	if p.expired {
		exit(p.ch, hello.TimedOut)
		return
	}
	report(p.ch, status)
}

// outputs passes output on until the program has ended.
func (p *process) outputs(writers ...io.Writer) syscall.WaitStatus {
	var copies sync.WaitGroup
	for i, f := range p.outs {
		copies.Go(func() { copyOut(writers[i], f, p.drain) })
	}
	status := p.reap()
	for _, f := range p.outs {
		_ = f.SetReadDeadline(time.Unix(1, 0)) // tells copyOut
	}
	copies.Wait()
	if p.tty == nil {
		closeAll(append(p.outs, p.in))
	}
	return status
}

// limit ends the program when its time is over: TERM to its process group, and
// KILL after a grace.
func (p *process) limit(after, grace time.Duration) {
	timer := time.NewTimer(after)
	defer timer.Stop()
	select {
	case <-p.exited:
		return
	case <-timer.C:
	}
	p.mu.Lock()
	p.expired = !p.reaped
	p.mu.Unlock()
	p.signal(syscall.SIGTERM)
	p.signal(syscall.SIGCONT)
	timer.Reset(grace)
	select {
	case <-p.exited:
	case <-timer.C:
		p.signal(syscall.SIGKILL)
	}
}

// reap waits for the program's end. Its process group is let go of only
// then, under the lock, so that no signal can hit another one.
func (p *process) reap() syscall.WaitStatus {
	for {
		err := unix.Waitid(unix.P_PID, p.os.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			break
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	st, err := p.os.Wait()
	p.reaped = true
	close(p.exited)
	if err != nil { // somebody else has waited for it
		return syscall.WaitStatus(255 << 8)
	}
	return st.Sys().(syscall.WaitStatus)
}

func (p *process) copyIn() {
	_, err := io.Copy(p.in, p.ch)
	switch {
	case p.tty == nil:
		p.in.Close()
	case err == nil:
		p.tty.endInput()
	}
}

// copyOut copies from a pipe or terminal until its end. When the program has
// ended (a deadline in the past tells), it goes on as said above.
func copyOut(w io.Writer, f *os.File, drain time.Duration) {
	buf := make([]byte, 64<<10)
	draining, pending := false, 0 // bytes that are there for certain
	var end time.Time
	for {
		n, err := f.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				f.Close() // the client is gone; the next write of the program fails
				return
			}
		}
		pending -= n
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				return // EOF; EIO of a terminal that nobody holds open any more
			}
			if draining && pending <= 0 {
				return
			}
			if !draining {
				draining, pending, end = true, waiting(f), time.Now().Add(drain)
			}
		}
		if draining {
			next := time.Now().Add(drainQuiet)
			if pending <= 0 && next.After(end) {
				next = end
			}
			_ = f.SetReadDeadline(next)
		}
	}
}

// waiting is the number of bytes that can be read at once.
func waiting(f *os.File) (n int) {
	_ = control(f, func(fd int) (err error) {
		n, err = unix.IoctlGetInt(fd, unix.TIOCINQ)
		return err
	})
	return n
}

// report tells the client how the program ended, and closes the channel.
func report(ch ssh.Channel, status syscall.WaitStatus) {
	if !status.Signaled() {
		exit(ch, status.ExitStatus())
		return
	}
	sig := status.Signal()
	_ = ch.CloseWrite()
	_, _ = ch.SendRequest("exit-signal", false, ssh.Marshal(struct {
		Signal     string
		CoreDumped bool
		Message    string
		Language   string
	}{hello.SignalName(sig), status.CoreDump(), sig.String(), ""}))
	_ = ch.Close()
}

// signal sends a signal to the process group.
func (p *process) signal(sig syscall.Signal) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return sig != 0 && !p.reaped && syscall.Kill(-p.os.Pid, sig) == nil
}

// hangUp ends a program whose client is gone: SIGHUP to its process group, and
// SIGKILL if it is still there after a grace. Programs that left the group,
// as a daemon or tmux does, live on.
func (p *process) hangUp(after time.Duration, ending <-chan struct{}) {
	if !p.signal(syscall.SIGHUP) {
		return
	}
	p.signal(syscall.SIGCONT) // a stopped one hears nothing
	grace := time.NewTimer(after)
	defer grace.Stop()
	for {
		select {
		case <-p.exited:
			return
		case <-ending:
			ending = nil
			grace.Reset(endingGrace)
		case <-grace.C:
			p.signal(syscall.SIGKILL)
			return
		}
	}
}
