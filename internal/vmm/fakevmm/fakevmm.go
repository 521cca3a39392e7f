// Package fakevmm is a scripted vmm.Driver that injects faults; nothing boots in it.
package fakevmm

import (
	"context"
	"io"
	"net"
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

	Refuse error // Start and Probe fail with it
	Hang   bool  // Start waits until its ctx ends

	Console   []byte        // printed at the start
	Flood     bool          // then print lines for ever
	DieAfter  time.Duration // end so long after the start; 0: never
	DieOnDial bool          // end at the first Dial
	Exit      vmm.Exit      // how it dies in these two cases
	Deaf      bool          // Powerdown has no effect

	// Agent is the guest's end of the agent stream, called for each client. ctx
	// ends when the client hangs up or the machine ends; the stream is closed
	// when Agent returns. nil is Echo.
	Agent func(ctx context.Context, stream io.ReadWriter)
}

// Echo is an agent that sends everything back.
func Echo(_ context.Context, stream io.ReadWriter) { _, _ = io.Copy(stream, stream) }

// Silent is an agent that reads everything and never answers.
func Silent(_ context.Context, stream io.ReadWriter) { _, _ = io.Copy(io.Discard, stream) }

// Stuck is an agent that does not even read: a write to it waits.
func Stuck(ctx context.Context, _ io.ReadWriter) { <-ctx.Done() }

// Garbage is an agent that writes the bytes at once, then hangs up.
func Garbage(b []byte) func(context.Context, io.ReadWriter) {
	return func(_ context.Context, stream io.ReadWriter) { _, _ = stream.Write(b) }
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
	if d.Hang {
		<-ctx.Done()
	}
	if ctx.Err() != nil {
		return nil, banger.Errorf(banger.Canceled, "start fake: %w", context.Cause(ctx))
	}
	m := &machine{driver: d, dying: make(chan struct{}), done: make(chan struct{})}
	go m.run(spec.Console)
	return m, nil
}

// machine is one goroutine; agents have one each.
type machine struct {
	driver *Driver

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
	for m.driver.Flood {
		select {
		case <-m.dying:
			return
		default:
			_, _ = io.WriteString(console, "flood flood flood flood flood flood\n")
		}
	}
	<-m.dying
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

func (m *machine) Info() vmm.Info { return m.driver.info() }

// Process is the zero Process: there is none, and pid 0 can be no one's victim.
func (m *machine) Process() banger.Process { return banger.Process{} }

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
	host, guest := net.Pipe()
	ctx, cancel := context.WithCancel(context.Background()) // the stream outlives Dial
	m.hangUp = cancel
	agent := m.driver.Agent
	if agent == nil {
		agent = Echo
	}
	go func() {
		agent(ctx, guest)
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

func (m *machine) Kill() error {
	m.end(vmm.Exit{Signal: syscall.SIGKILL})
	return nil
}

func (m *machine) Done() <-chan struct{} { return m.done }

func (m *machine) Exit() vmm.Exit {
	<-m.done
	return m.exit
}
