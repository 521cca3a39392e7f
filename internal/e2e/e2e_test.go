//go:build e2e

package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"banger/internal/state"
)

// suite is what all scripts share: the binaries, a registry, and a state root
// with a kernel and an image in it.
var suite struct {
	repo, bin string
	base      string // state root that scripts copy kernels and images from, by hard links
	registry  string // host:port
}

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	var err error
	if suite.repo, err = filepath.Abs("../.."); err != nil {
		return 1, err
	}
	suite.bin = filepath.Join(suite.repo, "bin")
	if os.Getenv(roleEnv) == "resolver" {
		return 0, playResolver()
	}
	if _, err := os.Stat(filepath.Join(suite.bin, "banger")); err != nil {
		return 1, fmt.Errorf("%w; run: make build", err)
	}
	if suite.base, err = prepareBase(); err != nil {
		return 1, err
	}
	stop, err := startRegistry()
	if err != nil {
		return 1, err
	}
	defer stop()
	return m.Run(), nil
}

// cacheDir is where things that are expensive to make are kept between runs.
func cacheDir() string {
	if dir := os.Getenv("BANGER_TEST_CACHE"); dir != "" {
		return dir
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = os.TempDir()
	}
	return filepath.Join(dir, "banger-test")
}

// prepareBase pulls the kernel and the image with banger itself, once for each
// state of the code that makes them.
func prepareBase() (string, error) {
	sum := sha256.New()
	for _, pkg := range []string{"kernelcat", "imagecat", "rootfs", "oci"} {
		files, err := filepath.Glob(filepath.Join(suite.repo, "internal", pkg, "*"))
		if err != nil {
			return "", err
		}
		slices.Sort(files)
		for _, f := range files {
			if strings.HasSuffix(f, "_test.go") {
				continue
			}
			if b, err := os.ReadFile(f); err == nil {
				fmt.Fprintf(sum, "%s %d\n%s", filepath.Base(f), len(b), b)
			}
		}
	}
	if err := os.MkdirAll(cacheDir(), 0o700); err != nil {
		return "", err
	}
	lock, err := state.LockFile(filepath.Join(cacheDir(), "lock"), true)
	if err != nil {
		return "", err
	}
	defer lock.Unlock()
	base := filepath.Join(cacheDir(), "base-"+hex.EncodeToString(sum.Sum(nil)[:6]))
	// The suite of the VMM drivers boots the same kernel; see Makefile.
	kernel := filepath.Join(cacheDir(), "kernel")
	_ = os.Remove(kernel)
	if err := os.Symlink(filepath.Join(base, state.KernelsDir, "debian-6.1"), kernel); err != nil {
		return "", err
	}
	ready := filepath.Join(base, "ready")
	now := time.Now()
	if os.Chtimes(ready, now, now) == nil {
		return base, nil
	}
	// Other checkouts may be at their tests with theirs.
	old, _ := filepath.Glob(filepath.Join(cacheDir(), "base-*"))
	for _, dir := range old {
		if fi, err := os.Stat(filepath.Join(dir, "ready")); err != nil || now.Sub(fi.ModTime()) > 24*time.Hour {
			_ = os.RemoveAll(dir)
		}
	}
	for _, args := range [][]string{{"kernel", "pull", "debian-6.1"}, {"image", "pull", "debian-bookworm", "--kernel-ref", "debian-6.1"}, {"daemon", "stop"}} {
		cmd := exec.Command(filepath.Join(suite.bin, "banger"), args...)
		cmd.Env = append(os.Environ(), "BANGER_ROOT="+base)
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		if err := cmd.Run(); err != nil {
			return "", fmt.Errorf("banger %s: %w", strings.Join(args, " "), err)
		}
	}
	return base, os.WriteFile(filepath.Join(base, "ready"), nil, 0o600)
}

// startRegistry serves an image made from Debian's packages on a loopback port.
func startRegistry() (stop func(), err error) {
	oci := filepath.Join(cacheDir(), "oci")
	if err := command("scripts/test-image", oci).Run(); err != nil {
		return nil, fmt.Errorf("scripts/test-image: %w", err)
	}
	dir, err := os.MkdirTemp("", "banger-registry-")
	if err != nil {
		return nil, err
	}
	port := filepath.Join(dir, "port")
	if err := exec.Command("mkfifo", port).Run(); err != nil {
		return nil, err
	}
	reg := command("scripts/test-registry", filepath.Join(dir, "data"), port)
	if err := reg.Start(); err != nil {
		return nil, fmt.Errorf("scripts/test-registry: %w", err)
	}
	stop = func() {
		_ = reg.Process.Signal(os.Interrupt)
		_ = reg.Wait()
		_ = os.RemoveAll(dir)
	}
	b, err := os.ReadFile(port) // waits for the registry to listen
	if err != nil {
		stop()
		return nil, err
	}
	number := strings.TrimSpace(string(b))
	suite.registry = "127.0.0.1:" + number
	for tag, name := range map[string]string{"bookworm": "library/debian:bookworm", "busybox": "library/busybox:static"} {
		if err := command("scripts/test-push", oci+":"+tag, number, name).Run(); err != nil {
			stop()
			return nil, fmt.Errorf("scripts/test-push %s: %w", name, err)
		}
	}
	return stop, nil
}

func command(script string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(suite.repo, script), args...)
	cmd.Dir = suite.repo
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return cmd
}

// TestScripts runs testdata/scripts, each with a state root of its own, and
// checks that nothing of it is left behind.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:   "testdata/scripts",
		Setup: setup,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"seed":          seed,
			"generic":       generic,
			"debian-initrd": debianInitrd,
			"serve":         serve,
			"internet":      internet,
			"kill-daemon":   killDaemon,
			"wait-for":      waitFor,
		},
	})
}

func setup(env *testscript.Env) error {
	root := filepath.Join(env.WorkDir, "root")
	home := filepath.Join(env.WorkDir, "home")
	if err := os.Mkdir(home, 0o700); err != nil {
		return err
	}
	env.Setenv("BANGER_ROOT", root)
	env.Setenv("HOME", home)
	env.Setenv("PATH", suite.bin+":"+os.Getenv("PATH"))
	env.Setenv("REGISTRY", suite.registry)
	env.Setenv("BIN", suite.bin)
	env.Setenv("DOCS", filepath.Join(suite.repo, "docs"))
	env.Values[serversKey{}] = servers{}
	env.Defer(func() {
		if err := tearDown(env, root); err != nil {
			env.T().Log(err)
			env.T().FailNow()
		}
	})
	return nil
}

// tearDown removes all VMs and the daemon, and looks for what is still there.
func tearDown(env *testscript.Env, root string) error {
	if _, err := os.Stat(root); err != nil {
		return nil
	}
	banger := func(args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, filepath.Join(suite.bin, "banger"), args...)
		cmd.Env = env.Vars
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("banger %s: %w: %s", strings.Join(args, " "), err, out)
		}
		return string(out), err
	}
	vms, err := banger("vm", "ls", "-q")
	if err != nil {
		return err
	}
	if names := strings.Fields(vms); len(names) > 0 {
		if _, err := banger(append([]string{"vm", "rm", "--force", "--"}, names...)...); err != nil {
			return err
		}
	}
	if _, err := banger("daemon", "stop", "--force"); err != nil {
		return err
	}
	layout, err := state.Locate(env.Getenv)
	if err != nil {
		return err
	}
	if left, _ := filepath.Glob(layout.Run + "*"); len(left) > 0 {
		return fmt.Errorf("left behind: %v", left)
	}
	return nothingLeft(root)
}

// nothingLeft reports processes that name the root, and unfinished files in it.
func nothingLeft(root string) error {
	var left []string
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		b, _ := os.ReadFile(p)
		line := strings.ReplaceAll(string(b), "\x00", " ")
		if strings.Contains(line, root+"/") && !strings.Contains(line, "e2e.test") {
			left = append(left, p+": "+line)
		}
	}
	scratch := filepath.Join(root, "cache", state.ScratchDir)
	_ = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err == nil && (strings.HasPrefix(e.Name(), ".tmp-") || strings.HasPrefix(e.Name(), ".trash-") || filepath.Dir(path) == scratch) {
			left = append(left, path)
		}
		return nil
	})
	if len(left) > 0 {
		return fmt.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
	return nil
}

// seed gives the script's root the pulled kernel and image.
func seed(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: seed")
	}
	root := ts.Getenv("BANGER_ROOT")
	ts.Check(os.MkdirAll(root, 0o700))
	for _, dir := range []string{state.KernelsDir, state.ImagesDir} {
		ts.Check(linkTree(filepath.Join(suite.base, dir), filepath.Join(root, dir)))
	}
	ts.Check(linkTree(filepath.Join(suite.base, "cache", state.BootDir), filepath.Join(root, "cache", state.BootDir)))
}

// linkTree copies a tree by hard links, or by content where those cannot be
// made. Records are copied: a script may spoil them.
func linkTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		dst := filepath.Join(to, rel)
		if e.IsDir() {
			return os.MkdirAll(dst, 0o700)
		}
		if e.Name() != state.ManifestFile && os.Link(path, dst) == nil {
			return nil
		}
		return copyFile(path, dst)
	})
}

func copyFile(from, to string) error {
	r, err := os.Open(from)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	return err
}

// waitFor runs a shell line until it succeeds, for at most a minute: for what
// happens in other processes without a word to us.
func waitFor(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: wait-for 'shell line'")
	}
	deadline := time.Now().Add(time.Minute)
	for {
		err := ts.Exec("sh", "-c", args[0])
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s: %v", args[0], err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
