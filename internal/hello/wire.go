package hello

import (
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// SSHPort is the port of the guest's SSH server; there is one more, DataPort.
const SSHPort = 22

// What banger adds to SSH, in the private names that RFC 4251 section 6 grants.
const (
	// ExecRequest is a session request like exec. Its payload is one SSH
	// string with an Exec in JSON. A program that cannot be started makes the
	// exit status 127 (not found) or 126 (found, but not to be run) and one
	// line on stderr that begins with "banger: ".
	ExecRequest = "exec@banger"
	// AttachRequest is a session request for what a detached program has written
	// and will write, up to its end and its exit. Its payload is the Job's ID, one
	// SSH string. The program lives on when the session is closed before.
	AttachRequest = "attach@banger"
	// JobsSubsystem answers one line of JSON, a list of Jobs.
	JobsSubsystem = "jobs@banger"
	// HealthSubsystem answers one line of JSON, a Health.
	HealthSubsystem = "health@banger"
	// ShutdownSubsystem takes one line, Poweroff or Reboot; its exit status is
	// 0 when the guest is on its way.
	ShutdownSubsystem = "shutdown@banger"
	// ClockSubsystem takes one line, nanoseconds since 1970, and sets the
	// guest's clock to it.
	ClockSubsystem = "clock@banger"
)

// The lines that ShutdownSubsystem takes.
const (
	Poweroff = "poweroff"
	Reboot   = "reboot"
)

// MaxExec bounds an Exec in JSON, in bytes: an SSH packet has 256 KiB at most.
const MaxExec = 248 << 10

// Exec is one program to run in the guest, without a shell unless Command or
// neither Argv nor Command is given.
type Exec struct {
	Argv    []string `json:"argv,omitempty"`    // Argv[0] without a slash is looked up in PATH
	Command string   `json:"command,omitempty"` // for the user's shell; used if there is no Argv
	Env     []string `json:"env,omitempty"`     // NAME=value, over the image's
	Dir     string   `json:"dir,omitempty"`     // empty: the image's, else /
	User    string   `json:"user,omitempty"`    // user[:group], names or numbers; empty: the image's, else root
	Login   bool     `json:"login,omitempty"`   // Command as an ssh client would have it run: as the user that logged in, in their home
	Clear   bool     `json:"clear,omitempty"`   // leave the image's Env out
	// Timeout ends the program after so many milliseconds, with TERM and then
	// KILL; its exit status is TimedOut.
	Timeout int64 `json:"timeout_ms,omitempty"`
	// Detach leaves the program to the agent, which answers with its ID, one
	// line on stdout: see AttachRequest.
	Detach bool `json:"detach,omitempty"`
}

// TimedOut is the exit status of a program that took longer than its Timeout.
const TimedOut = 124

// Job is one program that was detached.
type Job struct {
	ID      string `json:"id"`
	PID     int    `json:"pid"`     // in the guest
	Command string `json:"command"` // the beginning of it
	Started int64  `json:"started"` // seconds since 1970, by the guest's clock
	Running bool   `json:"running"`
	Code    int    `json:"exit_code"` // once it has ended; 128+n for signal n
	Dropped int64  `json:"dropped"`   // bytes of its output that are not kept any more
}

// Limits of detached programs: the agent keeps what they write in the guest's memory.
const (
	MaxJobs      = 32      // kept at a time, ended ones too; those go first
	MaxJobOutput = 1 << 20 // bytes kept of each
)

// Health is what the agent says of its machine.
type Health struct {
	Version  string `json:"version"`   // of banger-guest
	UptimeMS int64  `json:"uptime_ms"` // since the kernel started
	Init     string `json:"init"`      // what runs as pid 1
	Ready    bool   `json:"ready"`     // the machine's init has finished its start
}

// signals are the names of Linux signals on every architecture that banger
// runs on, by number.
var signals = []string{
	1: "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM", "STKFLT",
	"CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
}

// standard are the names that RFC 4254 section 6.10 has for SSH.
var standard = []string{"ABRT", "ALRM", "FPE", "HUP", "ILL", "INT", "KILL", "PIPE", "QUIT", "SEGV", "TERM", "USR1", "USR2"}

// SignalName is the name of a signal in SSH, without SIG. What the RFC has no
// name for gets one of ours, as BUS@banger or 34@banger.
func SignalName(sig syscall.Signal) string {
	n := int(sig)
	if n <= 0 || n >= len(signals) {
		return strconv.Itoa(n) + "@banger"
	}
	if name := signals[n]; !slices.Contains(standard, name) {
		return name + "@banger"
	}
	return signals[n]
}

// ParseSignal reads the name of a signal in SSH, with or without a domain; 0
// means that there is no such signal.
func ParseSignal(name string) syscall.Signal {
	name, _, _ = strings.Cut(name, "@")
	if i := slices.Index(signals, strings.TrimPrefix(name, "SIG")); i > 0 {
		return syscall.Signal(i)
	}
	if n, err := strconv.Atoi(name); err == nil && n > 0 && n <= 64 {
		return syscall.Signal(n)
	}
	return 0
}
