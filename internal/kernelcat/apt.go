package kernelcat

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	"banger"
	"banger/internal/hostcmd"
)

// debArchs maps uname -m to Debian's name of the architecture.
var debArchs = map[string]string{"x86_64": "amd64", "aarch64": "arm64"}

// aptConfig makes apt work in a folder of its own (%[1]s), for one
// architecture (%[2]s). It is read after the host's configuration, of which
// proxies, credentials and certificates stay in force; what would tie the
// result to this host, or run its hooks, is taken out. Signatures must be good
// whatever the host says.
const aptConfig = `
Dir::State "%[1]s/";
Dir::State::lists "%[1]s/lists/";
Dir::State::status "%[1]s/status";
Dir::State::extended_states "%[1]s/extended_states";
Dir::Cache "%[1]s/cache/";
Dir::Cache::pkgcache "pkgcache.bin";
Dir::Cache::srcpkgcache "";
Dir::Etc::sourcelist "%[1]s/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Architecture "%[2]s";
#clear APT::Architectures;
APT::Architectures { "%[2]s"; };
#clear APT::Default-Release;
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Update::Error-Mode "any"; // or a part that is missing is only a warning
APT::Get::AllowUnauthenticated "false";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::Languages "none";
Acquire::GzipIndexes "false"; // twice as fast to read, and soon deleted
Acquire::Retries "1"; // each retry without a network doubles the wait
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
`

// mirror is one line of apt's sources.
type mirror struct{ uri, suite string }

// aptEnv makes apt speak English, which banger reads.
var aptEnv = []string{"LC_ALL=C"}

// apt is an apt of our own: state, cache and sources are in one folder, so it
// needs no root, and what the host has downloaded or installed does not matter.
type apt struct {
	dir     string
	mirrors []mirror
}

// names that may stand in a source line or an argument of apt.
var (
	packageName    = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)
	packageVersion = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.+:~-]*$`)
)

// noRelease is what apt says of a suite that the archive does not have.
var noRelease = regexp.MustCompile(`The repository '(\S+) (\S+) Release' does not have a Release file`)

// newApt sets up an apt in dir, which must not exist.
func newApt(dir, arch, keyring string, mirrors []mirror) (*apt, error) {
	if strconv.Quote(dir) != `"`+dir+`"` {
		return nil, banger.Errorf(banger.Invalid, "apt cannot work in %q: quotes and control characters have no place in its configuration", dir)
	}
	for _, d := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	var sources strings.Builder
	for _, m := range mirrors {
		fmt.Fprintf(&sources, "deb [arch=%s target=Packages lang=none signed-by=%s] %s %s main\n", arch, keyring, m.uri, m.suite)
	}
	for name, text := range map[string]string{
		"apt.conf":     fmt.Sprintf(aptConfig, dir, arch),
		"sources.list": sources.String(),
		"status":       "",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	return &apt{dir: dir, mirrors: mirrors}, nil
}

// run runs one of apt's programs and gives its errors their kind.
func (a *apt) run(ctx context.Context, c hostcmd.Cmd) error {
	c.Env = aptEnv
	c.Args = append([]string{"-c", filepath.Join(a.dir, "apt.conf")}, c.Args...)
	err := hostcmd.Run(ctx, c)
	if err == nil {
		return nil
	}
	if e := (*banger.Error)(nil); errors.As(err, &e) || ctx.Err() != nil {
		return err
	}
	said := aptSaid(err)
	switch {
	case strings.Contains(said, "No space left on device") || strings.Contains(said, "enough free space"):
		return fail(banger.Exhausted, errors.Join(syscall.ENOSPC, err), "%s", said).
			WithHint("free some space where %s is", filepath.Dir(filepath.Dir(a.dir)))
	case strings.Contains(said, "No packages found") || strings.Contains(said, "Unable to locate package"):
		return fail(banger.NotFound, err, "%s", said)
	case noRelease.MatchString(said):
		m := noRelease.FindStringSubmatch(said)
		return fail(banger.NotFound, err, "%s has no suite %s", m[1], m[2]).
			WithHint("suites are for instance bookworm, trixie and sid of Debian, noble of Ubuntu")
	}
	return fail(banger.Unavailable, err, "%s", said).
		WithHint("check that this host reaches %s; a proxy is taken from http_proxy or /etc/apt/apt.conf.d", a.mirrors[0].uri)
}

// aptSaid takes apt's own message, its lines "E: ...", out of an error.
func aptSaid(err error) string {
	var said []string
	for line := range strings.SplitSeq(err.Error(), "\n") {
		// That some files failed says nothing beside which and why.
		if e, ok := strings.CutPrefix(line, "E: "); ok && !strings.HasPrefix(e, "Some index files failed") {
			said = append(said, strings.Join(strings.Fields(e), " "))
		}
	}
	if len(said) == 0 {
		return err.Error()
	}
	return "apt: " + strings.Join(said, "; ")
}

// update fetches the lists of packages, about 9 MB, and checks their signatures.
func (a *apt) update(ctx context.Context) error {
	if err := a.run(ctx, hostcmd.Cmd{Path: "apt-get", Args: []string{"-q", "update"}}); err != nil {
		return err
	}
	// An apt older than Error-Mode only warns when nothing can be reached.
	lists, err := filepath.Glob(filepath.Join(a.dir, "lists", "*_Packages*"))
	if err == nil && len(lists) == 0 {
		err = banger.Errorf(banger.Unavailable, "apt got no list of packages from %s", a.mirrors[0].uri).
			WithHint("check that this host reaches it")
	}
	return err
}

// lines is a writer that calls itself with each full line written to it.
type lines struct {
	each func(string)
	rest string
}

func (l *lines) Write(b []byte) (int, error) {
	l.rest += string(b)
	for {
		line, rest, ok := strings.Cut(l.rest, "\n")
		if !ok {
			break
		}
		l.rest = rest
		l.each(line)
	}
	if len(l.rest) > maxLine {
		l.rest = "" // no line of a program we run is that long
	}
	return len(b), nil
}

// maxLine bounds an unfinished line of a program's output.
const maxLine = 64 << 10
