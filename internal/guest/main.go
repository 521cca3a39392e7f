// Package guest is what banger runs inside a machine: pid 1 from the kernel's start to the machine's own init, and the agent.
package guest

import (
	"io"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"banger/internal/guest/sshd"
	"banger/internal/hello"
)

// itself is this very program, also where its file is out of reach.
const itself = "/proc/self/exe"

// program is where this program is on a machine that has booted: on the boot
// disk, for the copy that an initramfs holds goes when pid 1 becomes systemd.
const program = hello.GuestProgram

// The roles of the program, as its first argument.
const (
	roleAgent  = "agent"         // then the name of the init, and how many mounts to wait for
	roleLaunch = "launch"        // then what sshd.Launch takes
	roleSFTP   = "sftp"          // on stdin and stdout, as the user that runs it
	roleProbe  = hello.RoleProbe // says on stdout what the kernel can do
)

const usage = `usage: banger-guest agent INIT [MOUNTS]
                                  serve the host over SSH; INIT is banger, systemd or openrc
       banger-guest sftp          serve files on stdin and stdout
       banger-guest copy          carry out one order of banger cp, given on stdin
       banger-guest launch DIR PATH ARG0 [ARG...]
                                  run a program
       banger-guest probe         say what the kernel can do; only for a machine that is thrown away
       banger-guest build         carry out one order of a build, given on stdin
As pid 1 it boots the machine. As banger-first-boot it installs an init and an SSH server.`

// Main is the program: its pid and its arguments choose the role. It returns
// the exit code; as pid 1 it never does.
func Main(pid int, args []string) int {
	name := ""
	if len(args) > 0 {
		name = filepath.Base(args[0])
	}
	args = append(args, "", "", "")[1:]
	var err error
	switch {
	case name == roleBuildInner: // pid 1 too, but of a namespace
		return runBuildInner()
	case name == roleFirstBoot:
		err = runFirstBoot(pid)
		if pid == 1 {
			say("%v", err)
			endMachine(unix.LINUX_REBOOT_CMD_POWER_OFF)
		}
		args[0] = name
	case pid == 1:
		// The kernel hands the words it does not know to init: no roles of ours.
		Boot()
	case name == roleModprobe:
		if err := runModprobe(args[:len(args)-3]); err != nil {
			return 1 // the kernel asks for much that nobody has, so not a word
		}
	case args[0] == roleProbe:
		err = runProbe(os.Stdout)
	case args[0] == hello.RoleBuild:
		return runBuild(os.Stdin, os.Stdout)
	case args[0] == roleAgent && args[1] != "":
		mounts, _ := strconv.Atoi(args[2]) // none, if it does not say
		err = runAgent(args[1], mounts)
	case args[0] == hello.RoleCopy:
		err = sshd.ServeCopy(os.Stdin, os.Stdout, os.Stderr)
	case args[0] == roleLaunch:
		return sshd.Launch(args[1:len(args)-3], os.Stderr)
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
