package banger

import "time"

// VMState is where a VM stands in its life cycle.
type VMState string

// The states of a VM; docs/ARCHITECTURE.md draws the transitions.
const (
	Created  VMState = "created"  // made, never started
	Starting VMState = "starting" // the VMM runs, the agent has not answered yet
	Running  VMState = "running"  // the agent answered
	Paused   VMState = "paused"   // its virtual CPUs stand still, as asked
	Stopping VMState = "stopping" // asked to stop, the VMM is still there
	Stopped  VMState = "stopped"  // ended as asked, or by the guest itself
	Failed   VMState = "failed"   // ended in a way nobody asked for; Reason says how
	Broken   VMState = "broken"   // its record cannot be read; Problem says why
)

// VMSpec is what the user asks for. The zero value of a field means the default.
type VMSpec struct {
	Name   string `json:"name,omitempty"`
	Image  string `json:"image"`
	Kernel string `json:"kernel,omitempty"` // default: the image's, else the catalog's first
	CPUs   int    `json:"cpus,omitempty"`
	Memory int64  `json:"memory,omitempty"` // bytes
	// Overcommit lets it start where the host's memory may not be enough.
	Overcommit bool   `json:"overcommit,omitempty"`
	Disk       int64  `json:"disk,omitempty"`  // bytes, size of the private disk (sparse)
	Init       string `json:"init,omitempty"`  // auto, banger, systemd or provision
	Net        string `json:"net,omitempty"`   // nat or none
	Accel      string `json:"accel,omitempty"` // auto, kvm or tcg
	// Restart says whether a machine that nobody asked to end is started again:
	// no, on-failure or always.
	Restart string `json:"restart,omitempty"`
	// KernelArgs are words for the kernel's command line, NAME or NAME=VALUE,
	// behind banger's own and those of the kernel's record.
	KernelArgs []string `json:"kernel_args,omitempty"`
	// Env, WorkingDir and User are over the image's, for every command in the VM.
	Env        []string `json:"env,omitempty"`         // NAME=value
	WorkingDir string   `json:"working_dir,omitempty"` // absolute
	User       string   `json:"user,omitempty"`        // user[:group], names or numbers
	// Hostname is a DNS label; default: the VM's name.
	Hostname string `json:"hostname,omitempty"`
	// AuthorizedKeys are those who may come in by SSH beside the VM's owner, in
	// the lines of authorized_keys.
	AuthorizedKeys []string `json:"authorized_keys,omitempty"`
	// Files are written into the guest at its first start, before its init runs.
	Files []GuestFile `json:"files,omitempty"`
	// WaitFor is what a start waits for beside the agent and the services of the
	// image: tcp:PORT, unit:NAME or vsock:PORT of the guest.
	WaitFor []string `json:"wait_for,omitempty"`
	// Mounts are folders of the host that are in the VM, live both ways.
	Mounts []Mount `json:"mounts,omitempty"`
	// Labels are for the user alone, and for filters.
	Labels map[string]string `json:"labels,omitempty"`
	// Timeout is how long the VM may be up, and IdleTimeout how long it may be idle,
	// in seconds; then it is stopped. 0: for ever.
	Timeout     int `json:"timeout,omitempty"`
	IdleTimeout int `json:"idle_timeout,omitempty"`
	// BootTimeout is how long a start waits for the guest to answer, in seconds.
	BootTimeout int `json:"boot_timeout,omitempty"`
}

// GuestFile is one file of the host that a VM gets a copy of when it is made.
type GuestFile struct {
	Source string `json:"source"` // absolute, of the host
	Path   string `json:"path"`   // absolute, in the guest, where it is root's
	// Size in bytes and Mode, its permission bits, are those that it had.
	Size int64  `json:"size"`
	Mode uint32 `json:"mode"`
}

// Mount is a folder of the host in a VM.
type Mount struct {
	Source   string `json:"source"` // on the host, absolute
	Target   string `json:"target"` // in the guest, absolute; made where it is missing
	ReadOnly bool   `json:"read_only,omitempty"`
}

// RootKind is what a VM's root file system is made of.
type RootKind string

// The kinds of roots. Either way what the VM changes is on its private disk.
const (
	OverlayRoot RootKind = "overlay" // the image, shared and read-only, with the private disk over it
	FlatRoot    RootKind = "flat"    // the private disk alone, a copy of the image
)

// VM is one machine: vms/ID/vm.json.
type VM struct {
	ID        string    `json:"id"` // 12 hex digits
	Name      string    `json:"name"`
	Spec      VMSpec    `json:"spec"` // with every default filled in
	Root      RootKind  `json:"root"` // decided when its disk is made, by what its kernel can do
	State     VMState   `json:"state"`
	Reason    string    `json:"reason,omitempty"` // why it is in that state
	CreatedAt time.Time `json:"created_at"`
	StartedAt time.Time `json:"started_at,omitzero"`
	StoppedAt time.Time `json:"stopped_at,omitzero"`
	// ExitCode is how the last machine ended: 0 as asked or by the guest itself, 1 in any other way.
	ExitCode int `json:"exit_code"`
	// Again says that it is to be started again: by a restart under way, or as
	// Spec.Restart has it. Restarts counts the latter since it last ran well.
	Again    bool `json:"again,omitempty"`
	Restarts int  `json:"restarts,omitempty"`

	Machine *Machine `json:"machine,omitempty"` // while started
	// Capabilities are what the machine can do for others, while started.
	Capabilities []Capability `json:"capabilities,omitempty"`
	Owner        *Process     `json:"owner,omitempty"` // the VM is removed when this process ends
	Console      string       `json:"console"`         // path of the console log
	Agent        string       `json:"agent"`           // path of the CONNECT socket of the guest agent
	HostKey      string       `json:"host_key"`        // public SSH host key, authorized_keys format

	// Problem says why the record cannot be used; such a VM is listed, never hidden.
	Problem string `json:"problem,omitempty"`
}

// CapabilityState is how far a capability is.
type CapabilityState string

// The states of a capability.
const (
	CapabilityWaiting CapabilityState = "waiting"
	CapabilityReady   CapabilityState = "ready"
	CapabilityFailed  CapabilityState = "failed" // it cannot be had, or did not come in time
)

// Capability is something that a machine can do for others: nat, agent, ssh, a
// service of its image, or what VMSpec.WaitFor names.
type Capability struct {
	Name   string          `json:"name"`
	Want   string          `json:"want,omitempty"` // what the guest is asked for; empty: it is there with the agent
	State  CapabilityState `json:"state"`
	Detail string          `json:"detail,omitempty"` // why it failed, and what was seen last
}

// Machine tells how a started VM is run.
type Machine struct {
	Driver      string  `json:"driver"` // qemu
	Version     string  `json:"version"`
	Accel       string  `json:"accel"`        // kvm or tcg
	AccelReason string  `json:"accel_reason"` // why that accelerator
	BootPath    string  `json:"boot_path"`    // direct, initrd or flat
	BootReason  string  `json:"boot_reason"`  // why that way
	Cmdline     string  `json:"cmdline"`      // the kernel's, all of it
	VMM         Process `json:"vmm"`
	Shim        Process `json:"shim"`
	BootID      string  `json:"boot_id"` // of the host's boot, from /proc/sys/kernel/random/boot_id
}

// Process names one process for good: a pid alone may be used again.
type Process struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"start_time"` // clock ticks since boot, field 22 of /proc/PID/stat
}
