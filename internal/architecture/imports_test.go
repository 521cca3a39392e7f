package architecture

import (
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The reasons behind the rules, shown to whoever breaks one.
const (
	pure     = "the nouns and the wire formats are what everything else builds on: the standard library is all they need"
	ground   = "what everybody imports must not import anybody"
	leaf     = "leaves never import each other: data passes as io.Reader, paths and plain structs, and only daemon and shim compose"
	driver   = "drivers are told apart by vmm.Features and know nothing of what uses them"
	inside   = "what runs in the guest must stay small, and shares the wire format with the host, nothing else"
	outside  = "the command line asks the daemon through the client and speaks to guests through agent; it does no work of its own"
	server   = "routes and streams, not what they do"
	composer = "daemon and shim are the only ones that compose"
	blackBox = "end-to-end tests look at banger from outside; internals only to measure or to corrupt them"
)

// rule says which packages of this module a package may import. A pattern
// that ends in /... covers the package and those below it; * allows all.
type rule struct {
	pkg     string
	may     []string
	inTests []string // what its tests may import besides
	why     string
}

// rules are tried in order; every package needs one.
var rules = []rule{
	{pkg: ".", why: pure},
	{pkg: "internal/hello", why: pure},
	{pkg: "internal/parcel", why: pure},
	{pkg: "internal/hostcmd", may: []string{"."}, why: ground},
	{pkg: "internal/hostfile", why: ground},
	{pkg: "internal/hostmem", why: ground},
	{pkg: "internal/state", may: []string{"."}, why: ground},
	{pkg: "internal/fetch", may: []string{"."}, why: ground},

	{pkg: "internal/kernelcat", may: []string{".", "internal/fetch", "internal/hostcmd", "internal/hostfile", "internal/state"}, why: leaf},
	{pkg: "internal/imagecat", may: []string{".", "internal/fetch", "internal/hostcmd", "internal/hostfile", "internal/state"}, why: leaf},
	{pkg: "internal/oci", may: []string{".", "internal/fetch", "internal/hostcmd", "internal/hostfile", "internal/state"}, why: leaf},
	{pkg: "internal/dockerfile", may: []string{".", "internal/hostfile"}, why: leaf},
	{pkg: "internal/rootfs", may: []string{".", "internal/hostcmd", "internal/hostfile", "internal/state"}, why: leaf},
	{pkg: "internal/catalogs", may: []string{".", "internal/fetch", "internal/state"}, why: leaf},
	{pkg: "internal/config", may: []string{".", "internal/state"}, why: leaf},
	{pkg: "internal/network", may: []string{".", "internal/hostcmd", "internal/state"}, why: leaf},
	{pkg: "internal/doctor", may: []string{".", "internal/hostcmd", "internal/hostmem", "internal/state"}, why: leaf},
	{pkg: "internal/agent", may: []string{".", "internal/hello", "internal/parcel"}, inTests: []string{"internal/guest/sshd"}, why: leaf},
	{pkg: "internal/share", may: []string{"."}, why: leaf},
	{pkg: "internal/guestbin", may: []string{"."}, why: leaf},

	{pkg: "internal/vmm", may: []string{".", "internal/hostcmd"}, why: driver},
	{pkg: "internal/vmm/...", may: []string{".", "internal/hostcmd", "internal/vmm"}, inTests: []string{"internal/vmm/vmmtest"}, why: driver},

	{pkg: "internal/guest", may: []string{"internal/hello", "internal/guest/sshd"}, inTests: []string{"internal/hostcmd"}, why: inside},
	{pkg: "internal/guest/sshd", may: []string{"internal/hello", "internal/parcel"}, why: inside},
	{pkg: "cmd/banger-guest", may: []string{"internal/guest", "internal/guest/sshd", "internal/hello"}, why: inside},

	{pkg: "internal/api", may: []string{"."}, why: server},
	{pkg: "internal/cli", may: []string{".", "internal/state", "internal/doctor", "internal/agent", "internal/parcel"}, inTests: []string{"internal/api"}, why: outside},

	{pkg: "internal/shim", inTests: []string{"internal/vmm/fakevmm", "internal/guest/sshd"}, why: composer,
		may: []string{".", "internal/state", "internal/hostcmd", "internal/hello", "internal/vmm", "internal/network", "internal/agent", "internal/share"}},
	{pkg: "internal/daemon", inTests: []string{"internal/vmm/fakevmm", "internal/guest/sshd"}, why: composer,
		may: []string{".", "internal/state", "internal/hostcmd", "internal/hostfile", "internal/hostmem", "internal/hello", "internal/kernelcat", "internal/imagecat", "internal/catalogs", "internal/config", "internal/dockerfile",
			"internal/fetch", "internal/oci", "internal/rootfs", "internal/vmm", "internal/network", "internal/doctor", "internal/agent", "internal/guestbin", "internal/api", "internal/shim", "internal/share"}},
	{pkg: "cmd/banger", may: []string{"*"}},

	{pkg: "internal/e2e", may: []string{".", "internal/state", "internal/hello", "internal/oci", "internal/rootfs", "internal/shim", "internal/agent"}, why: blackBox},
	{pkg: "internal/e2e/rawport", may: []string{"internal/guest/sshd", "internal/hello"}, why: inside},
	{pkg: "internal/e2e/rootlist", why: "it runs in guests, whatever is in them"},
	{pkg: "internal/architecture", why: "rules judge the others from outside"},
	{pkg: "kernels", why: "it is data for a script"},
	{pkg: "scripts/runtests", why: "it must build when nothing else does"},
}

// wrapped says which packages may know each module of somebody else: one
// place to change when it changes, and small binaries where it is absent.
var wrapped = map[string][]string{
	"github.com/google/go-containerregistry": {"internal/oci"},
	"github.com/hashicorp/yamux":             {"internal/agent", "internal/guest/sshd", "internal/shim"},
	"github.com/hugelgupf/p9":                {"internal/share"}, // its tests
	"github.com/klauspost/compress":          {"internal/oci", "internal/kernelcat"},
	"github.com/mikelolasagasti/xz":          {"internal/kernelcat", "internal/oci"},
	"github.com/moby/buildkit":               {"internal/dockerfile"},
	"github.com/moby/patternmatcher":         {"internal/dockerfile"},
	"github.com/pelletier/go-toml":           {"internal/config"},
	"github.com/pierrec/lz4/v4":              {"internal/kernelcat"},
	"github.com/pkg/sftp":                    {"internal/agent", "internal/guest/sshd"},
	"github.com/rogpeppe/go-internal":        {"internal/e2e"},
	"github.com/spf13/cobra":                 {"internal/cli"},
	"github.com/spf13/pflag":                 {"internal/cli"},
	"github.com/ulikunitz/xz":                {"internal/kernelcat"},
	"golang.org/x/crypto":                    {"internal/agent", "internal/guest/sshd", "internal/shim", "internal/daemon", "internal/cli", "internal/state", "internal/catalogs"},
	"golang.org/x/sys":                       {"*"},
	"golang.org/x/term":                      {"internal/cli"},
}

func TestImports(t *testing.T) {
	used := map[int]bool{}
	for _, s := range sources(t) {
		i := slices.IndexFunc(rules, func(r rule) bool { return matches(r.pkg, s.pkg) })
		if i < 0 {
			t.Errorf("%s: package %s has no rule in internal/architecture", s.path, s.pkg)
			continue
		}
		used[i] = true
		may := rules[i].may
		if s.test {
			may = slices.Concat(may, rules[i].inTests, []string{s.pkg}) // package x_test imports x
		}
		for _, spec := range s.ast.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if reason := forbidden(s.pkg, path, may); reason != "" {
				if reason == "*" {
					reason = rules[i].why
				}
				t.Errorf("%s:%d: %s must not import %s: %s", s.path, s.line(spec.Pos()), s.pkg, path, reason)
			}
		}
	}
	for i, r := range rules {
		if !used[i] {
			t.Logf("there is no package %s yet", r.pkg)
		}
	}
}

// forbidden says why pkg may not import path, or * when that is in its rule.
func forbidden(pkg, path string, may []string) string {
	first, _, _ := strings.Cut(path, "/")
	switch {
	case first == "banger":
		target := strings.TrimPrefix(strings.TrimPrefix(path, "banger"), "/")
		if target == "" {
			target = "."
		}
		if !slices.ContainsFunc(may, func(p string) bool { return matches(p, target) }) {
			return "*"
		}
	case strings.Contains(first, "."):
		for module, users := range wrapped {
			if path == module || strings.HasPrefix(path, module+"/") {
				if slices.ContainsFunc(users, func(p string) bool { return matches(p, pkg) }) && pkg != "." {
					return ""
				}
				return "only " + strings.Join(users, ", ") + " may know this module"
			}
		}
		return "no package is named in internal/architecture as the one that wraps this module"
	case path == "C":
		return "banger is built without cgo, so that the binary is static"
	}
	return ""
}

// matches reports whether a pattern covers a package.
func matches(pattern, pkg string) bool {
	if pattern == "*" || pattern == pkg {
		return true
	}
	below, ok := strings.CutSuffix(pattern, "/...")
	return ok && (pkg == below || strings.HasPrefix(pkg, below+"/"))
}

// TestGuestStaysSmall checks what banger-guest links, directly or through
// others: every byte of it is on the boot disk and in the memory of each guest.
func TestGuestStaysSmall(t *testing.T) {
	imports := map[string][]string{}
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		for _, spec := range s.ast.Imports {
			path, _ := strconv.Unquote(spec.Path.Value)
			imports[s.pkg] = append(imports[s.pkg], path)
		}
	}
	heavy := map[string]string{
		"net/http":      "2 MB, and a guest serves SSH alone",
		"banger":        "it brings net/http with the client",
		"text/template": "it keeps the linker from dropping unused methods",
		"html/template": "it keeps the linker from dropping unused methods",
	}
	seen := map[string]bool{}
	var visit func(pkg string, way []string)
	visit = func(pkg string, way []string) {
		if seen[pkg] {
			return
		}
		seen[pkg] = true
		way = append(slices.Clone(way), pkg)
		for _, path := range imports[pkg] {
			if why := heavy[path]; why != "" {
				t.Errorf("%s imports %s: %s", strings.Join(way, " -> "), path, why)
			}
			if below, ok := strings.CutPrefix(path, "banger/"); ok {
				visit(below, way)
			}
		}
	}
	visit("cmd/banger-guest", nil)
}
