// Package guest is what banger runs inside a machine: pid 1 from the kernel's start to the machine's own init, and the agent.
package guest

import (
	"io"
	"os"

	"banger/internal/guest/sshd"
)

// itself is this very program, also where its file is out of reach.
const itself = "/proc/self/exe"

// The roles of the program, as its first argument.
const (
	roleAgent = "agent" // then the name of the init
	roleSFTP  = "sftp"  // on stdin and stdout, as the user that runs it
)

const usage = `usage: banger-guest agent INIT    serve the host over SSH; INIT is banger or systemd
       banger-guest sftp          serve files on stdin and stdout
As pid 1 it boots the machine.`

// Main is the program: its pid and its arguments choose the role. It returns
// the exit code; as pid 1 it never does.
func Main(pid int, args []string) int {
	args = append(args, "", "")[1:]
	var err error
	switch {
	case pid == 1:
		// The kernel hands the words it does not know to init: no roles of ours.
		Boot()
	case args[0] == roleAgent && args[1] != "":
		err = runAgent(args[1])
	case args[0] == roleSFTP:
		err = sshd.ServeSFTP(stdio{os.Stdin, os.Stdout}, ".")
	default:
		os.Stderr.WriteString(usage + "\n")
		return 2
	}
	if err != nil {
		say("%s: %v", args[0], err)
		return 1
	}
	return 0
}

// stdio is one stream of the two.
type stdio struct {
	io.Reader
	io.WriteCloser
}
