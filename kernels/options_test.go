package kernels

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// needed is what banger and the usual programs of its guests cannot do without.
// A line here has a reason in the file of options.
var needed = []string{
	"VIRTIO_MMIO", "VIRTIO_MMIO_CMDLINE_DEVICES", "VIRTIO_PCI", "VIRTIO_BLK", "VIRTIO_NET", "VIRTIO_CONSOLE", "VIRTIO_VSOCKETS",
	"HW_RANDOM_VIRTIO", "VIRTIO_BALLOON", "VIRTIO_FS", "VMGENID", "PTP_1588_CLOCK_KVM", "PVPANIC_MMIO", "PVPANIC_PCI", "PVH", "ACPI",
	"EXT4_FS", "OVERLAY_FS", "EROFS_FS", "SQUASHFS", "9P_FS", "NET_9P_VIRTIO", "FUSE_FS", "IP_PNP",
	"CGROUPS", "MEMCG", "CGROUP_BPF", "USER_NS", "NET_NS", "TIME_NS", "SECCOMP_FILTER", "BPF_SYSCALL", "BPF_JIT", "IO_URING",
	"NF_TABLES", "NFT_NAT", "NFT_MASQ", "NFT_COMPAT", "BRIDGE", "BRIDGE_NETFILTER", "VETH", "IKCONFIG_PROC",
}

var (
	optionLine = regexp.MustCompile(`^(?:CONFIG_([A-Z0-9a-z_]+)=(y|[0-9]+|"[^"]*")|# CONFIG_([A-Z0-9a-z_]+) is not set)(?: # ([0-9.]*)\.\.([0-9.]*))?$`)
	version    = regexp.MustCompile(`^[0-9]+\.[0-9]+$`)
)

// option is one line of the file.
type option struct {
	line, name, value string
	from, to          int // versions as number has them, inclusive
}

func number(v string, none int) int {
	major, minor, ok := strings.Cut(v, ".")
	if !ok {
		return none
	}
	a, _ := strconv.Atoi(major)
	b, _ := strconv.Atoi(minor)
	return a*1000 + b
}

// parseOptions reads the file and checks the form of each line.
func parseOptions(t *testing.T) []option {
	t.Helper()
	b, err := os.ReadFile("generic-x86_64.config")
	if err != nil {
		t.Fatal(err)
	}
	var all []option
	for i, line := range strings.Split(string(b), "\n") {
		if line == "" || strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "# CONFIG_") {
			continue
		}
		m := optionLine.FindStringSubmatch(line)
		if m == nil {
			t.Errorf("line %d is no option: %s", i+1, line)
			continue
		}
		for _, v := range m[4:] {
			if v != "" && !version.MatchString(v) {
				t.Errorf("line %d: %q is no version", i+1, v)
			}
		}
		all = append(all, option{line: line, name: m[1] + m[3], value: m[2], from: number(m[4], 0), to: number(m[5], 1<<30)})
	}
	return all
}

func TestOptions(t *testing.T) {
	all := parseOptions(t)
	byName := map[string][]option{}
	for _, o := range all {
		if o.from > o.to {
			t.Errorf("no version is in the range of %s", o.line)
		}
		for _, other := range byName[o.name] {
			if o.from <= other.to && other.from <= o.to {
				t.Errorf("for some version both are asked for: %s; %s", other.line, o.line)
			}
		}
		byName[o.name] = append(byName[o.name], o)
	}
	for _, name := range needed {
		if o := byName[name]; len(o) != 1 || o[0].value != "y" || o[0].from != 0 || o[0].to != 1<<30 {
			t.Errorf("CONFIG_%s=y is not asked for of every version", name)
		}
	}
}

// TestGroupsHaveReasons wants each group of options to say what it is for.
func TestGroupsHaveReasons(t *testing.T) {
	b, err := os.ReadFile("generic-x86_64.config")
	if err != nil {
		t.Fatal(err)
	}
	groups := strings.Split(string(b), "\n# --- ")
	if len(groups) < 15 {
		t.Fatalf("found %d groups", len(groups)-1)
	}
	for _, g := range groups[1:] {
		title, body, _ := strings.Cut(g, " -")
		commented := false
		for line := range strings.Lines(body) {
			commented = commented || strings.HasPrefix(line, "# ") && !strings.HasPrefix(line, "# CONFIG_")
		}
		if !commented {
			t.Errorf("group %q gives no reason", title)
		}
	}
}
