// Package qemu runs machines in QEMU: -M microvm, on KVM or by software emulation.
package qemu

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"

	"banger"
	"banger/internal/hostcmd"
	"banger/internal/vmm"
)

// The first QEMU whose microvm has acpi=on, and the one that Debian 11 has.
const (
	minMajor = 5
	minMinor = 2
)

// Driver starts machines in QEMU.
type Driver struct {
	binary string // name looked up in PATH, or a path
	host   host
	// The host's TSC does not change, so one measurement serves all machines.
	tsc func() (int, error)
	// kvmWait bounds a start under KVM where emulation is the way out, startWait
	// any other, so that a QEMU that hangs is an error also where ctx has no end.
	kvmWait, startWait time.Duration
}

// New gives the driver for this host. It touches nothing yet.
func New() *Driver {
	return &Driver{
		binary: "qemu-system-x86_64",
		host:   host{arch: runtime.GOARCH, cpuinfo: "/proc/cpuinfo", kvm: "/dev/kvm"},
		tsc:    sync.OnceValues(measureTSC),
		// QEMU answers within 0.1 s; a host in swap is very much slower.
		kvmWait: 10 * time.Second, startWait: time.Minute,
	}
}

func features() vmm.Features {
	return vmm.Features{UserNet: true, Powerdown: true, AgentPort: true, BzImage: true, MaxDisks: maxDisks}
}

// Probe runs QEMU three times at most, without a guest: for its version, for its
// machine types and, where KVM looks usable, for whether it gets to use it.
func (d *Driver) Probe(ctx context.Context) (vmm.Info, error) {
	info := vmm.Info{Name: "qemu", Features: features()}
	var err error
	if info.Path, err = d.look(); err != nil {
		return info, err
	}
	if info.Version, err = d.version(ctx, info.Path); err != nil {
		return info, err
	}
	choices, err := d.host.choose(vmm.AccelAuto)
	if err != nil {
		return info, err
	}
	info.Accel, info.AccelReason = choices[0].accel, choices[0].reason
	if info.Accel == vmm.AccelKVM {
		// Even for no machine QEMU sets KVM up.
		_, err := hostcmd.Output(ctx, hostcmd.Cmd{Path: info.Path, Stdin: strings.NewReader(quitQMP),
			Args: []string{"-M", "none", "-accel", "kvm", "-nodefaults", "-no-user-config", "-display", "none", "-qmp", "stdio"}})
		if err != nil {
			info.Accel, info.AccelReason = vmm.AccelTCG, fmt.Sprintf("QEMU with KVM ended at once: %v", err)
		}
	}
	return info, ctx.Err()
}

// look finds QEMU.
func (d *Driver) look() (string, error) {
	if d.host.arch != "amd64" {
		return "", banger.Errorf(banger.Unsupported, "run QEMU on %s: its microvm machine is x86_64 only", d.host.arch)
	}
	return hostcmd.Look(d.binary)
}

const quitQMP = `{"execute":"qmp_capabilities"}` + "\n" + `{"execute":"quit"}` + "\n"

// version is that of a QEMU which can run a microvm with ACPI, else Unsupported.
func (d *Driver) version(ctx context.Context, path string) (string, error) {
	out, err := hostcmd.Output(ctx, hostcmd.Cmd{Path: path, Args: []string{"--version"}})
	if err != nil {
		return "", banger.Errorf(banger.Unavailable, "ask QEMU for its version: %w", err)
	}
	var v version
	// QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)
	if _, err := fmt.Sscanf(string(out), "QEMU emulator version %d.%d.%d", &v.Major, &v.Minor, &v.Micro); err != nil {
		return "", banger.Errorf(banger.Unsupported, "read QEMU's version from %.80q: %w", out, err)
	}
	if v.Major < minMajor || v.Major == minMajor && v.Minor < minMinor {
		return "", banger.Errorf(banger.Unsupported, "use QEMU %v: its microvm has no ACPI, %d.%d is the first that has", v, minMajor, minMinor)
	}
	out, err = hostcmd.Output(ctx, hostcmd.Cmd{Path: path, Args: []string{"-M", "help"}})
	if err != nil {
		return "", banger.Errorf(banger.Unavailable, "ask QEMU for its machines: %w", err)
	}
	if !strings.Contains("\n"+string(out), "\nmicrovm ") {
		return "", banger.Errorf(banger.Unsupported, "use QEMU %v at %s: it was built without the microvm machine", v, path)
	}
	return v.String(), nil
}

// Start implements vmm.Driver.
func (d *Driver) Start(ctx context.Context, spec vmm.Spec) (vmm.Machine, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	path, err := d.look()
	if err != nil {
		return nil, err
	}
	choices, err := d.host.choose(spec.Accel)
	if err != nil {
		return nil, err
	}
	for i, c := range choices {
		timeout, last := d.kvmWait, i == len(choices)-1
		if last {
			timeout = d.startWait
		}
		m, err := d.try(ctx, path, spec, c, timeout)
		var bad *badStart
		switch {
		case err == nil:
			return m, nil
		case ctx.Err() != nil:
			return nil, banger.Errorf(banger.Canceled, "start QEMU: %w", context.Cause(ctx))
		case !errors.As(err, &bad):
			return nil, err
		case last:
			return nil, d.explain(ctx, path, c, bad)
		}
		choices[i+1].reason = bad.withKVM()
	}
	panic("qemu: no accelerator to choose")
}

// try is one start with one accelerator. A QEMU without seccomp gets a second chance.
func (d *Driver) try(ctx context.Context, path string, spec vmm.Spec, c choice, timeout time.Duration) (vmm.Machine, error) {
	l := launch{accel: c.accel, sandbox: true}
	if c.accel == vmm.AccelTCG {
		var err error
		if l.tscKHz, err = d.tsc(); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer within %v", timeout))
	defer cancel()
	m, err := d.launch(ctx, path, spec, l)
	var bad *badStart
	if errors.As(err, &bad) && strings.Contains(bad.exit.Output, "-sandbox") {
		l.sandbox = false
		m, err = d.launch(ctx, path, spec, l)
	}
	if err != nil {
		return nil, err
	}
	m.info.Name, m.info.Path, m.info.Features = "qemu", path, features()
	m.info.AccelReason = c.reason
	return m, nil
}

// launch runs QEMU once and waits until its machine runs.
func (d *Driver) launch(ctx context.Context, path string, spec vmm.Spec, l launch) (*machine, error) {
	args, err := l.args(spec)
	if err != nil {
		return nil, err
	}
	m, err := run(ctx, path, args, spec)
	if err != nil {
		return nil, err
	}
	m.info.Cmdline = l.cmdline(spec)
	if m.info.Accel, m.info.Version, err = m.running(ctx); err == nil {
		return m, nil
	}
	bad := &badStart{cause: err, args: args}
	if ctx.Err() == nil {
		// QEMU closed QMP: it is about to end and its exit code is worth having.
		select {
		case <-m.done:
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
	_ = m.Kill()
	<-m.done
	bad.exit = m.exit
	return nil, bad
}

// badStart is a QEMU that did not come to run its machine.
type badStart struct {
	cause error
	args  []string
	exit  vmm.Exit
}

// Error prefers QEMU's own words, without the option that they repeat: it is
// long and the user did not write it.
func (e *badStart) Error() string {
	if e.exit.Output == "" {
		return e.cause.Error()
	}
	words := strings.TrimPrefix(e.exit.Output, "qemu-system-x86_64: ")
	for i := range e.args[1:] {
		words = strings.TrimPrefix(words, e.args[i]+" "+e.args[i+1]+": ")
	}
	return words
}

func (e *badStart) withKVM() string {
	if e.exit.Output != "" {
		return "QEMU with KVM ended at once: " + e.Error()
	}
	return "QEMU with KVM did not start: " + e.cause.Error()
}

// explain makes an error for the user of a start that failed for good.
func (d *Driver) explain(ctx context.Context, path string, c choice, bad *badStart) error {
	if strings.Contains(bad.exit.Output, "Failed to get") && strings.Contains(bad.exit.Output, "lock") {
		return banger.Errorf(banger.Conflict, "start QEMU: a disk is in use by another machine: %w", bad)
	}
	if c.accel == vmm.AccelKVM {
		return unusable(obstacle{bad.withKVM(), "use --accel auto or tcg: it works everywhere, only slower"})
	}
	// A QEMU that is too old does not understand our command line.
	if _, err := d.version(ctx, path); err != nil {
		return fmt.Errorf("start QEMU: %w", err)
	}
	return banger.Errorf(banger.Unavailable, "start QEMU: %w", bad).WithHint("banger system doctor")
}
