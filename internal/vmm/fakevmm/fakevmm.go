// Package fakevmm is a scripted vmm.Driver that injects faults; nothing boots in it.
package fakevmm

import (
	"context"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"banger"
	"banger/internal/vmm"
)

// Driver starts machines that do what its fields say. The zero value is a
// machine that starts at once, says nothing, echoes its agent stream and powers
// off when it is asked to.
type Driver struct {
	Info vmm.Info // what Probe and the machines tell

	// Process is the command line of a program that stands for the VMM, so that
	// it can be killed, stopped and orphaned: its end is the end of the machine.
	// It inherits a socket that listens in the run directory, as QEMU does, and
	// nothing else. Empty: the machine is no process.
	Process []string

	Refuse error // Start and Probe fail with it
	Hang   bool  // Start waits until its ctx ends, with Process running

	Console   []byte        // printed at the start
	Flood     bool          // then print lines for ever
	DieAfter  time.Duration // end so long after the start; 0: never
	DieOnDial bool          // end at the first Dial
	Exit      vmm.Exit      // how it dies in these two cases
	Deaf      bool          // Powerdown has no effect
	Stubborn  error         // Pause and Resume fail with it

	// Agent is the guest, called for each client of the agent stream. ctx ends
	// when the client hangs up or the machine ends; the stream is closed when
	// Agent returns. nil is Echo.
	Agent func(ctx context.Context, g *Guest)
}

// Guest is the guest's end of the agent stream, and its way out of the machine.
type Guest struct {
	net.Conn
	End func(vmm.Exit)
}

// WaitHost returns at once: an Agent is called when the host is there.
func (*Guest) WaitHost(context.Context) error { return nil }

// Echo is an agent that sends everything back.
func Echo(_ context.Context, g *Guest) { _, _ = io.Copy(g.Conn, g.Conn) }

// Silent is an agent that reads everything and never answers.
func Silent(_ context.Context, g *Guest) { _, _ = io.Copy(io.Discard, g) }

// Stuck is an agent that does not even read: a write to it waits.
func Stuck(ctx context.Context, _ *Guest) { <-ctx.Done() }

// Garbage is an agent that writes the bytes at once, then hangs up.
func Garbage(b []byte) func(context.Context, *Guest) {
	return func(_ context.Context, g *Guest) { _, _ = g.Write(b) }
}

// Probe implements vmm.Driver.
func (d *Driver) Probe(context.Context) (vmm.Info, error) { return d.info(), d.Refuse }

func (d *Driver) info() vmm.Info {
	i := d.Info
	if i.Name == "" {
		i.Name, i.Version, i.Accel, i.AccelReason = "fake", "0", vmm.AccelTCG, "nothing is emulated"
		i.Features = vmm.Features{UserNet: true, Powerdown: true, AgentPort: true, MaxDisks: 20}
	}
	return i
}

// Start implements vmm.Driver.
func (d *Driver) Start(ctx context.Context, spec vmm.Spec) (vmm.Machine, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	if d.Refuse != nil {
		return nil, d.Refuse
	}
	p, err := startProcess(d.Process, spec.RunDir)
	if err != nil {
		return nil, err
	}
	if d.Hang {
		<-ctx.Done()
	}
	if ctx.Err() != nil {
		p.kill()
		<-p.ended
		return nil, banger.Errorf(banger.Canceled, "start fake: %w", context.Cause(ctx))
	}
	m := &machine{driver: d, cmdline: strings.Join(spec.Cmdline, " "), disks: spec.Disks, process: p, dying: make(chan struct{}), done: make(chan struct{})}
	go m.run(spec.Console)
	return m, nil
}

// machine is one goroutine; agents have one each.
type machine struct {
	driver  *Driver
	cmdline string
	disks   []vmm.Disk
	process *process

	mu     sync.Mutex
	hangUp context.CancelFunc // of the agent's client, nil: there is none
	exit   vmm.Exit

	once  sync.Once
	dying chan struct{}
	done  chan struct{}
}

func (m *machine) run(console io.Writer) {
	defer close(m.done)
	if console == nil {
		console = io.Discard
	}
	if m.driver.DieAfter > 0 {
		defer time.AfterFunc(m.driver.DieAfter, func() { m.end(m.driver.Exit) }).Stop()
	}
	_, _ = console.Write(m.driver.Console)
	for m.driver.Flood && !m.ending() {
		_, _ = io.WriteString(console, "flood flood flood flood flood flood\n")
	}
	select {
	case <-m.dying:
		m.process.kill()
		<-m.process.ended
	case <-m.process.died:
		m.end(m.process.exit)
	}
}

func (m *machine) ending() bool {
	select {
	case <-m.dying:
		return true
	case <-m.process.died:
		return true
	default:
		return false
	}
}

// end ends the machine; only the first end counts.
func (m *machine) end(e vmm.Exit) {
	m.once.Do(func() {
		m.mu.Lock()
		m.exit = e
		if m.hangUp != nil {
			m.hangUp()
		}
		m.mu.Unlock()
		close(m.dying)
	})
}

func (m *machine) Info() vmm.Info {
	i := m.driver.info()
	i.Cmdline = m.cmdline
	return i
}

// Process is the zero Process where there is none: pid 0 can be no one's victim.
func (m *machine) Process() banger.Process { return m.process.name }

func (m *machine) Dial(context.Context) (net.Conn, error) {
	if m.driver.DieOnDial {
		m.end(m.driver.Exit)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.dying:
		return nil, banger.Errorf(banger.Unavailable, "dial agent port: the machine has ended")
	default:
	}
	if m.hangUp != nil {
		return nil, banger.Errorf(banger.Conflict, "dial agent port: it has a client already")
	}
	host, guest, err := pair()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background()) // the stream outlives Dial
	m.hangUp = cancel
	agent := m.driver.Agent
	if agent == nil {
		agent = Echo
	}
	go func() {
		agent(ctx, &Guest{guest, m.end})
		_ = guest.Close()
	}()
	context.AfterFunc(ctx, func() { _ = guest.Close() })
	return &conn{host, sync.OnceFunc(func() {
		cancel()
		m.mu.Lock()
		m.hangUp = nil
		m.mu.Unlock()
	})}, nil
}

// pair is a stream with both its ends. It has buffers, as a serial port has
// and net.Pipe has not: both sides may write first.
func pair() (host, guest net.Conn, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	if host, err = socketConn(fds[0]); err != nil {
		_ = syscall.Close(fds[1])
		return nil, nil, err
	}
	if guest, err = socketConn(fds[1]); err != nil {
		_ = host.Close()
	}
	return host, guest, err
}

func socketConn(fd int) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), "agent stream")
	defer f.Close()
	return net.FileConn(f)
}

// conn gives the one seat back when it is closed.
type conn struct {
	net.Conn
	free func()
}

func (c *conn) Close() error {
	err := c.Conn.Close()
	c.free()
	return err
}

func (m *machine) Powerdown(context.Context) error {
	if !m.driver.Deaf {
		m.end(vmm.Exit{Guest: vmm.GuestShutdown})
	}
	return nil
}

func (m *machine) Look(context.Context) (string, error) { return "nothing runs", nil }

// Traffic is that of a guest which has read its disk once.
func (m *machine) Traffic(context.Context) (vmm.Traffic, error) {
	return vmm.Traffic{DiskRead: 4096}, m.setPaused()
}

// Resize has no disk to make larger, but its file.
func (m *machine) Resize(_ context.Context, disk int, size int64) error {
	if err := m.setPaused(); err != nil {
		return err
	}
	return os.Truncate(m.disks[disk].Path, size)
}

func (m *machine) Pause(context.Context) error  { return m.setPaused() }
func (m *machine) Resume(context.Context) error { return m.setPaused() }

// setPaused pauses nothing: there is no CPU.
func (m *machine) setPaused() error {
	if m.ending() {
		return banger.Errorf(banger.Unavailable, "the machine has ended")
	}
	return m.driver.Stubborn
}

func (m *machine) Kill() error {
	m.end(vmm.Exit{Signal: syscall.SIGKILL})
	return nil
}

func (m *machine) Done() <-chan struct{} { return m.done }

func (m *machine) Exit() vmm.Exit {
	<-m.done
	return m.exit
}
