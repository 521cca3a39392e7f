package sshd

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"banger/internal/hello"

	"golang.org/x/crypto/ssh"
)

func TestExec(t *testing.T) {
	t.Parallel()
	g := newGuest(t, nil)
	c := g.dial("root")
	for _, tc := range []struct {
		name, command string
		login         bool
		want          result
	}{
		{"output", "echo out; echo err >&2", false, result{out: "out\n", err: "err\n"}},
		{"exit code", "exit 42", true, result{code: 42}},
		{"not found", "no-such-program 2>/dev/null", false, result{code: 127}},
		{"signal", "kill -TERM $$", false, result{code: noStatus, signal: "TERM"}},
		{"signal without a name in the RFC", "kill -BUS $$", false, result{code: noStatus, signal: "BUS@banger"}},
		{"login", "echo $USER $LOGNAME $HOME; pwd", true, result{out: "root root " + g.home + "\n" + g.home + "\n"}},
		{"image environment", "echo $IMAGE", true, result{out: "yes\n"}},
		{"not on a network", "echo $SSH_CLIENT", true, result{out: "UNKNOWN 65535 65535\n"}},
		{"no terminal", "tty; echo $SSH_TTY", false, result{out: "not a tty\n\n"}},
		{"own session", "test $(ps -o sid= $$) = $$", false, result{}},
		{"last words by a pipe", "exec > >(sleep 0.1; cat); echo late", false, result{out: "late\n"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := result{}
			if tc.login {
				got = start(t, c, "exec", tc.command).end()
			} else {
				got = sh(t, c, tc.command)
			}
			if got != tc.want {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
}

const stdinSize = 5 << 20 // more than any of the windows, those of SSH and of yamux

func TestStdin(t *testing.T) {
	t.Parallel()
	c := newGuest(t, nil).dial("root")
	data := make([]byte, stdinSize)
	src := rand.NewChaCha8([32]byte{1})
	_, _ = src.Read(data)
	r := startSh(t, c, "cat")
	go func() {
		_, _ = io.Copy(r.ch, bytes.NewReader(data))
		_ = r.ch.CloseWrite()
	}()
	if got := r.wait(); sha256.Sum256([]byte(got.out)) != sha256.Sum256(data) {
		t.Errorf("got %d bytes, %+v", len(got.out), result{code: got.code, err: got.err})
	}
	// A program that does not read its input ends all the same.
	r = startSh(t, c, "exit 3")
	go func() { _, _ = r.ch.Write(data) }()
	if got := r.wait(); got.code != 3 {
		t.Errorf("got %+v", got)
	}
}

func TestEnv(t *testing.T) {
	c := newGuest(t, nil).dial("root")
	got := startSh(t, c, "echo $LANG $LC_TIME $TERM", setenv("LANG", "xx"), setenv("LC_TIME", "yy"), setenv("TERM", "dumb")).end()
	if got.out != "xx yy dumb\n" {
		t.Errorf("got %+v", got)
	}
	ch, _, err := c.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ch.Close()
	for name, value := range map[string]string{"LD_PRELOAD": "x", "LC_A=B": "x", "LC_NUL": "\x00", "LC_LONG": strings.Repeat("x", maxEnv)} {
		if setenv(name, value)(ch) {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestSignal(t *testing.T) {
	c := newGuest(t, nil).dial("root")
	for _, name := range []string{"INT", "TERM", "KILL", "USR1", "HUP"} {
		// The whole group gets it: the shell waits for its child.
		r := startSh(t, c, "echo ready; sleep 60; echo not reached")
		r.ready()
		tell(r.ch, "signal", text{name})
		if got := r.wait(); got.signal != name || strings.Contains(got.out, "not") {
			t.Errorf("%s: got %+v", name, got)
		}
	}
	r := startSh(t, c, "echo ready; sleep 60")
	r.ready()
	if request("signal", text{"NOPE"})(r.ch) {
		t.Error("NOPE was taken")
	}
}

func TestInheritance(t *testing.T) {
	signal.Ignore(syscall.SIGINT, syscall.SIGQUIT) // as in the background of a shell
	c := newGuest(t, nil).dial("root")
	before := readFile(oomFile)
	want := "0\n"
	if !strings.HasPrefix(before, "-") { // not protected, as who is not root may not
		want = before
	}
	// Signals from 32 on are those of the C library, which the race detector
	// brings in; it may ignore 32 for a moment while it starts a thread.
	got := sh(t, c, "cat /proc/self/oom_score_adj; sed -n 's/^SigIgn:.*\\(.\\{8\\}\\)$/\\1/p' /proc/self/status")
	if score, ignored, _ := strings.Cut(got.out, "\n"); score+"\n" != want || ignored != "00000000\n" && ignored != "80000000\n" {
		t.Errorf("got %+v", got)
	}
	if after := readFile(oomFile); after != before {
		t.Errorf("the agent's score was %s and is %s", before, after)
	}
}

// The exit status does not wait for ever for a background child that keeps the
// output open, and nothing that the program itself wrote is lost.
func TestBackground(t *testing.T) {
	t.Parallel()
	c := newGuest(t, func(s *Server, _ *hello.Config) { s.drain = 700 * time.Millisecond }).dial("root")
	began := time.Now()
	got := sh(t, c, "sleep 30 & head -c 900000 /dev/zero; exit 5")
	if len(got.out) != 900000 || got.code != 5 {
		t.Errorf("got %d bytes, code %d", len(got.out), got.code)
	}
	if d := time.Since(began); d > 3*time.Second {
		t.Errorf("took %v", d)
	}
	began = time.Now()
	got = sh(t, c, "while echo x; do sleep 0.05; done & exit 6")
	if d := time.Since(began); got.code != 6 || d > 4*time.Second {
		t.Errorf("chatty child: code %d, took %v", got.code, d)
	}
}

func TestTTY(t *testing.T) {
	t.Parallel()
	c := newGuest(t, nil).dial("root")
	got := start(t, c, "exec", "tty; stty size; echo $TERM; test $SSH_TTY = $(tty) && echo same; echo err >&2; exit 7", pty(100, 30, "")).wait()
	lines := strings.Split(got.out, "\r\n")
	if got.code != 7 || len(lines) < 5 || !strings.HasPrefix(lines[0], "/dev/pts/") || strings.Join(lines[1:5], " ") != "30 100 xterm-test same err" {
		t.Errorf("got %+v", got)
	}
	// Modes: 53 is ECHO, 72 is ONLCR, 42 is IUTF8.
	got = startSh(t, c, "stty -a", pty(80, 24, "\x35\x00\x00\x00\x00\x48\x00\x00\x00\x00\x2a\x00\x00\x00\x01\x00")).wait()
	for _, want := range []string{" -echo ", "-onlcr", " iutf8"} {
		if !strings.Contains(got.out, want) {
			t.Errorf("want %q in %s", want, got.out)
		}
	}
}

func TestTTYResizeAndKeys(t *testing.T) {
	t.Parallel()
	c := newGuest(t, nil).dial("root")
	r := startSh(t, c, "trap 'stty size; exit 5' WINCH; echo ready; while :; do sleep 0.05; done", pty(80, 24, ""))
	r.ready()
	tell(r.ch, "window-change", struct{ Cols, Rows, X, Y uint32 }{132, 50, 0, 0})
	if got := r.wait(); !strings.Contains(got.out, "50 132") || got.code != 5 {
		t.Errorf("got %+v", got)
	}
	r = startSh(t, c, "echo ready; exec sleep 60", pty(80, 24, ""))
	r.ready()
	_, _ = r.ch.Write([]byte{3}) // Ctrl-C
	if got := r.wait(); got.signal != "INT" {
		t.Errorf("got %+v", got)
	}
	// The end of input is typed.
	r = startSh(t, c, "cat; exit 9", pty(80, 24, ""))
	_, _ = io.WriteString(r.ch, "typed\n")
	if got := r.end(); got.out != "typed\r\ntyped\r\n" || got.code != 9 {
		t.Errorf("got %+v", got)
	}
	r = start(t, c, "shell", "", pty(80, 24, ""))
	_, _ = io.WriteString(r.ch, "echo shell=$0; exit 8\n")
	if got := r.wait(); !strings.Contains(got.out, "shell=-") || got.code != 8 {
		t.Errorf("got %+v", got)
	}
	r = startSh(t, c, "echo ready; exec sleep 60", pty(80, 24, ""))
	r.ready()
	tell(r.ch, "break", struct{ Length uint32 }{500})
	if got := r.wait(); got.signal != "INT" {
		t.Errorf("break: got %+v", got)
	}
}

func TestExecImage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"plain": 0o644, "badinterp": 0o755, "nothing": 0o755} {
		text := map[string]string{"plain": "x", "badinterp": "#!/no/such/interpreter\n", "nothing": "just text"}[name]
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	g := newGuest(t, func(_ *Server, cfg *hello.Config) {
		cfg.WorkingDir = filepath.Join(dir, "work", "deep")
		cfg.User = strconv.Itoa(os.Getuid())
		cfg.Env = []string{"PATH=" + dir + ":/usr/bin:/bin", "A=image", "B=image"}
	})
	c := g.dial("root")
	for _, tc := range []struct {
		name string
		e    hello.Exec
		want result
	}{
		{"no shell between", hello.Exec{Argv: []string{"printf", "%s|", "$HOME", "a b", "*"}}, result{out: "$HOME|a b|*|"}},
		{"environment", hello.Exec{Argv: []string{"sh", "-c", "echo $A $B $C $HOME"}, Env: []string{"B=mine", "C=c d"}}, result{out: "image mine c d " + g.home + "\n"}},
		{"clear", hello.Exec{Argv: []string{"/usr/bin/env"}, Clear: true, Env: []string{"X=1"}}, result{out: "PATH=" + defaultPath + "\nHOME=" + g.home + "\nX=1\n"}},
		{"image's directory is made", hello.Exec{Argv: []string{"pwd"}}, result{out: filepath.Join(dir, "work", "deep") + "\n"}},
		{"relative directory", hello.Exec{Argv: []string{"pwd"}, Dir: ".."}, result{out: filepath.Join(dir, "work") + "\n"}},
		{"relative program", hello.Exec{Argv: []string{"bin/true"}, Dir: "/"}, result{}},
		{"shell command", hello.Exec{Command: "echo $A; exit 4"}, result{out: "image\n", code: 4}},
		{"login", hello.Exec{Login: true, Command: "pwd; echo $A $B $HOME", Env: []string{"B=mine"}}, result{out: g.home + "\nimage mine " + g.home + "\n"}},
		{"login in a directory", hello.Exec{Login: true, Command: "pwd", Dir: "/usr"}, result{out: "/usr\n"}},
		{"exit code", hello.Exec{Argv: []string{"sh", "-c", "exit 200"}}, result{code: 200}},
		{"not in PATH", hello.Exec{Argv: []string{"nope"}}, result{code: 127, err: `banger: run "nope": not found in PATH (` + dir + ":/usr/bin:/bin)\n"}},
		{"no such file", hello.Exec{Argv: []string{"/no/such"}}, result{code: 127, err: "banger: run \"/no/such\": no such file\n"}},
		{"empty name", hello.Exec{Argv: []string{""}}, result{code: 127, err: "banger: run \"\": no such program\n"}},
		{"not executable, by PATH", hello.Exec{Argv: []string{"plain"}}, result{code: 126, err: "banger: run \"" + dir + "/plain\": not executable\n"}},
		{"a directory", hello.Exec{Argv: []string{"/usr"}}, result{code: 126, err: "banger: run \"/usr\": is a directory\n"}},
		{"no interpreter", hello.Exec{Argv: []string{"badinterp"}}, result{code: 127, err: "banger: run " + dir + "/badinterp: its interpreter is not in this image\n"}},
		{"no format", hello.Exec{Argv: []string{"nothing"}}, result{code: 126, err: "banger: run " + dir + "/nothing: no program for this machine, and no #! line\n"}},
		{"no directory", hello.Exec{Argv: []string{"true"}, Dir: "/no/such"}, result{code: 126, err: "banger: use working directory \"/no/such\": no such directory\n"}},
		{"no user", hello.Exec{Argv: []string{"true"}, User: "no\nbody"}, result{code: 126, err: "banger: look user \"no\\nbody\" up: not in " + g.srv.Etc + "/passwd\n"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := image(t, c, tc.e); got != tc.want {
				t.Errorf("got  %+v\nwant %+v", got, tc.want)
			}
		})
	}
	if ok := request(hello.ExecRequest, text{"{broken"})(mustSession(t, c)); ok {
		t.Error("broken JSON was taken")
	}
}

func mustSession(t *testing.T, c *ssh.Client) ssh.Channel {
	t.Helper()
	ch, reqs, err := c.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(reqs)
	t.Cleanup(func() { ch.Close() })
	return ch
}

func TestExecUser(t *testing.T) {
	g := newGuest(t, func(s *Server, _ *hello.Config) { s.Etc = "" }) // the machine's own users
	c := g.dial("root")
	show := hello.Exec{Argv: []string{"sh", "-c", "id -u; id -g; id -G; echo $HOME"}, Dir: "/"}
	if os.Getuid() != 0 {
		show.User = "12345"
		if got := image(t, c, show); got.code != 126 || !strings.Contains(got.err, "not root") {
			t.Errorf("got %+v", got)
		}
		show.User = strconv.Itoa(os.Getuid())
		if got := image(t, c, show); !strings.HasPrefix(got.out, show.User+"\n") {
			t.Errorf("as itself: got %+v", got)
		}
		return
	}
	for spec, want := range map[string]string{
		"nobody":      "65534\n65534\n65534\n/nonexistent\n",
		"12345":       "12345\n0\n0\n/\n",
		"12345:54321": "12345\n54321\n54321\n/\n",
		"nobody:adm":  "65534\n4\n4\n/nonexistent\n",
	} {
		show.User = spec
		if got := image(t, c, show); got.out != want {
			t.Errorf("%s: got %+v", spec, got)
		}
	}
	if got := start(t, g.dial("daemon"), "exec", "id -un").end(); got.out != "daemon\n" && got.code == 0 {
		t.Errorf("login as daemon: %+v", got)
	}
	if got := start(t, g.dial("no-such-user"), "exec", "id").end(); got.code != 126 || !strings.Contains(got.err, "not in /etc/passwd") {
		t.Errorf("login as nobody known: %+v", got)
	}
}

func TestSubsystems(t *testing.T) {
	var asked string
	g := newGuest(t, func(s *Server, _ *hello.Config) {
		s.Ready = func() bool { return false }
		s.Shutdown = func(how string) error { asked = how; return nil }
	})
	c := g.dial("root")
	var h hello.Health
	got := start(t, c, "subsystem", hello.HealthSubsystem).end()
	if err := json.Unmarshal([]byte(got.out), &h); err != nil || got.code != 0 || !strings.HasSuffix(got.out, "}\n") {
		t.Fatalf("got %+v, %v", got, err)
	}
	if h.Version != "1.2.3" || h.Init != "test" || h.Ready || h.UptimeMS <= 0 {
		t.Errorf("got %+v", h)
	}
	r := start(t, c, "subsystem", hello.ShutdownSubsystem)
	_, _ = io.WriteString(r.ch, "explode\n")
	if got := r.wait(); got.code != 1 || asked != "" {
		t.Errorf("got %+v, asked %q", got, asked)
	}
	r = start(t, c, "subsystem", hello.ShutdownSubsystem)
	_, _ = io.WriteString(r.ch, "reboot\n")
	if got := r.wait(); got.code != 0 || asked != hello.Reboot {
		t.Errorf("got %+v, asked %q", got, asked)
	}
	if request("subsystem", text{"nope"})(mustSession(t, c)) {
		t.Error("an unknown subsystem was taken")
	}
}

func TestParallelSessions(t *testing.T) {
	c := newGuest(t, nil).dial("root")
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			if got := sh(t, c, fmt.Sprintf("cat; exit %d", i)); got != (result{code: i}) {
				t.Errorf("%d: %+v", i, got)
			}
		})
	}
	wg.Wait()
	for range maxSessions {
		mustSession(t, c)
	}
	if _, _, err := c.OpenChannel("session", nil); err == nil {
		t.Error("no limit of sessions")
	}
}

// alive reports whether the process group of a session still has members.
func alive(t *testing.T, pidFile string) bool {
	pid, err := strconv.Atoi(strings.TrimSpace(readFile(pidFile)))
	if err != nil {
		t.Fatal(err)
	}
	return syscall.Kill(-pid, 0) == nil
}

func TestClientVanishes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, tc := range map[string]struct {
		command string
		prep    []func(ssh.Channel) bool
	}{
		"polite":   {"echo $$ > %s; exec sleep 60", nil},
		"terminal": {"echo $$ > %s; exec sleep 60", []func(ssh.Channel) bool{pty(80, 24, "")}},
		"stubborn": {"trap '' HUP; echo $$ > %s; exec sleep 60", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGuest(t, func(s *Server, _ *hello.Config) { s.grace = 300 * time.Millisecond })
			c := g.dial("root")
			file := filepath.Join(dir, name)
			startSh(t, c, fmt.Sprintf(tc.command, file), tc.prep...)
			waitFor(t, "start", func() bool { return strings.HasSuffix(readFile(file), "\n") })
			if name == "terminal" {
				g.mux.Close() // the host goes, and comes back as another
				g.attach(true)
			} else {
				c.Close()
			}
			waitFor(t, "end of the process group", func() bool { return !alive(t, file) })
		})
	}
}
