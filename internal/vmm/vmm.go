// Package vmm is what banger asks of a virtual machine monitor.
package vmm

import (
	"context"
	"net"
	"syscall"

	"banger"
)

// AgentPort is the name of the virtio-serial port that carries the agent
// stream; the guest finds it as /sys/class/virtio-ports/vport*/name.
const AgentPort = "banger.0"

// AgentSocket is the name in Spec.RunDir of the unix socket that carries the
// agent stream of a driver with Features.AgentPort. It is there for a process
// that takes over after the one that started the machine died; else use Dial.
const AgentSocket = "port.sock"

// The words of Spec.Accel and Info.Accel.
const (
	AccelAuto = "auto" // kvm where it works, else tcg; "" means the same
	AccelKVM  = "kvm"  // hardware virtualisation
	AccelTCG  = "tcg"  // software emulation
)

// Driver is one virtual machine monitor on this host.
type Driver interface {
	// Probe tells what the driver can do here, without starting a machine. It
	// fails with Unavailable (the hint installs what is missing) or Unsupported.
	Probe(ctx context.Context) (Info, error)

	// Start boots a machine and returns as soon as its virtual CPUs run. ctx
	// bounds the start alone, never the life of the machine. A Start that fails
	// leaves nothing behind: no process, no socket. Kinds: Invalid (the Spec),
	// Conflict (a disk or the RunDir is in use), Unavailable (no VMM on the
	// host, or it ended at once: the text holds its last words), Unsupported
	// (the VMM is too old, the accelerator asked for cannot be used), Canceled.
	//
	// The VMM is a process in a session of its own. It outlives the process that
	// started it; whoever wants otherwise kills it.
	Start(ctx context.Context, spec Spec) (Machine, error)
}

// Info describes a driver, or the driver of a running machine.
type Info struct {
	Name        string // qemu
	Path        string // of the program
	Version     string // of the program
	Accel       string // kvm or tcg
	AccelReason string // why that one, in words for the user
	Features    Features
	Cmdline     string // of the kernel of a running machine, with the driver's own words
}

// Features is what drivers differ in. Callers ask it, never the driver's name.
type Features struct {
	UserNet   bool // carries Spec.Net by itself, without privileges
	Powerdown bool // Machine.Powerdown reaches the guest, as its power button
	AgentPort bool // the agent stream is the virtio-serial port AgentPort (else vsock)
	BzImage   bool // Spec.Kernel may be a compressed kernel too, not only an ELF vmlinux
	MaxDisks  int  // how many Spec.Disks fit
}

// Machine is one started machine. Its methods may be called from any goroutine.
type Machine interface {
	// Info is that of the driver, with the accelerator really in use and why.
	Info() Info

	// Process is the VMM's process; it stays the same after its end.
	Process() banger.Process

	// Dial connects to the agent's byte stream, whether or not the guest reads
	// it yet: what is written waits. There is one client at a time: a second
	// Dial before the first connection is closed is a Conflict. The guest sees
	// no border between two clients, so the protocol on top must find its start.
	Dial(ctx context.Context) (net.Conn, error)

	// Powerdown presses the guest's power button and returns at once; whether
	// the guest listens is its own affair. After the end it does nothing.
	Powerdown(ctx context.Context) error

	// Look tells in a line what the virtual CPUs are at, for a guest that does
	// not answer. The text is made of the guest's registers.
	Look(ctx context.Context) (string, error)

	// Traffic tells what the guest has read and written so far.
	Traffic(ctx context.Context) (Traffic, error)

	// Resize makes the disk of that number, from 0, larger, and its file with it;
	// the guest sees so at once. A driver or a VMM that cannot is Unsupported.
	Resize(ctx context.Context, disk int, size int64) error

	// Pause stops the virtual CPUs, and the guest's clock with them; Resume lets
	// them go on. Neither is an error where it is so already, both are after the end.
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error

	// Kill ends the VMM now, without asking the guest. It is idempotent and
	// does not wait: Done says when the machine is gone.
	Kill() error

	// Done is closed when the VMM is gone, its last console output has been
	// written to Spec.Console and its sockets are removed.
	Done() <-chan struct{}

	// Exit says how the machine ended. It is valid once Done is closed.
	Exit() Exit
}

// Traffic is what a guest has moved since its machine was started, in bytes, all
// disks together.
type Traffic struct {
	DiskRead    int64 `json:"disk_read"`
	DiskWritten int64 `json:"disk_written"`
}

// The words of Exit.Guest.
const (
	GuestShutdown = "shutdown" // the guest powered off
	GuestReset    = "reset"    // the guest rebooted; no machine boots twice, so that is its end
	GuestPanic    = "panic"    // the guest's kernel panicked
)

// Exit is the end of a machine. At most one of Code and Signal is not zero.
type Exit struct {
	Code   int            // exit code of the VMM
	Signal syscall.Signal // the signal that ended the VMM
	Guest  string         // shutdown, reset or panic; empty: the guest did not end it
	Panic  string         // the kernel's own words when Guest is panic, if they reached the console
	Output string         // the last bytes of the VMM's own error output
}
