package sshd

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// openSSH is how OpenSSH's programs reach a guest.
type openSSH struct {
	t    *testing.T
	dir  string
	home string // in the guest
	args []string
	env  []string // added
}

func newOpenSSH(t *testing.T) *openSSH {
	t.Helper()
	for _, name := range []string{"ssh", "scp", "sftp"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Fatalf("%v; run: apt-get install -y --no-install-recommends openssh-client", err)
		}
	}
	g := newGuest(t, nil)
	o := &openSSH{t: t, dir: t.TempDir(), home: g.home}
	key := filepath.Join(o.dir, "key")
	known := filepath.Join(o.dir, "known")
	if err := os.WriteFile(key, []byte(g.userPK), 0o600); err != nil {
		t.Fatal(err)
	}
	line := "guest " + string(ssh.MarshalAuthorizedKey(g.hostKey()))
	if err := os.WriteFile(known, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	o.args = []string{
		"-F", "/dev/null", "-o", "HostKeyAlias=guest", "-o", "UserKnownHostsFile=" + known, "-o", "StrictHostKeyChecking=yes",
		"-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-o", "Port=" + g.listen(), "-i", key,
	}
	return o
}

// run runs one of the programs.
func (o *openSSH) run(stdin []byte, name string, args ...string) (string, string, int) {
	o.t.Helper()
	cmd := exec.CommandContext(o.t.Context(), name, append(o.args[:len(o.args):len(o.args)], args...)...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &errs
	cmd.Env = append(os.Environ(), o.env...)
	cmd.WaitDelay = time.Second
	_ = cmd.Run()
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func TestOpenSSH(t *testing.T) {
	t.Parallel()
	o := newOpenSSH(t)
	out, errs, code := o.run([]byte("in"), "ssh", "root@127.0.0.1", "cat; echo err >&2; exit 42")
	if out != "in" || errs != "err\n" || code != 42 {
		t.Errorf("got %q, %q, %d", out, errs, code)
	}
	out, errs, code = o.run(nil, "ssh", "-tt", "root@127.0.0.1", "test -t 0 && test -t 1; echo $?; echo $SSH_TTY")
	if !strings.HasPrefix(out, "0\r\n/dev/pts/") || code != 0 {
		t.Errorf("got %q, %q, %d", out, errs, code)
	}
	if _, _, code = o.run(nil, "ssh", "root@127.0.0.1", "kill -9 $$"); code == 0 {
		t.Error("a killed program counts as a success")
	}
}

func TestOpenSSHFiles(t *testing.T) {
	t.Parallel()
	o := newOpenSSH(t)
	data := make([]byte, 2<<20+64<<10) // more than the window of a channel
	_, _ = rand.NewChaCha8([32]byte{2}).Read(data)
	local := func(name string) string { return filepath.Join(o.dir, name) }
	// The mode is set in a step of its own: a umask takes from that of a new file.
	if err := errors.Join(os.WriteFile(local("a"), data, 0o600), os.Chmod(local("a"), 0o640)); err != nil {
		t.Fatal(err)
	}
	same := func(name string) {
		t.Helper()
		if sha256.Sum256([]byte(readFile(local(name)))) != sha256.Sum256(data) {
			t.Errorf("%s differs", name)
		}
	}
	steps := []struct {
		name  string
		stdin string
		args  []string
		made  string
	}{
		{"scp", "", []string{"-p", local("a"), "root@127.0.0.1:" + local("b")}, "b"},
		{"scp", "", []string{"-p", "root@127.0.0.1:" + local("b"), local("c")}, "c"},
		{"scp", "", []string{"-O", local("a"), "root@127.0.0.1:" + local("d")}, "d"},
		{"sftp", fmt.Sprintf("put %s %s\nrename %s %s\n", local("a"), local("e"), local("e"), local("f")), []string{"-b", "-", "root@127.0.0.1"}, "f"},
	}
	for _, s := range steps {
		if _, errs, code := o.run([]byte(s.stdin), s.name, s.args...); code != 0 {
			t.Errorf("%s %v: %d, %s", s.name, s.args, code, errs)
		}
		same(s.made)
	}
	if st, err := os.Stat(local("c")); err != nil {
		t.Error(err)
	} else if st.Mode() != 0o640 {
		t.Errorf("mode %v", st.Mode())
	}
	if out, _, code := o.run([]byte("pwd\n"), "sftp", "-b", "-", "root@127.0.0.1"); code != 0 || !strings.Contains(out, o.home) {
		t.Errorf("got %q, %d", out, code)
	}
}

func TestOpenSSHForwards(t *testing.T) {
	t.Parallel()
	o := newOpenSSH(t)
	l := listen(t, "unix", filepath.Join(o.dir, "far"))
	echo(t, l)
	here, there := filepath.Join(o.dir, "here"), filepath.Join(o.dir, "there")
	args := append(o.args[:len(o.args):len(o.args)], "-N", "-o", "ExitOnForwardFailure=yes",
		"-L", here+":"+l.Addr().String(), "-R", there+":"+l.Addr().String(), "root@127.0.0.1")
	cmd := exec.CommandContext(t.Context(), "ssh", args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	for _, path := range []string{here, there} {
		var c net.Conn
		waitFor(t, "socket "+path, func() (ok bool) {
			var err error
			c, err = net.Dial("unix", path)
			return err == nil
		})
		if got := ask(t, c, "question"); got != "echo question" {
			t.Errorf("%s: got %q", path, got)
		}
	}
}

// The client's key agent can be used in the guest.
func TestOpenSSHAgent(t *testing.T) {
	t.Parallel()
	o := newOpenSSH(t)
	sock := filepath.Join(o.dir, "agent")
	keys := exec.CommandContext(t.Context(), "ssh-agent", "-D", "-a", sock)
	if err := keys.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = keys.Process.Kill(); _ = keys.Wait() }()
	waitFor(t, "agent", func() bool { _, err := os.Stat(sock); return err == nil })
	add := exec.CommandContext(t.Context(), "ssh-add", filepath.Join(o.dir, "key"))
	add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+sock)
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	o.env = []string{"SSH_AUTH_SOCK=" + sock}
	out, errs, code := o.run(nil, "ssh", "-A", "root@127.0.0.1", "ssh-add -l; ls -ld $SSH_AUTH_SOCK; echo $SSH_AUTH_SOCK")
	if code != 0 || !strings.Contains(out, "ED25519") {
		t.Fatalf("got %q, %q, %d", out, errs, code)
	}
	path := out[strings.LastIndex(strings.TrimSpace(out), "\n")+1:]
	waitFor(t, "socket gone", func() bool { _, err := os.Stat(filepath.Dir(strings.TrimSpace(path))); return err != nil })
}
