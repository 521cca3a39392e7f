package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger"
	"banger/internal/hostcmd"
	"banger/internal/vmm"
)

// fakeDriver is a driver whose QEMU is this test binary, on a host with KVM.
func fakeDriver(t *testing.T, mode string) *Driver {
	t.Helper()
	dir := t.TempDir()
	d := New()
	d.binary = filepath.Join(dir, "qemu")
	d.host = fakeHost(t, "amd64", "fpu vmx sse")
	// Else the race detector sleeps a second at each exit.
	script := fmt.Sprintf("#!/bin/sh\nexport GORACE=atexit_sleep_ms=0 %s=%s\nexec %s \"$@\"\n", modeVar, hostcmd.Quote(mode), hostcmd.Quote(os.Args[0]))
	if err := os.WriteFile(d.binary, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return d
}

func fakeHost(t *testing.T, arch, flags string) host {
	t.Helper()
	h := host{arch: arch, cpuinfo: filepath.Join(t.TempDir(), "cpuinfo"), kvm: filepath.Join(t.TempDir(), "kvm")}
	for path, text := range map[string]string{h.cpuinfo: "model name\t: test\nflags\t\t: " + flags + "\nbugs\t\t: svm_bug\n", h.kvm: ""} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func fakeSpec(t *testing.T) vmm.Spec {
	t.Helper()
	dir, err := os.MkdirTemp("", "qemu")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		left, _ := os.ReadDir(dir)
		if len(left) != 0 {
			t.Errorf("left in the run directory: %v", left)
		}
		_ = os.RemoveAll(dir)
	})
	return vmm.Spec{ID: "a1", CPUs: 1, Memory: 128 << 20, Kernel: "/vmlinux", RunDir: dir}
}

func TestStart(t *testing.T) {
	const tcg, kvm = vmm.AccelTCG, vmm.AccelKVM
	for _, tt := range []struct {
		mode, ask   string
		accel, says string // of a start that works
		kind        banger.Kind
	}{
		{"ok", "", kvm, "KVM works on this host", ""},
		{"ok", kvm, kvm, "KVM was asked for and works", ""},
		{"ok", tcg, tcg, "software emulation was asked for", ""},
		{"kvm dies", "auto", tcg, "QEMU with KVM ended at once: failed to initialize kvm: Permission denied", ""},
		{"kvm dies", kvm, "", "use KVM: QEMU with KVM ended at once", banger.Unsupported},
		{"kvm hangs", "", tcg, "QEMU with KVM did not start: wait for QMP greeting: no answer within 200ms", ""},
		{"no sandbox", tcg, tcg, "asked for", ""},
		{"hangs", tcg, "", "no answer within 200ms", banger.Unavailable},
		{"garbage", tcg, "", "decode QMP message", banger.Unavailable},
		{"paused", tcg, "", `machine is "internal-error", not running`, banger.Unavailable},
		{"locked", tcg, "", "a disk is in use by another machine", banger.Conflict},
		{"old", tcg, "", "use QEMU 4.2.1", banger.Unsupported},
		{"chatty", tcg, "", "last words", banger.Unavailable},
	} {
		t.Run(tt.mode+" "+tt.ask, func(t *testing.T) {
			t.Parallel()
			d, spec := fakeDriver(t, tt.mode), fakeSpec(t)
			if tt.mode == "hangs" {
				d.startWait = 200 * time.Millisecond
			}
			if tt.mode == "kvm hangs" {
				d.kvmWait = 200 * time.Millisecond
			}
			spec.Accel = tt.ask
			m, err := d.Start(t.Context(), spec)
			if tt.kind != "" {
				if !banger.IsKind(err, tt.kind) || !strings.Contains(err.Error(), tt.says) || len(err.Error()) > 5000 {
					t.Errorf("got %.200v, want %s: %s", err, tt.kind, tt.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if i := m.Info(); i.Accel != tt.accel || !strings.Contains(i.AccelReason, tt.says) || i.Version != "7.2.22" {
				t.Errorf("info %+v, want %s because %s", i, tt.accel, tt.says)
			}
			_ = m.Kill()
			<-m.Done()
		})
	}
}

func TestMachineEnds(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(vmm.Machine) error
		want vmm.Exit
	}{
		{"powerdown", func(m vmm.Machine) error { return m.Powerdown(t.Context()) }, vmm.Exit{Guest: vmm.GuestShutdown}},
		{"kill", vmm.Machine.Kill, vmm.Exit{Signal: syscall.SIGKILL}},
		{"by another", func(m vmm.Machine) error { return syscall.Kill(m.Process().PID, syscall.SIGTERM) }, vmm.Exit{Signal: syscall.SIGTERM}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			spec := fakeSpec(t)
			var out bytes.Buffer
			spec.Console = &out
			m, err := fakeDriver(t, "ok").Start(t.Context(), spec)
			if err != nil {
				t.Fatal(err)
			}
			if err := tt.end(m); err != nil {
				t.Fatal(err)
			}
			if e := m.Exit(); e != tt.want || out.String() != "serial output\n" {
				t.Errorf("exit %+v, console %q, want %+v", e, out.String(), tt.want)
			}
			if err := errors.Join(m.Kill(), m.Powerdown(t.Context())); err != nil {
				t.Errorf("after the end: %v", err)
			}
		})
	}
}

func TestStartCanceled(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(50*time.Millisecond, func() { cancel(errors.New("user went home")) })
	spec := fakeSpec(t)
	_, err := fakeDriver(t, "hangs").Start(ctx, spec)
	if !banger.IsKind(err, banger.Canceled) || !strings.Contains(err.Error(), "user went home") {
		t.Errorf("got %v", err)
	}
}

func TestStartRunDir(t *testing.T) {
	d, spec := fakeDriver(t, "ok"), fakeSpec(t)
	m, err := d.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Start(t.Context(), spec); !banger.IsKind(err, banger.Conflict) {
		t.Errorf("second machine in one run directory: got %v", err)
	}
	if _, err := os.Stat(filepath.Join(spec.RunDir, agentSocket)); err != nil {
		t.Errorf("the first machine lost its socket: %v", err)
	}
	_ = m.Kill()
	<-m.Done()

	// What a dead VMM left is no obstacle.
	for _, name := range []string{qmpSocket, agentSocket} {
		l, err := listen(spec.RunDir, name)
		if err != nil {
			t.Fatal(err)
		}
		l.release()
	}
	if m, err = d.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	_ = m.Kill()
	<-m.Done()

	long := spec
	long.RunDir = filepath.Join(spec.RunDir, strings.Repeat("d", 100))
	if err := os.Mkdir(long.RunDir, 0o700); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(long.RunDir)
	if _, err := d.Start(t.Context(), long); !banger.IsKind(err, banger.Invalid) {
		t.Errorf("long run directory: got %v", err)
	}
}

func TestProbe(t *testing.T) {
	for mode, want := range map[string]string{
		"ok":       "kvm: KVM works on this host",
		"kvm dies": "tcg: QEMU with KVM ended at once",
		"old":      "unsupported",
	} {
		info, err := fakeDriver(t, mode).Probe(t.Context())
		got := info.Accel + ": " + info.AccelReason
		if err != nil {
			got = string(banger.AsError(err).Kind)
		}
		if !strings.HasPrefix(got, want) {
			t.Errorf("%s: got %s, want %s", mode, got, want)
		}
	}
	d := New()
	d.binary = "/no/such/qemu"
	if _, err := d.Probe(t.Context()); !banger.IsKind(err, banger.Unavailable) {
		t.Errorf("no QEMU: got %v", err)
	}
	d.host.arch = "arm64"
	if _, err := d.Probe(t.Context()); !banger.IsKind(err, banger.Unsupported) {
		t.Errorf("arm64: got %v", err)
	}
}

func TestChoose(t *testing.T) {
	without := func(h host) host { h.kvm += ".not"; return h }
	locked := func(h host) host { h.kvm = "/proc/1/mem/x"; return h } // ENOTDIR
	for _, tt := range []struct {
		name string
		host host
		ask  string
		want string // accelerators, then the first reason
	}{
		{"intel", fakeHost(t, "amd64", "fpu vmx"), "auto", "kvm tcg KVM works"},
		{"amd", fakeHost(t, "amd64", "svm"), "", "kvm tcg KVM works"},
		{"amd asked", fakeHost(t, "amd64", "svm"), "kvm", "kvm KVM was asked for"},
		{"tcg asked", fakeHost(t, "amd64", "svm"), "tcg", "tcg software emulation was asked for"},
		{"no flag", fakeHost(t, "amd64", "fpu svm_lock avx512"), "auto", "tcg this CPU shows neither vmx nor svm"},
		{"no flag asked", fakeHost(t, "amd64", "fpu"), "kvm", "unsupported use KVM: this CPU shows"},
		{"no module", without(fakeHost(t, "amd64", "vmx")), "auto", "tcg open "},
		{"no module asked", without(fakeHost(t, "amd64", "vmx")), "kvm", "unsupported use KVM: open "},
		{"odd device", locked(fakeHost(t, "amd64", "vmx")), "auto", "tcg open "},
		{"arm", fakeHost(t, "arm64", "fp asimd"), "auto", "kvm tcg KVM works"},
		{"arm without", without(fakeHost(t, "arm64", "")), "auto", "tcg open "},
		{"no cpuinfo", host{arch: "amd64", cpuinfo: "/no/such", kvm: "/dev/null"}, "auto", "tcg this CPU"},
	} {
		choices, err := tt.host.choose(tt.ask)
		var got []string
		for _, c := range choices {
			got = append(got, c.accel)
		}
		if err != nil {
			e := banger.AsError(err)
			got = append(got, string(e.Kind), e.Msg)
			if e.Hint == "" {
				t.Errorf("%s: no hint", tt.name)
			}
		} else {
			got = append(got, choices[0].reason)
		}
		if !strings.HasPrefix(strings.Join(got, " "), tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestTSC(t *testing.T) {
	khz, err := measureTSC()
	if err != nil || haveTSC && (khz < minTSC || khz > maxTSC) {
		t.Errorf("TSC of %d kHz (%v), want 100 MHz to 10 GHz", khz, err)
	}
	t.Logf("TSC %d kHz", khz)
}

func TestConsole(t *testing.T) {
	var out bytes.Buffer
	c := &console{w: &out}
	text := strings.Repeat("x", 3000) + "\n[    1.0] Kernel panic - not syncing: VFS:\x1b[31m Unable\r\nmore\n"
	for i := range len(text) { // in the smallest pieces
		_, _ = c.Write([]byte(text[i : i+1]))
	}
	if out.String() != text || c.panic != "VFS:[31m Unable" || cap(c.line) > 2*maxPanic {
		t.Errorf("panic %q, line of %d", c.panic, cap(c.line))
	}
	c.w = failing{}
	if n, err := c.Write([]byte("ab")); n != 2 || err != nil || c.w != nil {
		t.Errorf("write after the writer failed: %d, %v", n, err)
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, os.ErrClosed }

func TestTail(t *testing.T) {
	var l tail
	for i := range 3000 {
		fmt.Fprintf(&l, "line %d\n", i)
	}
	fmt.Fprint(&l, strings.Repeat("x", 2*tailSize)+"end")
	if s := l.String(); len(s) != tailSize || !strings.HasSuffix(s, "xend") || cap(l.b) > 4*tailSize {
		t.Errorf("%d bytes (%d held) ending in %q", len(s), cap(l.b), s[len(s)-8:])
	}
}

func TestSpecRefused(t *testing.T) {
	spec := fakeSpec(t)
	spec.Disks = make([]vmm.Disk, maxDisks+1)
	if _, err := (launch{}).args(spec); !banger.IsKind(err, banger.Invalid) {
		t.Errorf("too many disks: got %v", err)
	}
	spec.Disks, spec.Cmdline = nil, []string{strings.Repeat("w", maxCmdline)}
	if _, err := (launch{}).args(spec); !banger.IsKind(err, banger.Invalid) {
		t.Errorf("long command line: got %v", err)
	}
	if own := (launch{accel: vmm.AccelTCG, tscKHz: 12_345_678}).cmdline(vmm.Spec{}); len(own) >= vmm.MaxOwnWords {
		t.Errorf("%d bytes are our own: %q", len(own), own)
	}
}

var testNet = &vmm.Net{
	Guest: netip.MustParsePrefix("192.168.127.2/24"), Gateway: netip.MustParseAddr("192.168.127.1"),
	DNS: netip.MustParseAddr("192.168.127.3"), MAC: []byte{0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xee},
}
