package kernelcat

import (
	"bufio"
	"context"
	"io"
	"os"
	"slices"
	"strings"

	"banger"
	"banger/internal/hostcmd"
)

// distro is a distribution with an archive of Debian packages.
type distro struct {
	name     string
	keyrings []string // where Debian and Ubuntu keep its keys, the first that exists is used
	keyPkg   string   // the package with them
	keyNote  string   // which distributions have it, if not both in all releases
	main     string   // URI of its archive; http, since the signatures protect it and caching proxies see it
	pockets  []string // suffixes of the suites that its kernels are in
	security string   // URI of the last pocket, where that is another one
}

// The distributions whose packages banger takes.
var (
	debian = distro{
		name: "debian", keyPkg: "debian-archive-keyring",
		keyrings: []string{"/usr/share/keyrings/debian-archive-keyring.pgp", "/usr/share/keyrings/debian-archive-keyring.gpg"},
		main:     "http://deb.debian.org/debian/", security: "http://deb.debian.org/debian-security/",
		pockets: []string{"", "-security"},
	}
	ubuntu = distro{
		name: "ubuntu", keyPkg: "ubuntu-keyring", keyNote: " (Ubuntu, and Debian since 13)",
		keyrings: []string{"/usr/share/keyrings/ubuntu-archive-keyring.gpg"},
		main:     "http://archive.ubuntu.com/ubuntu/", security: "http://security.ubuntu.com/ubuntu/",
		pockets: []string{"", "-updates", "-security"},
	}
)

// ubuntuSuites are the releases of Ubuntu that are supported today. Any other
// suite is taken for one of Debian, unless it is that of the host.
var ubuntuSuites = []string{"focal", "jammy", "noble", "plucky", "questing", "resolute"}

// suite is one release of a distribution.
type suite struct {
	distro
	name string
}

// suite finds what the user means: by its name, or without one that of the host.
func (o *Options) suite(name string) (suite, error) {
	host := hostSuite(o.osRelease)
	switch {
	case name == "" && host.name == "":
		return suite{}, banger.Errorf(banger.Invalid, "this host is neither Debian nor Ubuntu: which suite is meant is not known").
			WithHint("name it, for instance deb://linux-image-cloud-amd64?suite=bookworm")
	case name == "" || name == host.name:
		return host, nil
	case slices.Contains(ubuntuSuites, name):
		return suite{ubuntu, name}, nil
	}
	return suite{debian, name}, nil
}

// hostSuite is the suite that the host's packages come from, as far as its
// os-release(5) says; a distribution derived from Ubuntu names Ubuntu's.
func hostSuite(osRelease string) suite {
	f, err := os.Open(osRelease)
	if err != nil {
		return suite{}
	}
	defer f.Close()
	vars := osReleaseVars(f)
	switch name := vars["UBUNTU_CODENAME"]; {
	case packageName.MatchString(name):
		return suite{ubuntu, name}
	case vars["ID"] == "debian" && packageName.MatchString(vars["VERSION_CODENAME"]):
		return suite{debian, vars["VERSION_CODENAME"]}
	}
	return suite{}
}

// osReleaseVars are the variables of an os-release(5) file.
func osReleaseVars(r io.Reader) map[string]string {
	vars := map[string]string{}
	for lines := bufio.NewScanner(io.LimitReader(r, 64<<10)); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), "="); ok {
			vars[name] = strings.Trim(value, `"'`)
		}
	}
	return vars
}

// keyring is the host's copy of the archive's keys. The suite, not the host,
// says who signs: a mirror named by the host is held to the same keys.
func (s suite) keyring(instead []string) (string, error) {
	keyrings := s.keyrings
	if instead != nil {
		keyrings = instead
	}
	for _, k := range keyrings {
		if _, err := os.Stat(k); err == nil {
			return k, nil
		}
	}
	return "", banger.Errorf(banger.Unavailable, "the keys of %s's archive are not on this host", s.distro.name).
		WithHint("apt-get install -y --no-install-recommends %s%s", s.keyPkg, s.keyNote)
}

// has reports whether the suite has a pocket: Debian's unstable and backports
// have no updates of their own.
func (s suite) has(pocket string) bool {
	if pocket != "" && (slices.Contains(alone, s.name) || strings.Contains(s.name, "-")) {
		return false
	}
	return slices.Contains(s.pockets, pocket)
}

// alone are Debian's suites that security updates go to directly.
var alone = []string{"sid", "unstable", "experimental", "rc-buggy"}

// defaultMirrors are the distribution's own names for its archive.
func (s suite) defaultMirrors() []mirror {
	var all []mirror
	for _, pocket := range s.pockets {
		m := mirror{s.main, s.name + pocket}
		if pocket == "-security" {
			m.uri = s.security
		}
		if s.has(pocket) {
			all = append(all, m)
		}
	}
	return all
}

// hostMirrors are the mirrors that the host's own sources have for the suite,
// or, where they do not have it, those for the suite of the host, if that is
// of the same distribution: a mirror seldom has only one. None if the sources
// cannot be read: then the default ones serve.
func (s suite) hostMirrors(ctx context.Context, host suite) []mirror {
	out, err := hostcmd.Output(ctx, hostcmd.Cmd{Path: "apt-get", Env: aptEnv,
		Args: []string{"indextargets", "--no-release-info", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"}})
	if err != nil {
		return nil
	}
	found := s.mirrorsIn(string(out), s)
	if found == nil && host.distro.name == s.distro.name {
		found = s.mirrorsIn(string(out), host)
	}
	return found
}

// mirrorsIn takes the mirrors that the host's sources have for suite like as
// those of s: none without one for its first pocket.
func (s suite) mirrorsIn(sources string, like suite) []mirror {
	var found []mirror
	whole := false
	for line := range strings.SplitSeq(sources, "\n") {
		f := strings.Fields(line)
		if len(f) != 3 || f[2] != "main" || strings.HasPrefix(f[0], "cdrom:") || strings.ContainsAny(f[0], "[]#") {
			continue
		}
		pocket, ok := strings.CutPrefix(f[1], like.name)
		m := mirror{f[0], s.name + pocket}
		if !ok || !like.has(pocket) || !s.has(pocket) || slices.Contains(found, m) {
			continue
		}
		whole = whole || pocket == ""
		found = append(found, m)
	}
	if !whole {
		return nil
	}
	return found
}
