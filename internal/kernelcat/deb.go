package kernelcat

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"banger"
	"banger/internal/hostcmd"
)

// Bounds on the walk from a meta package to what it stands for.
const (
	maxPackages = 8
	// A meta package installs a changelog and a copyright notice, at most. The
	// smallest that matters has the lists of what is built in, 600 KB.
	metaSize = 128 << 10
)

// deb is one package, as the archive describes it.
type deb struct {
	name, version string
	size          int64 // bytes of the .deb
	installed     int64 // bytes when unpacked
	depends       []want
}

// want is a package another one depends on; version may be empty.
type want struct{ name, version string }

func (w want) String() string {
	if w.version == "" {
		return w.name
	}
	return w.name + "=" + w.version
}

// debSource is a kernel in an archive of Debian packages.
type debSource struct {
	pkg   string // an image package, or a meta package that depends on one
	suite string // code name of the release; empty: that of the host
}

func parseDeb(u *url.URL) (Source, error) {
	s := debSource{pkg: u.Host, suite: u.Query().Get("suite")}
	q := u.Query()
	q.Del("suite")
	more := u.User != nil || u.Path != "" || u.Fragment != "" || len(q) > 0 // a mistyped word must not lead to another suite
	if more || !packageName.MatchString(s.pkg) || s.suite != "" && !packageName.MatchString(s.suite) {
		return nil, banger.Errorf(banger.Invalid, "%.200q names no package", u).
			WithHint("want deb://PACKAGE or deb://PACKAGE?suite=SUITE, for instance deb://linux-image-cloud-amd64?suite=bookworm")
	}
	return s, nil
}

func (s debSource) String() string {
	if s.suite == "" {
		return "deb://" + s.pkg
	}
	return "deb://" + s.pkg + "?suite=" + s.suite
}

// DefaultName is the package's name, with that of the suite if it has one.
func (s debSource) DefaultName() string {
	if s.suite == "" {
		return nameFrom(s.pkg)
	}
	return nameFrom(s.pkg + "-" + s.suite)
}

// fill gets the packages through the host's apt and installs nothing.
func (s debSource) fill(ctx context.Context, f *filling) (origin, error) {
	arch := debArchs[f.arch]
	if arch == "" {
		return origin{}, banger.Errorf(banger.Unsupported, "Debian packages for %s are not known to banger", f.arch)
	}
	suite, err := f.options.suite(s.suite)
	if err != nil {
		return origin{}, err
	}
	keyring, err := suite.keyring(f.options.keyrings)
	if err != nil {
		return origin{}, err
	}
	f.report("find "+s.pkg, 0, 0)
	a, debs, err := s.find(ctx, f, suite, arch, keyring)
	if err != nil {
		return origin{}, fmt.Errorf("find %s in %s: %w", s.pkg, suite.name, err)
	}
	files, err := a.download(ctx, debs, filepath.Join(f.tmp, "debs"), f.report)
	if err != nil {
		return origin{}, err
	}
	from := origin{distro: suite.distro.name}
	for i, d := range debs {
		had := f.bundle.vmlinuzSize
		if err := unpackDeb(ctx, d, files[i], f); err != nil {
			return origin{}, fmt.Errorf("unpack %s: %w", d.name, err)
		}
		if from.source == "" || f.bundle.vmlinuzSize > had {
			from.source = "deb:" + d.name + "=" + d.version
		}
	}
	if f.bundle.vmlinuzSize == 0 {
		return origin{}, banger.Errorf(banger.Invalid, "%s holds no kernel", from.source).
			WithHint("a kernel is in packages linux-image-*; for instance deb://linux-image-cloud-amd64")
	}
	return from, nil
}

// find finds the packages of a kernel with the mirrors that the host uses, and
// failing that with the distribution's own.
func (s debSource) find(ctx context.Context, f *filling, in suite, arch, keyring string) (*apt, []deb, error) {
	tries := [][]mirror{in.defaultMirrors()}
	if host := in.hostMirrors(ctx, hostSuite(f.options.osRelease)); host != nil && !slices.Equal(host, tries[0]) {
		tries = [][]mirror{host, tries[0]}
	}
	var first error
	for i, mirrors := range tries {
		a, err := newApt(filepath.Join(f.tmp, "apt"+strconv.Itoa(i)), arch, keyring, mirrors)
		if err != nil {
			return nil, nil, err
		}
		if err = a.update(ctx); err == nil {
			var debs []deb
			if debs, err = a.resolve(ctx, s.pkg); err == nil {
				return a, debs, nil
			}
		}
		if first == nil {
			first = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, nil, first
}

// resolve follows a meta package to the packages that hold kernel and modules.
func (a *apt) resolve(ctx context.Context, pkg string) ([]deb, error) {
	var debs []deb
	todo := []want{{name: pkg}}
	for seen := 0; seen < len(todo); seen++ {
		if seen == maxPackages {
			return nil, banger.Errorf(banger.Invalid, "%s depends on more than %d kernel packages", pkg, maxPackages)
		}
		d, err := a.show(ctx, todo[seen])
		if err != nil {
			return nil, err
		}
		if d.installed >= metaSize {
			debs = append(debs, d)
		}
		for _, w := range d.depends {
			if !slices.ContainsFunc(todo, func(t want) bool { return t.name == w.name }) {
				todo = append(todo, w)
			}
		}
	}
	if len(debs) == 0 {
		return nil, banger.Errorf(banger.NotFound, "%s neither is a kernel nor depends on one", pkg)
	}
	return debs, nil
}

// show reads what the archive says about a package.
func (a *apt) show(ctx context.Context, w want) (deb, error) {
	var out bytes.Buffer
	c := hostcmd.Cmd{Path: "apt-cache", Args: []string{"show", "--no-all-versions", w.String()}, Stdout: &out}
	err := a.run(ctx, c)
	if err != nil && !banger.IsKind(err, banger.NotFound) {
		return deb{}, err
	}
	d := parseStanza(out.String())
	if err != nil || d.name != w.name || w.version != "" && d.version != w.version || !packageVersion.MatchString(d.version) {
		return deb{}, banger.Errorf(banger.NotFound, "the archive has no package %s", w).
			WithHint("look for one: apt-cache search --names-only '^linux-image-'")
	}
	return d, nil
}

// parseStanza reads the first stanza of a Packages file.
// Format: deb-control(5) and Debian policy, chapter 5.
func parseStanza(s string) deb {
	var d deb
	s, _, _ = strings.Cut(s, "\n\n")
	for line := range strings.SplitSeq(s, "\n") {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch key {
		case "Package":
			d.name = value
		case "Version":
			d.version = value
		case "Size":
			d.size, _ = strconv.ParseInt(value, 10, 64)
		case "Installed-Size": // in KiB
			kib, _ := strconv.ParseInt(value, 10, 32)
			d.installed = kib << 10
		case "Depends", "Pre-Depends":
			d.depends = append(d.depends, kernelDepends(value)...)
		}
	}
	return d
}

// kernelPrefixes begin the names of packages that a kernel is made of. Ubuntu
// has the modules in a package of their own; Debian 14 the kernel (binary) and
// what it says about itself (base) too.
var kernelPrefixes = []string{"linux-image-", "linux-modules-", "linux-binary-", "linux-base-"}

// kernelDepends keeps those dependencies that are kernel packages, the first
// of alternatives, and their versions where one exact version is asked for.
func kernelDepends(s string) []want {
	var wants []want
	for dep := range strings.SplitSeq(s, ",") {
		dep, _, _ = strings.Cut(dep, "|")
		name, relation, _ := strings.Cut(strings.TrimSpace(dep), " ")
		ofKernel := slices.ContainsFunc(kernelPrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
		if !ofKernel || !packageName.MatchString(name) {
			continue
		}
		w := want{name: name}
		if v, ok := strings.CutPrefix(relation, "(= "); ok {
			v = strings.TrimSuffix(v, ")")
			if !packageVersion.MatchString(v) {
				continue
			}
			w.version = v
		}
		wants = append(wants, w)
	}
	return wants
}

// download gets the packages into dir, checked by apt, and returns their files.
func (a *apt) download(ctx context.Context, debs []deb, dir string, report func(step string, done, total int64)) ([]string, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	files := make([]string, 0, len(debs))
	for _, d := range debs {
		step := fmt.Sprintf("download %s (%d MB)", d.name, (d.size+500_000)/1_000_000)
		report(step, 0, d.size)
		// apt writes "dlstatus:FILE:PERCENT:TEXT" lines to that descriptor.
		status := &lines{each: func(line string) {
			if f := strings.SplitN(line, ":", 4); len(f) == 4 && f[0] == "dlstatus" {
				if percent, err := strconv.ParseFloat(f[2], 64); err == nil && percent >= 0 && percent <= 100 {
					report(step, int64(float64(d.size)*percent/100), d.size)
				}
			}
		}}
		c := hostcmd.Cmd{Path: "apt-get", Dir: dir, Stdout: status,
			Args: []string{"-q", "-o", "APT::Status-Fd=1", "download", d.name + "=" + d.version}}
		if err := a.run(ctx, c); err != nil {
			return nil, fmt.Errorf("download %s: %w", d.name, err)
		}
		found, err := filepath.Glob(filepath.Join(dir, d.name+"_*.deb"))
		if err != nil || len(found) != 1 {
			return nil, banger.Errorf(banger.Unavailable, "download %s: apt left %d files", d.name, len(found))
		}
		files = append(files, found[0])
	}
	return files, nil
}

// unpackDeb streams a package's content into the bundle.
func unpackDeb(ctx context.Context, d deb, file string, f *filling) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pr, pw := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The reader sees dpkg-deb's error where it would see the end.
		pw.CloseWithError(hostcmd.Run(ctx, hostcmd.Cmd{Path: "dpkg-deb", Args: []string{"--fsys-tarfile", file}, Stdout: pw}))
	}()
	step := "unpack " + d.name
	f.report(step, 0, d.installed)
	err := f.bundle.addTar(&meter{r: pr, report: func(n int64) { f.report(step, n, max(n, d.installed)) }})
	pr.CloseWithError(err)
	cancel()
	<-done
	return err
}
