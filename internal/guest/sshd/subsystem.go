package sshd

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"banger/internal/hello"
)

// subsystem starts a subsystem by its name.
func (s *session) subsystem(name string) (ok bool, then func()) {
	switch name {
	case "sftp":
		return s.sftp()
	case hello.HealthSubsystem:
		return true, func() { s.finish(s.health()) }
	case hello.CopySubsystem:
		return true, func() { s.finish(s.copyFiles()) }
	case hello.ProcessesSubsystem:
		return true, func() { s.finish(s.processes()) }
	case hello.JobsSubsystem:
		return true, func() { s.finish(json.NewEncoder(s.ch).Encode(s.conn.srv.listJobs())) }
	case hello.AwaitSubsystem:
		return true, func() { s.finish(s.await()) }
	case hello.OwnSSHDSubsystem:
		return true, func() { s.finish(s.ownSSHD()) }
	case hello.MountSubsystem:
		return true, func() { s.finish(s.mount()) }
	case hello.GrowSubsystem:
		return true, func() { s.finish(s.grow()) }
	case hello.ShutdownSubsystem:
		return true, func() { s.finish(s.shutdown()) }
	case hello.ClockSubsystem:
		return true, func() { s.finish(s.setClock()) }
	}
	return false, nil
}

// finish ends the session of a subsystem of ours.
func (s *session) finish(err error) {
	status := 0
	if err != nil {
		fmt.Fprintf(s.ch.Stderr(), "banger: %s\n", err)
		status = 1
	}
	exit(s.ch, status)
}

// sftp serves files: for the agent's own user here, for another in a process
// that runs as that user.
func (s *session) sftp() (ok bool, then func()) {
	u, err := s.conn.srv.lookupUser(s.conn.ssh.User())
	if err != nil {
		return true, func() { s.refuse(notRunnable("%s", err)) }
	}
	dir := "/"
	if isDir(u.home) {
		dir = u.home
	}
	if int(u.uid) == os.Getuid() {
		return true, func() { s.finish(ServeSFTP(keepOpen{s.ch}, dir)) }
	}
	if len(s.conn.srv.SFTP) == 0 {
		return false, nil
	}
	argv := s.conn.srv.SFTP
	return true, s.run(program{path: argv[0], argv: argv, dir: dir, user: u, env: []string{"HOME=" + u.home}}, nil)
}

// keepOpen is a channel that the SFTP server cannot close: the exit status is
// still to come.
type keepOpen struct{ ssh.Channel }

func (keepOpen) Close() error { return nil }

// ServeSFTP serves files as the current user until the client ends; paths that
// are not absolute are from dir. It is what the SFTP command line of Server
// has to run on its stdin and stdout.
func ServeSFTP(rw io.ReadWriteCloser, dir string) error {
	srv, err := sftp.NewServer(rw, sftp.WithServerWorkingDirectory(dir))
	if err != nil {
		return fmt.Errorf("serve sftp: %w", err)
	}
	defer srv.Close()
	if err := srv.Serve(); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("serve sftp: %w", err)
	}
	return nil
}

func (s *session) health() error {
	h := hello.Health{Version: s.conn.srv.Version, Init: s.conn.srv.Init, Ready: true}
	if s.conn.srv.Ready != nil {
		h.Ready = s.conn.srv.Ready()
	}
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return fmt.Errorf("read the clock: %w", err)
	}
	h.UptimeMS = time.Duration(up.Nano()).Milliseconds()
	return json.NewEncoder(s.ch).Encode(h)
}

func (s *session) shutdown() error {
	how, err := s.line()
	if err != nil || how != hello.Poweroff && how != hello.Reboot {
		return fmt.Errorf("shut down: want %s or %s, not %q", hello.Poweroff, hello.Reboot, how)
	}
	if s.conn.srv.Shutdown == nil {
		return errors.New("shut down: this machine has no way to")
	}
	if err := s.conn.srv.Shutdown(how); err != nil {
		return fmt.Errorf("shut down: %w", err)
	}
	return nil
}

func (s *session) grow() error {
	if s.conn.srv.Grow == nil {
		return errors.New("grow the disk: this machine has no way to")
	}
	if err := s.conn.srv.Grow(); err != nil {
		return fmt.Errorf("grow the disk: %w", err)
	}
	return nil
}

func (s *session) setClock() error {
	line, err := s.line()
	ns, badNumber := strconv.ParseInt(line, 10, 64)
	if err != nil || badNumber != nil {
		return fmt.Errorf("set the clock: want nanoseconds since 1970, not %q", line)
	}
	if s.conn.srv.SetClock == nil {
		return errors.New("set the clock: this machine has no way to")
	}
	if err := s.conn.srv.SetClock(time.Unix(0, ns)); err != nil {
		return fmt.Errorf("set the clock: %w", err)
	}
	return nil
}

// line reads the one line that a subsystem of ours takes.
func (s *session) line() (string, error) { return readLine(s.ch, 32) }

func readLine(r io.Reader, limit int64) (string, error) {
	line, err := bufio.NewReader(io.LimitReader(r, limit)).ReadString('\n')
	return strings.TrimSuffix(line, "\n"), err
}
