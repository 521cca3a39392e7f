package sshd

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"banger/internal/hello"
)

// asLauncher makes the tests' own program what Server.Launch runs.
const asLauncher = "launch-for-tests"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == asLauncher {
		os.Exit(Launch(os.Args[2:], os.Stderr))
	}
	os.Exit(m.Run())
}

// Programs start in the same way with folders of the host as without.
func TestLaunched(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	g := newGuest(t, func(s *Server, _ *hello.Config) { s.Launch = []string{self, asLauncher} })
	g.srv.mounted.Store(true)
	c := g.dial("root")
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad")
	if err := os.WriteFile(bad, []byte("no program"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		exec hello.Exec
		want result
	}{
		{"arguments", hello.Exec{Argv: []string{"sh", "-c", "echo $0 $1 $IMAGE; pwd; exit 7", "a b", ""}, Dir: dir}, result{out: "a b yes\n" + dir + "\n", code: 7}},
		{"own session", hello.Exec{Argv: []string{"sh", "-c", "test $(ps -o sid= $$) = $$"}}, result{}},
		{"signal", hello.Exec{Argv: []string{"sh", "-c", "kill -TERM $$"}}, result{code: noStatus, signal: "TERM"}},
		{"no program", hello.Exec{Argv: []string{bad}}, result{err: "banger: run " + bad + ": no program for this machine, and no #! line\n", code: 126}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := image(t, c, tc.exec); got != tc.want {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
	if out, err := exec.Command(self, asLauncher, "/no/such", "/bin/true", "true").CombinedOutput(); err == nil || string(out) != "banger: use working directory \"/no/such\": no such directory\n" {
		t.Errorf("without its directory: %q, %v", out, err)
	}
}
