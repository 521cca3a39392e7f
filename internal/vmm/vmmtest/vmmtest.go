// Package vmmtest is the conformance suite that every vmm.Driver passes. It boots real machines.
package vmmtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger"
	"banger/internal/vmm"
)

// Run runs the suite. The environment names the kernel: BANGER_TEST_KERNEL is a
// directory with vmlinux and modules/; BANGER_TEST_ACCEL may force kvm or tcg.
func Run(t *testing.T, driver vmm.Driver) {
	dir := kernelDir(t)
	if os.Getenv(starterVar) != "" {
		starter(t, driver, dir)
		return
	}
	s := &suite{driver: driver, kernel: filepath.Join(dir, "vmlinux"), initrd: buildInitrd(t, dir)}
	before := used(t)
	t.Run("Probe", s.probe)
	t.Run("Boot", s.boot)
	t.Run("GuestEnds", s.guestEnds)
	t.Run("Powerdown", s.powerdown)
	t.Run("KilledFromOutside", s.killedFromOutside)
	t.Run("StarterDies", s.starterDies)
	t.Run("Disks", s.disks)
	t.Run("Net", s.net)
	t.Run("ConsoleStuck", s.consoleStuck)
	t.Run("StartFails", s.startFails)
	t.Run("StartCanceled", s.startCanceled)
	t.Run("ManyStarts", s.manyStarts)
	if left := children(t); len(left) != 0 {
		t.Errorf("processes left: %q", left)
	}
	before.back(t)
}

func (s *suite) probe(t *testing.T) {
	info, err := s.driver.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", info)
	if info.Name == "" || info.Version == "" || info.AccelReason == "" {
		t.Errorf("info is not complete: %+v", info)
	}
}

// boot goes once through the life of a machine, all its methods included.
func (s *suite) boot(t *testing.T) {
	spec := s.spec(t, "echo")
	g := s.start(t, spec)
	info := g.Info()
	if info.Version == "" || info.Accel == "" || info.AccelReason == "" {
		t.Errorf("info is not complete: %+v", info)
	}
	own, ok := strings.CutSuffix(info.Cmdline, strings.Join(spec.Cmdline, " "))
	if !ok || len(own) > vmm.MaxOwnWords {
		t.Errorf("the command line is %q, want at most %d bytes before %q", info.Cmdline, vmm.MaxOwnWords, spec.Cmdline)
	}
	if p, err := vmm.ProcessOf(g.Process().PID); err != nil || p != g.Process() {
		t.Errorf("process %+v, machine says %+v (%v)", p, g.Process(), err)
	}
	conn := dial(t, g)
	echo(t, conn, "before the guest is there")
	echoed := time.Since(g.started)
	if _, err := g.Dial(t.Context()); !banger.IsKind(err, banger.Conflict) {
		t.Errorf("second client: got %v, want a conflict", err)
	}
	big := strings.Repeat("0123456789abcdef", 1<<14) // 256 KiB: longer than any buffer on the way
	go func() { _, _ = io.WriteString(conn, big) }()
	receive(t, conn, big)
	_ = conn.Close()
	// The guest sees no border between two clients.
	conn = dial(t, g)
	echo(t, conn, "second client")
	_ = conn.Close()
	g.says(t, "VMMTEST-READY")
	g.says(t, "VMMTEST-CMDLINE "+info.Cmdline+"\r\n")
	g.console.mu.Lock()
	first := g.console.first.Sub(g.started)
	g.console.mu.Unlock()
	t.Logf("from the call of Start: running %v, first console byte %v, first agent echo %v", g.running, first, echoed)

	for range 2 {
		if err := g.Kill(); err != nil {
			t.Errorf("kill: %v", err)
		}
	}
	if e := g.ended(t); e.Signal != syscall.SIGKILL || e.Code != 0 || e.Guest != "" {
		t.Errorf("exit: %+v, want SIGKILL", e)
	}
	if err := g.Kill(); err != nil {
		t.Errorf("kill after the end: %v", err)
	}
	if err := g.Powerdown(t.Context()); err != nil {
		t.Errorf("powerdown after the end: %v", err)
	}
	if _, err := g.Dial(t.Context()); !banger.IsKind(err, banger.Unavailable) {
		t.Errorf("dial after the end: got %v, want unavailable", err)
	}
}

func (s *suite) guestEnds(t *testing.T) {
	for _, tt := range []struct{ do, guest, panic string }{
		{"poweroff", vmm.GuestShutdown, ""},
		{"reset", vmm.GuestReset, ""},
		{"panic", vmm.GuestPanic, "sysrq triggered crash"},
	} {
		t.Run(tt.do, func(t *testing.T) {
			g := s.start(t, s.spec(t, tt.do))
			ready := g.says(t, "VMMTEST-READY")
			e := g.ended(t)
			t.Logf("marker %v, gone %v", ready, time.Since(g.started))
			if e.Guest != tt.guest || e.Panic != tt.panic || e.Code != 0 || e.Signal != 0 {
				t.Errorf("exit: %+v, want guest %q, panic %q", e, tt.guest, tt.panic)
			}
		})
	}
	// A panic so early that no driver can report it.
	t.Run("panic without init", func(t *testing.T) {
		spec := s.spec(t, "")
		spec.Initrd = ""
		if e := s.start(t, spec).ended(t); e.Guest != vmm.GuestPanic || !strings.Contains(e.Panic, "root fs") {
			t.Errorf("exit: %+v, want a panic about the root fs", e)
		}
	})
}

func (s *suite) powerdown(t *testing.T) {
	if info, err := s.driver.Probe(t.Context()); err != nil || !info.Features.Powerdown {
		t.Skipf("the driver has no power button (%v)", err)
	}
	g := s.start(t, s.spec(t, "button"))
	g.says(t, "VMMTEST-BUTTON")
	for range 2 {
		if err := g.Powerdown(t.Context()); err != nil {
			t.Errorf("powerdown: %v", err)
		}
	}
	if e := g.ended(t); e.Guest != vmm.GuestShutdown {
		t.Errorf("exit: %+v, want guest shutdown", e)
	}
}

func (s *suite) killedFromOutside(t *testing.T) {
	g := s.start(t, s.spec(t, "echo"))
	if err := syscall.Kill(g.Process().PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e := g.ended(t); e.Signal != syscall.SIGKILL || e.Guest != "" {
		t.Errorf("exit: %+v, want SIGKILL", e)
	}
}

func (s *suite) disks(t *testing.T) {
	spec := s.spec(t, "disks")
	dir := t.TempDir()
	for _, name := range []string{"shared, read-only", "qcow2 by its look", "writable"} {
		head := map[string]string{"qcow2 by its look": "QFI\xfb\x00\x00\x00\x03"}[name]
		b := make([]byte, 1<<20)
		copy(b, head+name)
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		spec.Disks = append(spec.Disks, vmm.Disk{Path: path, ReadOnly: name != "writable"})
	}
	g := s.start(t, spec)

	again := s.spec(t, "echo")
	again.Disks = spec.Disks[:2]
	_ = s.start(t, again).Kill() // sharing is no error
	again = s.spec(t, "echo")
	again.Disks = spec.Disks
	if _, err := s.driver.Start(t.Context(), again); !banger.IsKind(err, banger.Conflict) {
		t.Errorf("second machine on a writable disk: got %v, want a conflict", err)
	}
	empty(t, again.RunDir)

	g.says(t, "VMMTEST-DISKS-END")
	// The guest may be gone by now.
	if moved, err := g.Traffic(t.Context()); err == nil && (moved.DiskRead < 3*16 || moved.DiskWritten < 512) {
		t.Errorf("the guest read and wrote, and its traffic is %+v", moved)
	}
	g.ended(t)
	for _, want := range []string{
		`/dev/vda ro=1 head="shared, read-onl" write=false`,
		`/dev/vdb ro=1 head="QFI\xfb\x00\x00\x00\x03qcow2 by" write=false`,
		`/dev/vdc ro=0 head="writable\x00\x00\x00\x00\x00\x00\x00\x00" write=true`,
	} {
		if !strings.Contains(g.console.String(), want) {
			t.Errorf("guest saw no disk %s", want)
		}
	}
	if b := read(t, spec.Disks[2].Path); !bytes.HasPrefix(b[512:], []byte("written by guest")) {
		t.Errorf("the guest's write did not reach the disk: %q", b[512:528])
	}
}

func (s *suite) net(t *testing.T) {
	if info, err := s.driver.Probe(t.Context()); err != nil || !info.Features.UserNet {
		t.Skipf("the driver has no user-mode network (%v)", err)
	}
	spec := s.spec(t, "net")
	spec.Net = &vmm.Net{
		Guest: netip.MustParsePrefix("192.168.127.2/24"), Gateway: netip.MustParseAddr("192.168.127.1"),
		DNS: netip.MustParseAddr("192.168.127.3"), MAC: net.HardwareAddr{0x52, 0x54, 0, 0x12, 0x34, 0x56},
	}
	spec.Cmdline = append(spec.Cmdline, "address=192.168.127.2", "gateway=192.168.127.1")
	g := s.start(t, spec)
	g.says(t, "VMMTEST-NET mac=52:54:00:12:34:56 pong=true")
}

// consoleStuck has a guest flood a console that nobody empties: neither the VMM
// nor this process may suffer, and Done comes all the same.
func (s *suite) consoleStuck(t *testing.T) {
	stuck := make(chan struct{})
	spec := s.spec(t, "flood")
	first := make(chan struct{})
	spec.Console = writerFunc(func(p []byte) (int, error) {
		select {
		case <-first:
		default:
			close(first)
		}
		<-stuck
		return len(p), nil
	})
	g := s.start(t, spec)
	t.Cleanup(func() { close(stuck) })
	<-first
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := g.Powerdown(ctx); err != nil {
		t.Errorf("the VMM does not answer: %v", err)
	}
	if err := g.Kill(); err != nil {
		t.Errorf("kill: %v", err)
	}
	g.ended(t)
}

func (s *suite) startFails(t *testing.T) {
	junk := filepath.Join(t.TempDir(), "junk")
	if err := os.WriteFile(junk, bytes.Repeat([]byte("no kernel "), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		bend func(*vmm.Spec)
		kind banger.Kind
		say  string
	}{
		{"kernel missing", func(s *vmm.Spec) { s.Kernel = "/no/such/kernel" }, banger.Unavailable, "/no/such/kernel"},
		{"kernel is junk", func(s *vmm.Spec) { s.Kernel = junk }, banger.Unavailable, "kernel"},
		{"initrd missing", func(s *vmm.Spec) { s.Initrd = "/no/such/initrd" }, banger.Unavailable, "/no/such/initrd"},
		{"disk missing", func(s *vmm.Spec) { s.Disks = []vmm.Disk{{Path: "/no/such/disk"}} }, banger.Unavailable, "/no/such/disk"},
		{"disk injects", func(s *vmm.Spec) { s.Disks = []vmm.Disk{{Path: "/x,read-only=on,driver=null-co"}} }, banger.Unavailable, "driver=null-co"},
		{"no memory", func(s *vmm.Spec) { s.Memory = 1 << 50 }, banger.Unavailable, ""},
		{"no id", func(s *vmm.Spec) { s.ID = "" }, banger.Invalid, ""},
		{"newline in path", func(s *vmm.Spec) { s.Initrd = "/x\n-monitor" }, banger.Invalid, ""},
		{"run directory missing", func(s *vmm.Spec) { s.RunDir += "/no" }, banger.Invalid, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := used(t)
			spec := s.spec(t, "echo")
			dir := spec.RunDir
			tt.bend(&spec)
			start := time.Now()
			_, err := s.driver.Start(t.Context(), spec)
			t.Logf("%v: %v", time.Since(start).Round(time.Millisecond), err)
			if !banger.IsKind(err, tt.kind) || !strings.Contains(err.Error(), tt.say) {
				t.Errorf("got %v, want kind %s and %q", err, tt.kind, tt.say)
			}
			empty(t, dir)
			before.back(t)
		})
	}
}

func (s *suite) startCanceled(t *testing.T) {
	before := used(t)
	for _, after := range []time.Duration{0, 2 * time.Millisecond, 10 * time.Millisecond} {
		spec := s.spec(t, "echo")
		ctx, cancel := context.WithTimeout(t.Context(), after)
		m, err := s.driver.Start(ctx, spec)
		cancel()
		if err == nil { // it was faster, and its ctx is of no meaning any more
			_ = m.Kill()
			<-m.Done()
		} else if !banger.IsKind(err, banger.Canceled) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("canceled after %v: got %v", after, err)
		}
		empty(t, spec.RunDir)
	}
	before.back(t)
}

func (s *suite) manyStarts(t *testing.T) {
	before := used(t)
	spec := s.spec(t, "echo")
	start := time.Now()
	const n = 10
	for range n {
		m, err := s.driver.Start(t.Context(), spec) // in the same run directory each time
		if err != nil {
			t.Fatal(err)
		}
		_ = m.Kill()
		<-m.Done()
	}
	t.Logf("start and kill: %v each", time.Since(start)/n)
	empty(t, spec.RunDir)
	before.back(t)
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func dial(t *testing.T, m vmm.Machine) net.Conn {
	t.Helper()
	conn, err := m.Dial(t.Context())
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return conn
}

func echo(t *testing.T, conn net.Conn, words string) {
	t.Helper()
	if _, err := io.WriteString(conn, words); err != nil {
		t.Fatalf("write to agent: %v", err)
	}
	receive(t, conn, words)
}

func receive(t *testing.T, conn net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
		t.Fatalf("agent echoed %.40q (%v), want %.40q", got, err, want)
	}
}
