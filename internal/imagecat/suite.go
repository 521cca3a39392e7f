package imagecat

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"banger"
	"banger/internal/hostcmd"
)

// Suite is a Debian root file system: the packages that Debian calls required,
// apt, and some more. It is made for the architecture of this host.
type Suite struct {
	Suite    string   `json:"suite"`    // bookworm
	Packages []string `json:"packages"` // beyond minbase, sorted
}

// SuiteOptions says where a suite is put together.
type SuiteOptions struct {
	// TempDir is an existing directory in which a subdirectory is made and
	// removed again. If programs may not run there, room is short, or the user
	// namespace that builds the root cannot enter it, /var/tmp and the
	// system's temporary directory are tried after it.
	TempDir string
}

// keyring is the one that every release of Debian is signed with, at the same
// place on the host and in the image.
const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// mergedUsr lays the links /bin -> /usr/bin and so on before anything is
// unpacked. Then usr-is-merged satisfies bookworm instead of usrmerge, which
// would bring all of Perl: 49 MB of 195.
const mergedUsr = "/usr/share/mmdebstrap/hooks/merged-usr"

// dpkgOptions keep documentation and translations out, as Debian's slim
// container images do, but licences in. The image itself does not keep the options.
var dpkgOptions = []string{
	"path-exclude=/usr/share/doc/*",
	"path-include=/usr/share/doc/*/copyright",
	"path-exclude=/usr/share/info/*",
	"path-exclude=/usr/share/locale/*",
	"path-include=/usr/share/locale/locale.alias",
	"path-exclude=/usr/share/man/*",
}

// finish undoes what mmdebstrap brought from the host or left for itself. The
// empty machine-id makes systemd generate one without calling it a first boot:
// on a first boot ("uninitialized", or no file) systemd-firstboot may ask
// questions on the console. The file is made anew because it is read-only, which
// counts for fakechroot. Root has no password, as base-passwd locks it.
//
// Host keys of an SSH server are made by the first boot of each machine, not by
// the package once for all of them.
const finish = `set -eu; rm -f "$1/etc/resolv.conf" "$1/etc/hostname" "$1/etc/machine-id" "$1/etc/dpkg/dpkg.cfg.d/99mmdebstrap"; : >"$1/etc/machine-id"
if [ -e "$1/usr/sbin/sshd" ]; then
	rm -f "$1"/etc/ssh/ssh_host_*_key "$1"/etc/ssh/ssh_host_*_key.pub
	mkdir -p "$1/etc/systemd/system/ssh.service.d"
	printf '[Service]\nExecStartPre=\nExecStartPre=/usr/bin/ssh-keygen -A\nExecStartPre=/usr/sbin/sshd -t\n' >"$1/etc/systemd/system/ssh.service.d/host-keys.conf"
fi`

// String names the suite as a source of an image: debian:bookworm.
func (s Suite) String() string { return "debian:" + s.Suite }

func (s Suite) check() error {
	if !suiteGrammar().MatchString(s.Suite) {
		return banger.Errorf(banger.Invalid, "bad suite %q", s.Suite)
	}
	for _, p := range s.Packages {
		if !IsPackage(p) {
			return banger.Errorf(banger.Invalid, "bad package name %q", p)
		}
	}
	return nil
}

// Open makes the root file system with mmdebstrap, as root or as an ordinary
// user, and streams it as a tar. There is no udev in it: a microVM's devices do
// not change, and devtmpfs makes their nodes.
//
// The stream is whole only if it ends with io.EOF; what goes wrong is the read
// error in its place, with the end of mmdebstrap's output. Close, or the end of
// ctx, ends mmdebstrap, waits for it and removes its directory.
//
// Errors: Unavailable, with a command as a hint, if the host lacks a program;
// Exhausted if no directory has room; Canceled if ctx ended.
func (s Suite) Open(ctx context.Context, o SuiteOptions) (io.ReadCloser, error) {
	r, err := s.open(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("make %s: %w", s, err)
	}
	return r, nil
}

func (s Suite) open(ctx context.Context, o SuiteOptions) (io.ReadCloser, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	if _, err := hostcmd.Look("mmdebstrap"); err != nil {
		return nil, err
	}
	if _, err := os.Stat(keyring); err != nil {
		return nil, banger.Errorf(banger.Unavailable, "read Debian's keys: %w", err).
			WithHint("apt-get install -y --no-install-recommends debian-archive-keyring")
	}
	mode, err := chooseMode(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := makeWorkDir(o.TempDir, mode)
	if err != nil {
		return nil, err
	}
	cmd := hostcmd.Cmd{
		Path: "mmdebstrap",
		Args: s.args(mode, mirrors(ctx, s.Suite)),
		Env:  append([]string{"TMPDIR=" + dir, "LC_ALL=C.UTF-8"}, proxies(ctx)...),
	}
	ctx, cancel := context.WithCancelCause(ctx)
	pr, pw := io.Pipe()
	cmd.Stdout = pw
	b := &build{suite: s, pipe: pr, cancel: cancel, done: make(chan struct{})}
	go b.run(ctx, cmd, pw, func() error { return removeWorkDir(ctx, dir, mode) })
	return b, nil
}

// args is the command line. The sources go into the image's sources.list too.
func (s Suite) args(mode string, mirrors []string) []string {
	args := []string{"--mode=" + mode, "--format=tar", "--variant=minbase"}
	for _, o := range dpkgOptions {
		args = append(args, "--dpkgopt="+o)
	}
	if _, err := os.Stat(mergedUsr); err == nil {
		args = append(args, "--hook-dir="+mergedUsr)
	}
	if len(s.Packages) > 0 {
		args = append(args, "--include="+strings.Join(s.Packages, ","))
	}
	// Newer versions write "uninitialized" after the hook; older ones ignore the skip.
	args = append(args, "--customize-hook="+finish, "--skip=cleanup/reproducible/machine-id", s.Suite, "-")
	return append(args, mirrors...)
}

// build is a run of mmdebstrap that is being read.
type build struct {
	suite  Suite
	pipe   *io.PipeReader
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when mmdebstrap is gone and its directory too
	left   error         // why something was left behind; valid after done
}

func (b *build) run(ctx context.Context, cmd hostcmd.Cmd, pw *io.PipeWriter, remove func() error) {
	defer close(b.done)
	err := hostcmd.Run(ctx, cmd)
	b.left = remove()
	switch {
	case err == nil:
		err = b.left
	case ctx.Err() != nil:
		err = banger.Errorf(banger.Canceled, "make %s: %w", b.suite, context.Cause(ctx))
	case strings.Contains(err.Error(), "No space left on device"):
		err = banger.Errorf(banger.Exhausted, "make %s: %w", b.suite, err).WithHint("make room on the disk of /var/tmp, or set TMPDIR")
	default:
		err = banger.Errorf(banger.Unavailable, "make %s: %w", b.suite, err)
	}
	pw.CloseWithError(err) // nil is io.EOF
}

func (b *build) Read(p []byte) (int, error) { return b.pipe.Read(p) }

// Close is idempotent.
func (b *build) Close() error {
	b.cancel(os.ErrClosed)
	err := b.pipe.Close()
	<-b.done
	return errors.Join(err, b.left)
}
