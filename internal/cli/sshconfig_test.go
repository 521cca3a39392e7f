package cli

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What is printed is what OpenSSH makes of it, also with odd words in paths.
func TestSSHConfig(t *testing.T) {
	c, out, _ := newCLI(t)
	root := filepath.Join(t.TempDir(), "a b%c$d")
	getenv := c.Getenv
	c.Getenv = func(name string) string {
		if name == "BANGER_ROOT" {
			return root
		}
		return getenv(name)
	}
	if code := c.Run(t.Context(), []string{"ssh-config"}); code != 0 {
		t.Fatalf("code %d", code)
	}
	file := filepath.Join(t.TempDir(), "conf")
	if err := os.WriteFile(file, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := exec.CommandContext(t.Context(), "ssh", "-G", "-F", file, "web.banger").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s; run: apt-get install -y --no-install-recommends openssh-client", err, got)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"user root\n", "proxyusefdpass yes\n", "stricthostkeychecking true\n", "userknownhostsfile none\n", "updatehostkeys false\n",
		"identitiesonly yes\n", "/a b%%c$d/keys/user_ed25519\n", exe + " ssh-config --known-host %H\n", exe + " vm proxy --pass-fd %h\n"} {
		if !bytes.Contains(got, []byte(want)) && !bytes.Contains(got, []byte(strings.ReplaceAll(want, "%%", "%"))) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	out.Reset()
	if code := c.Run(t.Context(), []string{"ssh-config", "--guest-sshd"}); code != 0 {
		t.Fatalf("code %d", code)
	}
	if err := os.WriteFile(file, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err = exec.CommandContext(t.Context(), "ssh", "-G", "-F", file, "web.banger").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, got)
	}
	for _, want := range []string{exe + " vm proxy --guest-sshd --user %r %h\n", exe + " ssh-config --guest-sshd --known-host %H\n", "proxyusefdpass no\n", "stricthostkeychecking true\n"} {
		if !bytes.Contains(got, []byte(want)) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if _, err := sshWord("/a'b"); err == nil {
		t.Error("a quote is taken")
	}
}
