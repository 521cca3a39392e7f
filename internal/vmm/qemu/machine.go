package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"banger"
	"banger/internal/vmm"
)

// drainTimeout bounds how long the console of an ended machine is written out:
// a Spec.Console that waits for ever must not keep Done from closing.
const drainTimeout = 5 * time.Second

// machine is one QEMU process. Three goroutines belong to it: the console's
// reader, the QMP reader and the one that waits for the process and closes done.
type machine struct {
	info    vmm.Info // accelerator set before Start returns
	process banger.Process
	cmd     *exec.Cmd
	qmp     *qmp
	sockets []*listener
	agent   seat
	console *console
	output  *tail

	mu    sync.Mutex
	guest string // the guest's way out, from QMP's events

	done chan struct{}
	exit vmm.Exit // valid after done
}

// run starts QEMU and connects to its QMP, which need not answer yet. Nothing is
// left of a run that fails.
func run(ctx context.Context, path string, args []string, spec vmm.Spec) (_ *machine, err error) {
	m := &machine{output: &tail{}, console: &console{w: spec.Console}, done: make(chan struct{})}
	defer func() {
		for _, l := range m.sockets {
			l.release()
			if err != nil {
				l.remove()
			}
		}
	}()
	for _, name := range []string{qmpSocket, agentSocket} { // in the order of qmpFD, agentFD
		l, err := listen(spec.RunDir, name)
		if err != nil {
			return nil, err
		}
		m.sockets = append(m.sockets, l)
	}
	m.agent.path = m.sockets[1].path
	conn, err := new(net.Dialer).DialContext(ctx, "unix", m.sockets[0].path)
	if err != nil {
		return nil, fmt.Errorf("connect to QMP: %w", err)
	}
	out, in, err := os.Pipe()
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("make console pipe: %w", err)
	}
	m.cmd = command(path, args)
	m.cmd.Stdout, m.cmd.Stderr = in, m.output
	if spec.Keys != nil {
		m.cmd.Stdin = spec.Keys
	}
	m.cmd.ExtraFiles = []*os.File{m.sockets[0].file, m.sockets[1].file}
	err = m.cmd.Start()
	_ = in.Close()
	if err != nil {
		_, _ = out.Close(), conn.Close()
		return nil, fmt.Errorf("run QEMU: %w", err)
	}
	// The child is not waited for yet, so its pid is still its own.
	m.process, err = vmm.ProcessOf(m.cmd.Process.Pid)
	if err != nil {
		_, _, _, _ = m.cmd.Process.Kill(), m.cmd.Wait(), out.Close(), conn.Close()
		return nil, err
	}
	m.qmp = newQMP(conn, m.event)
	go m.wait(out)
	return m, nil
}

// command prepares QEMU: in a session of its own, so that Ctrl-C at a terminal
// does not reach it, and with none of our environment, which is no business of
// a process that runs guests. A parent death signal is not used: it comes when
// the thread that started the child ends, which Go decides.
func command(path string, args []string) *exec.Cmd {
	cmd := exec.Command(path, args...)
	cmd.Dir = "/"
	cmd.Env = []string{"LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	// The error output is copied by a goroutine; nobody else holds that pipe, so
	// this only guards against the impossible.
	cmd.WaitDelay = drainTimeout
	return cmd
}

// wait sees the machine to its end: the process, its last output, its last event.
func (m *machine) wait(out *os.File) {
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		_, _ = io.Copy(m.console, out)
	}()
	// Its error only repeats the process state.
	_ = m.cmd.Wait()
	var panicked string
	select {
	case <-drained:
		m.console.endLine()
		panicked = m.console.panic
	case <-time.After(drainTimeout):
	}
	_ = out.Close()
	// The QMP reader ends by itself: its other end died with QEMU.
	<-m.qmp.done
	for _, l := range m.sockets {
		l.remove()
	}
	m.exit = m.ending(panicked)
	close(m.done)
}

// ending puts the exit together. A panic ends in a reset (panic=-1) unless the
// guest has the pvpanic driver; then the kernel's words tell it apart.
func (m *machine) ending(panicked string) vmm.Exit {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := vmm.Exit{Guest: m.guest, Output: m.output.String()}
	if ws, ok := m.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		e.Signal = ws.Signal()
	} else {
		e.Code = m.cmd.ProcessState.ExitCode()
	}
	if e.Guest == vmm.GuestReset && panicked != "" {
		e.Guest = vmm.GuestPanic
	}
	if e.Guest == vmm.GuestPanic {
		e.Panic = panicked
	}
	return e
}

// event is called by the QMP reader. Format: qapi/run-state.json of QEMU.
func (m *machine) event(name string, data json.RawMessage) {
	if name != "SHUTDOWN" {
		return
	}
	var d struct {
		Reason string `json:"reason"`
	}
	if json.Unmarshal(data, &d) != nil {
		return
	}
	words := map[string]string{
		"guest-shutdown": vmm.GuestShutdown,
		"guest-reset":    vmm.GuestReset,
		"guest-panic":    vmm.GuestPanic,
	}
	m.mu.Lock()
	m.guest = words[d.Reason]
	m.mu.Unlock()
}

// running waits until the virtual CPUs run and tells which accelerator drives
// them and which QEMU it is.
func (m *machine) running(ctx context.Context) (accel, release string, err error) {
	if err := m.qmp.open(ctx); err != nil {
		return "", "", err
	}
	// Commands are answered only when the machine is complete.
	var status struct{ Status string }
	if err := m.qmp.execute(ctx, "query-status", &status); err != nil {
		return "", "", err
	}
	if status.Status != "running" {
		return "", "", fmt.Errorf("machine is %q, not running", status.Status)
	}
	var kvm struct{ Enabled bool }
	if err := m.qmp.execute(ctx, "query-kvm", &kvm); err != nil {
		return "", "", err
	}
	accel = vmm.AccelTCG
	if kvm.Enabled {
		accel = vmm.AccelKVM
	}
	return accel, m.qmp.greeting.Greeting.Version.QEMU.String(), nil
}

func (m *machine) Info() vmm.Info          { return m.info }
func (m *machine) Process() banger.Process { return m.process }
func (m *machine) Done() <-chan struct{}   { return m.done }

func (m *machine) Exit() vmm.Exit {
	<-m.done
	return m.exit
}

func (m *machine) Dial(ctx context.Context) (net.Conn, error) { return m.agent.dial(ctx) }

func (m *machine) Powerdown(ctx context.Context) error {
	err := m.qmp.execute(ctx, "system_powerdown", nil)
	var refused *qmpError
	if err == nil || errors.As(err, &refused) || ctx.Err() != nil {
		return err
	}
	<-m.qmp.done
	if m.qmp.hungUp() { // QEMU is ending, which is what was asked for
		return nil
	}
	return err
}

// Traffic sums up the devices. Format: qapi/block-core.json of QEMU.
func (m *machine) Traffic(ctx context.Context) (t vmm.Traffic, err error) {
	var devices []struct {
		Stats struct {
			Read    int64 `json:"rd_bytes"`
			Written int64 `json:"wr_bytes"`
		} `json:"stats"`
	}
	err = m.qmp.execute(ctx, "query-blockstats", &devices)
	for _, d := range devices {
		t.DiskRead += d.Stats.Read
		t.DiskWritten += d.Stats.Written
	}
	return t, err
}

func (m *machine) Resize(ctx context.Context, disk int, size int64) error {
	err := m.qmp.executeWith(ctx, "block_resize", map[string]any{"node-name": diskNode(disk), "size": size}, nil)
	var refused *qmpError
	if errors.As(err, &refused) {
		return banger.Errorf(banger.Unsupported, "resize disk %d: %w", disk, err)
	}
	return err
}

func (m *machine) Pause(ctx context.Context) error  { return m.qmp.execute(ctx, "stop", nil) }
func (m *machine) Resume(ctx context.Context) error { return m.qmp.execute(ctx, "cont", nil) }

func (m *machine) Kill() error {
	err := m.cmd.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}
