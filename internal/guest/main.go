// Package guest is what banger runs inside a machine: pid 1 from the kernel's start to the machine's own init, and the agent.
package guest

import (
	"fmt"
	"os"
)

// Program is where a booted machine finds this very program: on the boot disk,
// which all machines share.
const Program = "/run/banger/boot/banger-guest"

// Main is the program: its pid and its arguments choose the role. It returns
// the exit code; as pid 1 it never does.
func Main(pid int, args []string) int {
	role := ""
	if len(args) > 1 {
		role = args[1]
	}
	switch {
	case pid == 1 && role == roleInit:
		runInit(args[2:])
	case pid == 1:
		// The kernel hands its unknown words to init as arguments: no roles of ours.
		Boot()
	case role == roleAgent:
		if err := runAgent(); err != nil {
			fmt.Fprintf(os.Stderr, "banger-guest agent: %v\n", err)
			return 1
		}
	default:
		fmt.Fprintln(os.Stderr, "usage: banger-guest agent\nAs pid 1 it boots the machine.")
		return 2
	}
	return 0
}

const (
	roleAgent = "agent"
	roleInit  = "banger-init" // pid 1 after the boot, when the image has no init of its own
)
