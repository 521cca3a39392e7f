package daemon

import (
	"cmp"
	"path"
	"regexp"
	"strings"
	"sync"
	"unicode"

	"golang.org/x/crypto/ssh"

	"banger"
	"banger/internal/state"
)

// Bounds of what a guest is told of itself: all of it is one line of the
// handshake, see hello.MaxOK.
const (
	maxGuestEnv  = 64 << 10 // bytes
	maxGuestKeys = 64 << 10 // bytes
	maxLabels    = 64
	maxLabel     = 256 // bytes of a value
)

var labelName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?$`) })

// hostname is the guest's name for itself.
func hostname(s banger.VMSpec) string { return cmp.Or(s.Hostname, s.Name) }

// checkGuest checks what the guest is to be told, and the labels.
func checkGuest(s banger.VMSpec) error {
	if s.Hostname != "" && state.ValidateVMName(s.Hostname) != nil {
		return banger.Errorf(banger.Invalid, "bad host name %q", s.Hostname).
			WithHint("use 1 to 63 lower-case letters, digits and hyphens, no leading hyphen")
	}
	if s.WorkingDir != "" && (!path.IsAbs(s.WorkingDir) || !isText(s.WorkingDir) || len(s.WorkingDir) > 4096) {
		return banger.Errorf(banger.Invalid, "bad working directory %q: want an absolute path", s.WorkingDir)
	}
	if !isText(s.User) || len(s.User) > 256 || strings.ContainsAny(s.User, " \t") {
		return banger.Errorf(banger.Invalid, "bad user %q: want user or user:group, names or numbers", s.User)
	}
	size := 0
	for _, e := range s.Env {
		name, _, ok := strings.Cut(e, "=")
		if !ok || name == "" || strings.ContainsRune(e, 0) {
			return banger.Errorf(banger.Invalid, "bad environment variable %q: want NAME=value", e)
		}
		size += len(e)
	}
	if size > maxGuestEnv {
		return banger.Errorf(banger.Invalid, "an environment of %d bytes: want at most %d", size, maxGuestEnv)
	}
	size = 0
	for _, k := range s.AuthorizedKeys {
		if _, _, _, _, err := ssh.ParseAuthorizedKey([]byte(k)); err != nil {
			return banger.Errorf(banger.Invalid, "bad SSH key %.40q: want a line as in authorized_keys", k)
		}
		size += len(k)
	}
	if size > maxGuestKeys {
		return banger.Errorf(banger.Invalid, "SSH keys of %d bytes: want at most %d", size, maxGuestKeys)
	}
	if err := checkFiles(s.Files); err != nil {
		return err
	}
	if err := checkWaits(s.WaitFor); err != nil {
		return err
	}
	return checkLabels(s.Labels)
}

func checkLabels(labels map[string]string) error {
	if len(labels) > maxLabels {
		return banger.Errorf(banger.Invalid, "%d labels: want at most %d", len(labels), maxLabels)
	}
	for name, value := range labels {
		if len(name) > 128 || !labelName().MatchString(name) {
			return banger.Errorf(banger.Invalid, "bad label %q", name).WithHint("use letters, digits, dots, hyphens, underscores and slashes")
		}
		if len(value) > maxLabel || !isText(value) {
			return banger.Errorf(banger.Invalid, "bad value of label %q: want at most %d bytes of text", name, maxLabel)
		}
	}
	return nil
}

// isText reports whether s can be shown as it is.
func isText(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) < 0
}
