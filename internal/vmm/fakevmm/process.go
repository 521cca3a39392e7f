package fakevmm

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"banger"
	"banger/internal/vmm"
)

// process is the program that stands for the VMM, or nothing.
type process struct {
	cmd  *exec.Cmd // nil: none
	sock string    // that it holds
	name banger.Process

	died  chan struct{} // closed at its end; nil where there is no program
	ended chan struct{} // closed at its end, and at once where there is no program
	exit  vmm.Exit      // valid after died
}

// startProcess runs the program as drivers run theirs: in a session of its own,
// without our environment. Its name tells whose it is.
func startProcess(argv []string, dir string) (*process, error) {
	p := &process{ended: make(chan struct{})}
	if len(argv) == 0 {
		close(p.ended)
		return p, nil
	}
	p.sock = filepath.Join(dir, "fake.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: p.sock, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	socket, err := l.File()
	if err != nil {
		return nil, err
	}
	defer socket.Close()
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Args[0] = "fakevmm " + dir
	p.cmd.Env = []string{"LC_ALL=C"}
	p.cmd.ExtraFiles = []*os.File{socket}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	// The child is not waited for yet, so its pid is still its own.
	p.name, err = vmm.ProcessOf(p.cmd.Process.Pid)
	if err != nil {
		_, _ = p.cmd.Process.Kill(), p.cmd.Wait()
		return nil, err
	}
	p.died = make(chan struct{})
	go p.wait()
	return p, nil
}

func (p *process) wait() {
	_ = p.cmd.Wait() // its error only repeats the process state
	_ = os.Remove(p.sock)
	if ws, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		p.exit.Signal = ws.Signal()
	} else {
		p.exit.Code = p.cmd.ProcessState.ExitCode()
	}
	close(p.died)
	close(p.ended)
}

func (p *process) kill() {
	if p.cmd != nil {
		_ = p.cmd.Process.Kill() // one that has ended needs none
	}
}
