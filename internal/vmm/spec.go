package vmm

import (
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"banger"
)

// minMemory is what Debian's kernel and an initrd with modules need to boot.
const minMemory = 64 << 20

// MaxOwnWords bounds what a driver adds to the kernel's command line, in bytes
// with the spaces: whoever makes a Spec can tell whether all of it will fit.
const MaxOwnWords = 300

// Spec is one machine to start.
type Spec struct {
	ID      string   // [a-z0-9][a-z0-9-]{0,62}
	CPUs    int      // virtual CPUs, 1 to 255
	Memory  int64    // bytes, rounded up to whole MiB
	Kernel  string   // path of the vmlinux
	Initrd  string   // path, empty: none
	Cmdline []string // kernel words that hold for every driver; the driver puts its own, at most MaxOwnWords bytes, before them
	Disks   []Disk   // vda, vdb, ... in this order
	Net     *Net     // nil: no network card
	// RunDir holds the machine's sockets: it exists with mode 0700, belongs to
	// this machine alone and its path is short (a socket's path has 108 bytes).
	RunDir string
	Accel  string // auto (or empty), kvm or tcg
	// Console gets all serial output, from one goroutine of the driver. A
	// Write that waits stalls the guest's serial port, never the VMM; one that
	// fails ends the output, not the machine. nil throws the output away.
	Console io.Writer
	// Keys is what is typed on the serial console. It is read while the machine
	// runs, as the guest takes it; whoever made it may close it after Start.
	Keys *os.File `json:"-"`
}

// Disk is one raw disk image. Read-only images may be shared by machines; a
// writable one is locked for as long as its machine lives.
type Disk struct {
	Path     string
	ReadOnly bool
}

// Net is a user-mode network: the guest reaches out, nothing reaches in.
type Net struct {
	Guest   netip.Prefix     // the guest's address and its network
	Gateway netip.Addr       // in that network
	DNS     netip.Addr       // in that network: forwards to the host's resolver
	MAC     net.HardwareAddr // of the guest's card
}

var idRE = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`) })

// Validate checks everything that holds for all drivers. Its errors are Invalid.
func (s *Spec) Validate() error {
	invalid := func(format string, args ...any) error {
		return banger.Errorf(banger.Invalid, format, args...)
	}
	switch {
	case !idRE().MatchString(s.ID):
		return invalid("machine id %q: want [a-z0-9][a-z0-9-]{0,62}", s.ID)
	case s.CPUs < 1 || s.CPUs > 255:
		return invalid("machine of %d CPUs: want 1 to 255", s.CPUs)
	case s.Memory < minMemory:
		return invalid("machine of %d bytes of memory: want at least %d MiB", s.Memory, minMemory>>20)
	}
	switch s.Accel {
	case "", AccelAuto, AccelKVM, AccelTCG:
	default:
		return invalid("accelerator %q: want auto, kvm or tcg", s.Accel)
	}
	paths := []string{s.Kernel, s.RunDir}
	if s.Initrd != "" {
		paths = append(paths, s.Initrd)
	}
	for _, d := range s.Disks {
		paths = append(paths, d.Path)
	}
	for _, p := range paths {
		// Absolute paths cannot be taken for an option or a protocol prefix.
		if !filepath.IsAbs(p) || strings.ContainsFunc(p, isControl) {
			return invalid("path %q: want an absolute path without control characters", p)
		}
	}
	for _, w := range s.Cmdline {
		// A space would make two words of it, a quote would swallow the next.
		if w == "" || strings.ContainsAny(w, " \"") || strings.ContainsFunc(w, isControl) {
			return invalid("kernel word %q: want no space, quote or control character", w)
		}
	}
	fi, err := os.Stat(s.RunDir)
	if err != nil {
		return invalid("open run directory: %w", err)
	}
	if !fi.IsDir() || fi.Mode().Perm()&0o077 != 0 {
		return invalid("run directory %q: want a directory of mode 0700, not %v", s.RunDir, fi.Mode())
	}
	return s.Net.validate()
}

func (n *Net) validate() error {
	if n == nil {
		return nil
	}
	guest, subnet := n.Guest.Addr(), n.Guest.Masked()
	switch {
	case !n.Guest.IsValid() || !guest.Is4():
		return banger.Errorf(banger.Invalid, "guest address %v: want IPv4/bits", n.Guest)
	case !subnet.Contains(n.Gateway) || !subnet.Contains(n.DNS):
		return banger.Errorf(banger.Invalid, "gateway %v and DNS %v: want both in %v", n.Gateway, n.DNS, subnet)
	case guest == n.Gateway || guest == n.DNS || n.Gateway == n.DNS:
		return banger.Errorf(banger.Invalid, "guest %v, gateway %v and DNS %v: want three addresses", guest, n.Gateway, n.DNS)
	case len(n.MAC) != 6 || n.MAC[0]&1 != 0:
		return banger.Errorf(banger.Invalid, "hardware address %v: want six bytes, not multicast", n.MAC)
	}
	return nil
}

func isControl(r rune) bool { return r < 0x20 || r == 0x7f }
