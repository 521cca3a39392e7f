package imagecat

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger"
)

// fakeHost puts a PATH in place on which mmdebstrap is the given shell script,
// apt knows one mirror, and namespaces work if userns is set. The script's own
// files go to $OUT. It returns that directory.
func fakeHost(t *testing.T, userns bool, script string) string {
	t.Helper()
	if _, err := os.Stat(keyring); err != nil {
		t.Fatalf("%v; apt-get install -y --no-install-recommends debian-archive-keyring", err)
	}
	bin, out := t.TempDir(), t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	helper := "if [ \"$1\" = --unshare-helper ]; then shift; exec \"$@\"; fi\n"
	if !userns {
		helper = "if [ \"$1\" = --unshare-helper ]; then exit 1; fi\n"
	}
	write("mmdebstrap", helper+script)
	write("apt-get", `echo "bookworm http://mirror.example/debian/"
echo "bookworm-security http://mirror.example/security/"
echo "bookworm-updates http://localhost:3142/debian/"
echo "trixie file:/srv/debian/"
`)
	write("apt-config", `case $4 in *::http::*) echo http://proxy.example:3128;; esac; echo DIRECT`)
	t.Setenv("PATH", bin+":/usr/bin:/bin")
	t.Setenv("OUT", out)
	t.Setenv("http_proxy", "")
	t.Setenv("https_proxy", "")
	return out
}

var suite = Suite{Suite: "bookworm", Packages: []string{"dbus", "systemd-sysv"}}

// lines reads a file that a script wrote.
func lines(t *testing.T, path string) []string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(b)), "\n")
}

// wantEmpty checks that nothing is left in the directory given as TempDir.
func wantEmpty(t *testing.T, dir string) {
	t.Helper()
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestSuite(t *testing.T) {
	out := fakeHost(t, true, `
printf '%s\n' "$@" >"$OUT/args"
echo "$TMPDIR $LC_ALL $http_proxy,$https_proxy" >"$OUT/env"
mkdir "$TMPDIR/root" && cd "$TMPDIR/root" && echo hello >file && exec tar -c file
`)
	dir := t.TempDir()
	r, err := suite.Open(t.Context(), SuiteOptions{TempDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	wantEmpty(t, dir)
	tr := tar.NewReader(bytes.NewReader(b))
	if h, err := tr.Next(); err != nil || h.Name != "file" {
		t.Errorf("the tar holds %+v, %v", h, err)
	}

	args := lines(t, filepath.Join(out, "args"))
	for _, want := range []string{"--mode=unshare", "--variant=minbase", "--include=dbus,systemd-sysv", "--dpkgopt=path-exclude=/usr/share/man/*"} {
		if !slices.Contains(args, want) {
			t.Errorf("no %s in %q", want, args)
		}
	}
	end := []string{"bookworm", "-",
		"deb [signed-by=" + keyring + "] http://mirror.example/debian bookworm main",
		"deb [signed-by=" + keyring + "] http://mirror.example/security bookworm-security main"}
	if got := args[len(args)-len(end):]; !slices.Equal(got, end) {
		t.Errorf("arguments end with %q, want %q", got, end)
	}
	place := dir
	if os.Geteuid() != 0 {
		place = "/var/tmp" // a test's directory is closed to the ids of a user namespace
	}
	env := strings.Fields(lines(t, filepath.Join(out, "env"))[0])
	if filepath.Dir(env[0]) != place || env[1] != "C.UTF-8" || env[2] != "http://proxy.example:3128," {
		t.Errorf("environment %q", env)
	}
}

// Two machines of one image must not have the same identity.
func TestSuiteFinish(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"etc/machine-id", "etc/hostname", "etc/resolv.conf", "usr/sbin/sshd", "etc/ssh/ssh_host_ed25519_key", "etc/ssh/ssh_host_ed25519_key.pub", "etc/ssh/sshd_config"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("sh", "-c", finish, "sh", root).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var got []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			name, _ := filepath.Rel(root, p)
			got = append(got, name)
		}
		return err
	})
	want := []string{"etc/machine-id", "etc/ssh/sshd_config", "etc/systemd/system/ssh.service.d/host-keys.conf", "usr/sbin/sshd"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("left %q, want %q; %v", got, want, err)
	}
	if b, err := os.ReadFile(filepath.Join(root, "etc/machine-id")); err != nil || len(b) > 0 {
		t.Errorf("machine-id is %q, %v", b, err)
	}
}

func TestSuiteMirrors(t *testing.T) {
	fakeHost(t, true, "")
	want := []string{
		"deb [signed-by=" + keyring + "] http://deb.debian.org/debian trixie main",
		"deb [signed-by=" + keyring + "] http://deb.debian.org/debian trixie-updates main",
		"deb [signed-by=" + keyring + "] http://deb.debian.org/debian-security trixie-security main",
	}
	if got := mirrors(t.Context(), "trixie"); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for uri, want := range map[string]bool{
		"http://deb.debian.org/debian/": true, "https://[2001:db8::1]/debian": false,
		"http://127.0.0.1:3142/debian": false, "http://user:pw@host/debian": false, "cdrom://x": false, "": false,
		"mirror+file:/etc/apt/mirrors/debian.list": false,
	} {
		if got := reachableFromGuest(uri); got != want {
			t.Errorf("reachableFromGuest(%q) = %v", uri, got)
		}
	}
}

func TestSuiteModes(t *testing.T) {
	fakeHost(t, false, "")
	mode, err := chooseMode(t.Context())
	if os.Geteuid() == 0 {
		if err != nil || mode != modeRoot {
			t.Errorf("root without namespaces: %q, %v", mode, err)
		}
		return
	}
	if err == nil && mode == modeFakechroot {
		return
	}
	if !banger.IsKind(err, banger.Unavailable) || banger.AsError(err).Hint == "" {
		t.Errorf("user without namespaces: %q, %v", mode, err)
	}
}

func TestSuiteFails(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		kind   banger.Kind
		word   string
	}{
		"at once":    {"echo 'E: no such suite' >&2; exit 3", banger.Unavailable, "exit status 3:\nE: no such suite"},
		"in the tar": {"echo part; exit 25", banger.Unavailable, "exit status 25"},
		"disk full":  {"echo 'tar: x: No space left on device' >&2; exit 1", banger.Exhausted, "No space left"},
	} {
		t.Run(name, func(t *testing.T) {
			fakeHost(t, true, c.script)
			dir := t.TempDir()
			r, err := suite.Open(t.Context(), SuiteOptions{TempDir: dir})
			if err != nil {
				t.Fatal(err)
			}
			_, err = io.ReadAll(r)
			if !banger.IsKind(err, c.kind) || !strings.Contains(err.Error(), c.word) || !strings.HasPrefix(err.Error(), "make debian:bookworm: run mmdebstrap") {
				t.Errorf("error %v", err)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			wantEmpty(t, dir)
		})
	}
}

// hang has a child of its own, ignores nothing, and tells when it is up.
const hang = `mkdir "$TMPDIR/root"; sleep 1000 & echo $! >"$OUT/pids"; echo $$ >>"$OUT/pids"; printf up; wait`

func TestSuiteCancelAndClose(t *testing.T) {
	for name, end := range map[string]func(cancel func(), r io.ReadCloser){
		"cancel": func(cancel func(), _ io.ReadCloser) { cancel() },
		"close":  func(_ func(), r io.ReadCloser) { _ = r.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			out := fakeHost(t, true, hang)
			dir := t.TempDir()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			r, err := suite.Open(ctx, SuiteOptions{TempDir: dir})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(r, make([]byte, 2)); err != nil {
				t.Fatal(err)
			}
			end(cancel, r)
			_, err = io.ReadAll(r)
			if name == "cancel" && (!errors.Is(err, context.Canceled) || !banger.IsKind(err, banger.Canceled)) || err == nil {
				t.Errorf("error %v", err)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			wantEmpty(t, dir)
			for _, p := range lines(t, filepath.Join(out, "pids")) {
				pid, err := strconv.Atoi(p)
				if err != nil {
					t.Fatal(err)
				}
				waitGone(t, pid)
			}
		})
	}
}

// waitGone waits until a process has ended; init may take a moment to reap an orphan.
func waitGone(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(stat), ") Z ") || syscall.Kill(pid, 0) != nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d still runs", pid)
		}
		time.Sleep(10 * time.Millisecond) // no event tells of a grandchild's end
	}
}

func TestSuiteRefuses(t *testing.T) {
	fakeHost(t, true, "exit 1")
	for _, s := range []Suite{{Suite: "--help"}, {Suite: ""}, {Suite: "bookworm", Packages: []string{"-x"}}} {
		if _, err := s.Open(t.Context(), SuiteOptions{}); !banger.IsKind(err, banger.Invalid) {
			t.Errorf("%+v: %v", s, err)
		}
	}
	t.Setenv("PATH", t.TempDir())
	_, err := suite.Open(t.Context(), SuiteOptions{})
	if !banger.IsKind(err, banger.Unavailable) || !strings.Contains(banger.AsError(err).Hint, "mmdebstrap") {
		t.Errorf("without mmdebstrap: %v", err)
	}
}

func TestWorkDirFallsBack(t *testing.T) {
	dir, err := makeWorkDir(filepath.Join(t.TempDir(), "absent"), modeRoot)
	if err != nil {
		t.Fatal(err)
	}
	if filepath.Dir(dir) != "/var/tmp" {
		t.Errorf("work directory %s", dir)
	}
	if err := removeWorkDir(t.Context(), dir, modeRoot); err != nil {
		t.Error(err)
	}
}
