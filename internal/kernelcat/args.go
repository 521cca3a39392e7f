package kernelcat

import (
	"strings"

	"banger"
)

// Limits of the words that a kernel's record and a VM's spec add to the command
// line, together. The kernel reads 2047 bytes of it (COMMAND_LINE_SIZE of x86
// and arm64), and banger's own words are kept a third of that. Of words that it
// does not know it takes 30 for its first process (CONFIG_INIT_ENV_ARG_LIMIT),
// and panics at one more.
const (
	MaxArgs     = 24
	MaxArgBytes = 256  // of one word
	MaxArgsSize = 1400 // bytes, with the spaces between them
)

// reserved are the words whose value is banger's business, and why. In names
// '-' is the same as '_', as it is for the kernel.
var reserved = map[string]string{
	"console": "the console is the VM's log; to see more in it: ignore_loglevel, or loglevel=7",
	"ip":      "the network is what --net says", "nfsaddrs": "the network is what --net says",
	"init":   "the first process is banger's, which hands over to what --init says",
	"rdinit": "the first process is banger's, which hands over to what --init says",
	"initrd": "the initrd belongs to the kernel", "noinitrd": "the initrd belongs to the kernel",
	"panic": "a panic must end the machine", "reboot": "a reboot must end the machine",
	"root": bootRoot, "rootfstype": bootRoot, "rootflags": bootRoot, "rootwait": bootRoot,
	"rootdelay": bootRoot, "nfsroot": bootRoot, "ro": bootRoot, "rw": bootRoot,
	"tsc": machineClock, "tsc_early_khz": machineClock,
}

const (
	bootRoot     = "the kernel's first root is banger's boot disk"
	machineClock = "the machine's clock depends on it"
)

// ValidateArgs checks words for a kernel's command line, of all lists together:
// NAME or NAME=VALUE, where a name is of letters, digits and "._-/", and a value
// of printable ASCII without spaces, quotes and backslashes. The error is Invalid.
func ValidateArgs(lists ...[]string) error {
	count, size := 0, 0
	for _, args := range lists {
		for _, a := range args {
			if err := validateArg(a); err != nil {
				return err
			}
			count++
			size += len(a) + 1
		}
	}
	if count > MaxArgs {
		return banger.Errorf(banger.Invalid, "%d kernel arguments are more than %d", count, MaxArgs)
	}
	if size > MaxArgsSize {
		return banger.Errorf(banger.Invalid, "kernel arguments of %d bytes are longer than %d: the kernel would cut its command line off", size, MaxArgsSize)
	}
	return nil
}

func validateArg(a string) error {
	bad := func(format string, values ...any) error {
		return banger.Errorf(banger.Invalid, "kernel argument %.64q: "+format, append([]any{a}, values...)...)
	}
	name, value, _ := strings.Cut(a, "=")
	switch {
	case len(a) > MaxArgBytes:
		return bad("it is longer than %d bytes", MaxArgBytes)
	case name == "":
		return bad("it has no name: want NAME or NAME=VALUE")
	case strings.ContainsFunc(name, func(r rune) bool { return !isAlnum(r) && !strings.ContainsRune("._-/", r) }):
		return bad("its name may have letters, digits and \"._-/\"")
	case !isAlnum(rune(name[0])) && name[0] != '_':
		return bad("its name starts with %q", name[:1])
	case strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("\"'`\\", r) }):
		return bad("its value may have printable ASCII characters, no spaces, quotes and backslashes")
	case strings.HasPrefix(name, "banger."):
		return bad("it is one of banger's own")
	}
	if why := reserved[strings.ReplaceAll(name, "-", "_")]; why != "" {
		return bad("%s", why)
	}
	return nil
}

func isAlnum(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}
