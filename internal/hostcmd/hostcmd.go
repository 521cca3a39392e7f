// Package hostcmd is the one way banger runs an external program to its end.
package hostcmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"banger"
)

// tailSize is how much of a program's error output is kept for its error.
const tailSize = 4 << 10

// grace is how long a cancelled program may take to clean up after itself.
const grace = 2 * time.Second

// Cmd is one run of an external program.
type Cmd struct {
	Path   string // name looked up in PATH, or a path
	Args   []string
	Dir    string
	Env    []string  // added to the environment of banger
	Stdin  io.Reader // nil: /dev/null
	Stdout io.Writer // nil: kept only as part of the error
}

// packages names the Debian package of every program that banger may run.
var packages = map[string]string{
	"qemu-system-x86_64":  "qemu-system-x86",
	"qemu-system-aarch64": "qemu-system-arm",
	"mmdebstrap":          "mmdebstrap",
	"apt-get":             "apt",
	"apt-cache":           "apt",
	"dpkg-deb":            "dpkg",
	"newuidmap":           "uidmap",
}

// Look finds a program in PATH and the places where root's programs live. An
// absent one is an Unavailable error whose hint is the line that installs it.
func Look(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	for _, dir := range []string{"/usr/sbin/", "/sbin/"} {
		if p, err := exec.LookPath(dir + name); err == nil {
			return p, nil
		}
	}
	err := banger.Errorf(banger.Unavailable, "find %s: not in PATH", name)
	if pkg := packages[name]; pkg != "" {
		return "", err.WithHint("apt-get install -y --no-install-recommends %s", pkg)
	}
	return "", err
}

// Run runs the program to its end. When ctx ends first, its whole process
// group gets SIGTERM and, once the program is gone or the grace is over,
// SIGKILL: no grandchild is left.
// The error names the command line, ready to paste, and the tail of its output.
func Run(ctx context.Context, c Cmd) error {
	path, err := Look(c.Path)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path, c.Args...)
	cmd.Dir, cmd.Stdin = c.Dir, c.Stdin
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out := &tail{max: tailSize}
	cmd.Stdout, cmd.Stderr = c.Stdout, out
	if c.Stdout == nil {
		cmd.Stdout = out
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = grace
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			if cmd.Process != nil {
				// What the program itself has started may have a mind of its own.
				_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			}
			return fmt.Errorf("run %s: %w", c.Path, context.Cause(ctx))
		}
		return fmt.Errorf("run %s: %w%s", c, err, out.describe())
	}
	return nil
}

// Output runs the program and returns what it printed.
func Output(ctx context.Context, c Cmd) ([]byte, error) {
	var b bytes.Buffer
	c.Stdout = &b
	err := Run(ctx, c)
	return b.Bytes(), err
}

// String is the command line as a shell would take it.
func (c Cmd) String() string {
	words := make([]string, 0, len(c.Args)+1)
	for _, w := range append([]string{c.Path}, c.Args...) {
		words = append(words, Quote(w))
	}
	return strings.Join(words, " ")
}

// Quote quotes one word for a POSIX shell, if it needs it.
func Quote(w string) string {
	safe := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:=,+@%", r)
	}
	if w != "" && strings.IndexFunc(w, func(r rune) bool { return !safe(r) }) < 0 {
		return w
	}
	return "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
}

// ExitCode is the exit code inside an error of Run, or -1 if the program did not exit by itself.
func ExitCode(err error) int {
	var e *exec.ExitError
	if errors.As(err, &e) {
		return e.ExitCode()
	}
	return -1
}

// tail keeps the last max bytes written to it.
type tail struct {
	max int
	b   []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if n := len(t.b) - t.max; n > 0 {
		t.b = append(t.b[:0], t.b[n:]...)
	}
	return len(p), nil
}

func (t *tail) describe() string {
	s := strings.TrimSpace(string(t.b))
	if s == "" {
		return ""
	}
	return ":\n" + s
}
