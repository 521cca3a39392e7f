package imagecat

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"banger"
	"banger/internal/hostcmd"
)

// The ways of mmdebstrap to own a root file system.
const (
	modeUnshare    = "unshare"    // in namespaces of its own; a user namespace too unless root
	modeRoot       = "root"       // as root without namespaces, hence without mounts
	modeFakechroot = "fakechroot" // by LD_PRELOAD, for users without subordinate ids
)

// minRoom is the free space a suite is not started without, in bytes: the
// unpacked root (150 MB), the packages (60 MB) and apt's lists (60 MB), twice.
const minRoom = 512 << 20

// chooseMode asks mmdebstrap itself whether namespaces work here: that needs
// newuidmap, entries in /etc/subuid and /etc/subgid and a kernel that lets the
// user make namespaces, or CAP_SYS_ADMIN for root. Root prefers them too,
// because mounts in a mount namespace cannot outlive a killed mmdebstrap; where
// root may not make one it cannot mount either.
func chooseMode(ctx context.Context) (string, error) {
	probe, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	_, err := hostcmd.Output(probe, hostcmd.Cmd{Path: "mmdebstrap", Args: []string{"--unshare-helper", "true"}})
	if ctx.Err() != nil {
		return "", banger.Errorf(banger.Canceled, "%w", context.Cause(ctx))
	}
	if err == nil {
		return modeUnshare, nil
	}
	if os.Geteuid() == 0 {
		return modeRoot, nil
	}
	_, ferr := exec.LookPath("fakechroot")
	_, kerr := exec.LookPath("fakeroot")
	if ferr == nil && kerr == nil {
		return modeFakechroot, nil
	}
	return "", banger.Errorf(banger.Unavailable, "neither user namespaces nor fakechroot can be used: %w", err).WithHint("%s", modeHint())
}

// modeHint is the shortest way for root to let this user make a suite.
func modeHint() string {
	if _, err := hostcmd.Look("newuidmap"); err != nil {
		return "apt-get install -y --no-install-recommends uidmap"
	}
	u, err := user.Current()
	if err == nil && !hasSubordinates("/etc/subuid", u) {
		return fmt.Sprintf("usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %s", u.Username)
	}
	return "apt-get install -y --no-install-recommends fakechroot fakeroot"
}

// hasSubordinates reports whether a file such as /etc/subuid names the user.
func hasSubordinates(path string, u *user.User) bool {
	b, _ := os.ReadFile(path)
	for line := range strings.Lines(string(b)) {
		if who, _, ok := strings.Cut(line, ":"); ok && (who == u.Username || who == u.Uid) {
			return true
		}
	}
	return false
}

// makeWorkDir makes a directory for mmdebstrap in the first place that suits.
func makeWorkDir(tempDir, mode string) (string, error) {
	var why []string
	kind := banger.Unavailable
	for _, base := range []string{tempDir, "/var/tmp", os.TempDir()} {
		if base == "" {
			continue
		}
		base, err := filepath.Abs(base)
		if err == nil {
			err = suits(base, mode)
		}
		var dir string
		if err == nil {
			dir, err = os.MkdirTemp(base, "banger-suite-")
		}
		if err != nil {
			if banger.IsKind(err, banger.Exhausted) {
				kind = banger.Exhausted
			}
			why = append(why, fmt.Sprintf("%s: %v", base, err))
			continue
		}
		// apt's sandbox user and the ids of a user namespace must get through, not look around.
		if err := os.Chmod(dir, 0o711); err != nil {
			_ = os.Remove(dir)
			return "", err
		}
		return dir, nil
	}
	return "", banger.Errorf(kind, "no directory to put a root file system together in: %s", strings.Join(why, "; ")).
		WithHint("set TMPDIR to a directory with %d MiB free in which programs may run", minRoom>>20)
}

// suits says what is wrong with a directory.
func suits(dir, mode string) error {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return err
	}
	const noexec = 0x8 // ST_NOEXEC of statfs(2)
	if fs.Flags&noexec != 0 {
		return fmt.Errorf("mounted noexec")
	}
	if free := fs.Bavail * uint64(fs.Bsize); free < minRoom {
		return banger.Errorf(banger.Exhausted, "%d MiB free, %d needed", free>>20, minRoom>>20)
	}
	if mode != modeUnshare || os.Geteuid() == 0 {
		return nil
	}
	// The ids of a user namespace are strangers to every directory above.
	for d := dir; ; d = filepath.Dir(d) {
		fi, err := os.Stat(d)
		if err != nil {
			return err
		}
		if fi.Mode()&0o001 == 0 {
			return fmt.Errorf("%s is closed to the ids of a user namespace", d)
		}
		if d == "/" {
			return nil
		}
	}
}

// removeWorkDir removes what mmdebstrap left: nothing if it ended by itself,
// a part of a root file system if it was killed.
func removeWorkDir(ctx context.Context, dir, mode string) error {
	// The work is over, whether ctx is or not; what it left must still go.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	err := os.RemoveAll(dir)
	if err == nil || mode != modeUnshare || os.Geteuid() == 0 {
		return err
	}
	// Files of subordinate ids can be removed only from inside such a namespace.
	herr := hostcmd.Run(ctx, hostcmd.Cmd{Path: "mmdebstrap", Args: []string{"--unshare-helper", "find", dir, "-mindepth", "2", "-delete"}})
	if err = os.RemoveAll(dir); err != nil && herr != nil {
		return herr
	}
	return err
}

// mirrors are the lines of sources.list: those of this host for the suite, its
// updates and its security fixes if it has them, else Debian's own.
func mirrors(ctx context.Context, suite string) []string {
	suites := []string{suite, suite + "-updates", suite + "-security"}
	lines := make([]string, 0, len(suites))
	found := hostMirrors(ctx)
	if found[suite] == "" {
		found = map[string]string{
			suites[0]: "http://deb.debian.org/debian",
			suites[1]: "http://deb.debian.org/debian",
			suites[2]: "http://deb.debian.org/debian-security",
		}
	}
	for _, s := range suites {
		if found[s] != "" {
			lines = append(lines, fmt.Sprintf("deb [signed-by=%s] %s %s main", keyring, found[s], s))
		}
	}
	return lines
}

// hostMirrors asks apt for the archives of Debian that it has lists of, by
// codename. That knows every form of sources file, and by the archive's signed
// Release file which is Debian's. A host without apt or lists has none.
func hostMirrors(ctx context.Context) map[string]string {
	found := map[string]string{}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return found
	}
	out, err := hostcmd.Output(ctx, hostcmd.Cmd{Path: "apt-get", Args: []string{
		"indextargets", "--format", "$(CODENAME) $(REPO_URI)", "Created-By: Packages", "Origin: Debian", "Component: main"}})
	if err != nil {
		return found
	}
	for line := range strings.Lines(string(out)) {
		codename, uri, _ := strings.Cut(strings.TrimSpace(line), " ")
		if found[codename] == "" && reachableFromGuest(uri) {
			found[codename] = strings.TrimSuffix(uri, "/")
		}
	}
	return found
}

// reachableFromGuest reports whether a guest can use the mirror as well: not if
// it is a file, or a cache on this machine, or holds a password.
func reachableFromGuest(uri string) bool {
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || strings.ContainsAny(uri, " \t[]") {
		return false
	}
	host := u.Hostname()
	ip, err := netip.ParseAddr(host)
	return host != "" && host != "localhost" && (err != nil || !ip.IsLoopback())
}

// proxies hands apt's own proxy on to the apt inside mmdebstrap, which does not
// read the host's configuration. The environment goes first, as it does with apt.
func proxies(ctx context.Context) []string {
	var env []string
	if _, err := exec.LookPath("apt-config"); err != nil {
		return nil
	}
	for _, scheme := range []string{"http", "https"} {
		if os.Getenv(scheme+"_proxy") != "" {
			continue
		}
		out, err := hostcmd.Output(ctx, hostcmd.Cmd{Path: "apt-config", Args: []string{
			"dump", "--format", "%v%n", "Acquire::" + scheme + "::Proxy"}})
		// Only the first line: those after it are exceptions for single hosts.
		line, _, _ := strings.Cut(string(out), "\n")
		if u, perr := url.Parse(line); err == nil && perr == nil && u.Host != "" {
			env = append(env, scheme+"_proxy="+line)
		}
	}
	return env
}
