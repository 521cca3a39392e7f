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
	// HealthSubsystem answers one line of JSON, a Health.
	HealthSubsystem = "health@banger"
	// ShutdownSubsystem takes one line, Poweroff or Reboot; its exit status is
	// 0 when the guest is on its way.
	ShutdownSubsystem = "shutdown@banger"
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
}

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
