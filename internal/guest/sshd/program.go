package sshd

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"banger/internal/hello"
)

// defaultPath is for images that set no PATH; it is the one of runc and Docker.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// program is all that it takes to start one.
type program struct {
	path string // of the file
	argv []string
	env  []string
	dir  string
	user user
}

// startError says why a program was not started, with the exit status that
// shells and docker exec have for it.
type startError struct {
	status int // 127: not found; 126: found, but not to be run
	msg    string
}

func (e *startError) Error() string { return e.msg }

func notFound(format string, args ...any) error {
	return &startError{127, fmt.Sprintf(format, args...)}
}

func notRunnable(format string, args ...any) error {
	return &startError{126, fmt.Sprintf(format, args...)}
}

// startStatus is the exit status for a program that could not be started.
func startStatus(err error) int {
	var e *startError
	if errors.As(err, &e) {
		return e.status
	}
	return 126
}

// execError is the startError for what execve(2) said.
func execError(path string, err error) error {
	switch {
	case errors.Is(err, syscall.ENOENT): // the file itself was there a moment ago
		return notFound("run %s: its interpreter is not in this image", path)
	case errors.Is(err, syscall.ENOEXEC):
		return notRunnable("run %s: no program for this machine, and no #! line", path)
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return notRunnable("run %s: %s", path, errno)
	}
	return notRunnable("run %s: %s", path, err)
}

// loginProgram is what an exec or shell request runs, as OpenSSH does: the
// shell of the user that logged in, in their home, with the command or to type
// into.
func (s *session) loginProgram(e hello.Exec) (program, error) {
	u, err := s.conn.srv.lookupUser(cmp.Or(e.User, s.conn.ssh.User()))
	if err != nil {
		return program{}, notRunnable("%s", err)
	}
	p, err := shellProgram(u, e.Command)
	if err != nil {
		return program{}, err
	}
	if p.dir = u.home; !isDir(u.home) {
		p.dir = "/"
	}
	if e.Dir != "" {
		if p.dir, err = namedDir(p.dir, e.Dir); err != nil {
			return program{}, err
		}
	}
	p.env = environment([]string{"PATH=" + defaultPath}, s.conn.id.cfg.Env, []string{
		"HOME=" + u.home, "USER=" + u.name, "LOGNAME=" + u.name, "SHELL=" + p.path,
		// As sshd says for a client that is not on a network. With it set, some
		// shells read their start files for a command too, as people expect of ssh.
		"SSH_CLIENT=UNKNOWN 65535 65535", "SSH_CONNECTION=UNKNOWN 65535 UNKNOWN 65535",
	}, s.ttyEnv(), s.env, e.Env)
	return p, nil
}

func (s *session) ttyEnv() []string {
	if s.tty == nil {
		return nil
	}
	return []string{"SSH_TTY=" + s.tty.name}
}

// shellProgram is the user's shell with a command, or without one to type into.
func shellProgram(u user, command string) (program, error) {
	shell := u.shell
	if shell == "" || runnable(shell) != nil {
		shell = "/bin/sh"
	}
	if runnable(shell) != nil {
		return program{}, notFound("this image has no shell; without one, run a program by: banger vm exec VM -- PROGRAM")
	}
	p := program{path: shell, user: u}
	if command == "" {
		p.argv = []string{"-" + filepath.Base(shell)} // tells it to be a login shell
	} else {
		p.argv = []string{filepath.Base(shell), "-c", command}
	}
	return p, nil
}

// imageProgram is what an exec@banger request runs: by default as the image's
// configuration says.
func (s *session) imageProgram(e hello.Exec) (program, error) {
	if e.Login && len(e.Argv) == 0 {
		return s.loginProgram(e)
	}
	cfg := s.conn.id.cfg
	u, err := s.conn.srv.lookupUser(cmp.Or(e.User, cfg.User))
	if err != nil {
		return program{}, notRunnable("%s", err)
	}
	image := cfg.Env
	if e.Clear {
		image = nil
	}
	env := environment([]string{"PATH=" + defaultPath, "HOME=" + u.home}, image, s.env, e.Env)
	dir, err := imageDir(cfg.WorkingDir, e.Dir)
	if err != nil {
		return program{}, err
	}
	var p program
	if len(e.Argv) == 0 {
		p, err = shellProgram(u, e.Command)
	} else {
		p = program{argv: e.Argv, user: u}
		p.path, err = lookProgram(e.Argv[0], dir, env)
	}
	p.env, p.dir = env, dir
	return p, err
}

// imageDir is the directory to run in. The image's own is made if it is
// missing, as Docker does; one that the user named has to be there.
func imageDir(image, asked string) (string, error) {
	dir := filepath.Join("/", image)
	if asked == "" {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", notRunnable("use the image's working directory: %s", err)
		}
		return dir, nil
	}
	return namedDir(dir, asked)
}

// namedDir is a directory that the user named, from dir if it is relative.
func namedDir(dir, asked string) (string, error) {
	if filepath.IsAbs(asked) {
		dir = filepath.Clean(asked)
	} else {
		dir = filepath.Join(dir, asked)
	}
	if !isDir(dir) {
		return "", notRunnable("use working directory %q: no such directory", dir)
	}
	return dir, nil
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}

// environment joins lists of NAME=value; a later value of a name wins.
// Malformed entries are left out.
func environment(lists ...[]string) []string {
	var env []string
	at := map[string]int{}
	for _, kv := range slices.Concat(lists...) {
		name, _, ok := strings.Cut(kv, "=")
		if !ok || name == "" || strings.Contains(kv, "\x00") {
			continue
		}
		if i, ok := at[name]; ok {
			env[i] = kv
			continue
		}
		at[name] = len(env)
		env = append(env, kv)
	}
	return env
}

// lookProgram finds the file of a program: by path from dir, or by name in the
// PATH of env.
func lookProgram(name, dir string, env []string) (string, error) {
	if name == "" {
		return "", notFound("run %q: no such program", name)
	}
	if strings.Contains(name, "/") {
		path := name
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		return path, runnable(path)
	}
	var list string
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			list = v
		}
	}
	err := notFound("run %q: not found in PATH (%s)", name, list)
	for _, d := range filepath.SplitList(list) {
		if !filepath.IsAbs(d) {
			d = filepath.Join(dir, d)
		}
		path := filepath.Join(d, name)
		perr := runnable(path)
		if perr == nil {
			return path, nil
		}
		if startStatus(perr) == 126 && startStatus(err) == 127 {
			err = perr // the first that is there but cannot be run
		}
	}
	return "", err
}

// runnable says why the file cannot be run, nil if it may. The kernel has the
// last word: it knows the user.
func runnable(path string) error {
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return notFound("run %q: no such file", path)
	case err != nil:
		return execError(path, err)
	case st.IsDir():
		return notRunnable("run %q: is a directory", path)
	case st.Mode()&0o111 == 0:
		return notRunnable("run %q: not executable", path)
	}
	return nil
}
