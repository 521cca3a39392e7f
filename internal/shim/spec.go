package shim

import (
	"fmt"
	"time"

	"banger"
	"banger/internal/hello"
	"banger/internal/vmm"
)

// Spec is all that a shim needs to boot its VM and keep it: boot.json in the
// VM's directory, written by the daemon before each start.
type Spec struct {
	Machine vmm.Spec       `json:"machine"`          // but for Console, which is the shim's
	Hello   hello.Config   `json:"hello"`            // but for Time, which is that of each hello
	Mounts  []banger.Mount `json:"mounts,omitempty"` // each below those that it may lie in
	UserKey string         `json:"user_key"`
	HostKey string         `json:"host_key"` // public, authorized_keys format
	// BootPath and BootReason are those of banger.Machine.
	BootPath   string `json:"boot_path"`
	BootReason string `json:"boot_reason"`
	// Timeout is how long the machine may be up, IdleTimeout how long it may be
	// idle, in nanoseconds; 0: for ever.
	Timeout     time.Duration `json:"timeout,omitempty"`
	IdleTimeout time.Duration `json:"idle_timeout,omitempty"`
}

// Phase is how far a machine has come.
type Phase string

// The phases of a machine, in their order.
const (
	Starting Phase = "starting" // the VMM is being started, or the guest boots
	Running  Phase = "running"  // the agent answered
	Ended    Phase = "ended"    // the VMM is gone, or never came
)

// Status is what a shim tells of its machine: on its socket a line for each
// change, and in exit.json the last one.
type Status struct {
	Phase   Phase           `json:"phase"`
	Machine *banger.Machine `json:"machine,omitempty"` // nil: the VMM did not start
	Guest   string          `json:"guest,omitempty"`   // what pid 1 of the guest died of
	Seen    string          `json:"seen,omitempty"`    // what the CPUs were at when a boot was given up
	Paused  bool            `json:"paused,omitempty"`
	Expired string          `json:"expired,omitempty"` // the limit for which it is being stopped
	Answer  *Answer         `json:"answer,omitempty"`  // to the last order that has one
	Traffic *Traffic        `json:"traffic,omitempty"`
	Boot    Timeline        `json:"boot"`
	Reboots int             `json:"reboots,omitempty"` // that the guest has asked for
	End     *End            `json:"end,omitempty"`     // once ended
}

// Timeline is how long a boot took from the start of the shim, in milliseconds; 0: not reached.
type Timeline struct {
	VMM   int64 `json:"vmm"`   // virtual CPUs run
	Init  int64 `json:"init"`  // pid 1 asked for its configuration
	Agent int64 `json:"agent"` // the agent answered
}

// Reached says how far the boot came.
func (t Timeline) Reached() string {
	switch {
	case t.Agent != 0:
		return fmt.Sprintf("its agent was ready after %d ms", t.Agent)
	case t.Init != 0:
		return fmt.Sprintf("its pid 1 began after %d ms, its agent did not", t.Init)
	case t.VMM != 0:
		return fmt.Sprintf("the machine was started after %d ms, its pid 1 did not begin", t.VMM)
	}
	return "the machine was not started"
}

// End is how a machine ended.
type End struct {
	State  banger.VMState `json:"state"` // stopped or failed
	Reason string         `json:"reason"`
	Error  *banger.Error  `json:"error,omitempty"` // of a VMM that did not start
	Time   time.Time      `json:"time"`
	// Expired says that a limit of the VM brought it, which is as good as an order.
	Expired bool `json:"expired,omitempty"`
}

// Answer tells the daemon what became of an order that may fail.
type Answer struct {
	ID    int64         `json:"id"` // the order's
	Error *banger.Error `json:"error,omitempty"`
}

// Traffic is the answer to the last order for it.
type Traffic struct {
	vmm.Traffic
	ID    int64         `json:"id"` // the order's
	Error *banger.Error `json:"error,omitempty"`
}

// order is a line from the daemon.
type order struct {
	ID    int64         `json:"id,omitempty"` // of an order that is answered
	Pause bool          `json:"pause,omitempty"`
	Go    bool          `json:"go,omitempty"`    // on, after a pause
	Count bool          `json:"count,omitempty"` // the traffic
	Grow  int64         `json:"grow,omitempty"`  // the machine's own disk, to so many bytes
	Stop  bool          `json:"stop,omitempty"`  // ask the guest, then force it
	Kill  bool          `json:"kill,omitempty"`
	Grace time.Duration `json:"grace,omitempty"` // nanoseconds, for stop
}
