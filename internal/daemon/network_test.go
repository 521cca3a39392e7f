package daemon

import (
	"strings"
	"testing"

	"banger"
	"banger/internal/shim"
)

// Only a kernel that has both by itself is told to set up its network.
func TestKernelSetsUpItsNetwork(t *testing.T) {
	builtin := map[string]string{"ip_pnp": "builtin", "virtio_net": "builtin"}
	for name, tt := range map[string]struct {
		features map[string]string
		net      string
		word     bool
	}{
		"both":          {builtin, "nat", true},
		"no network":    {builtin, "none", false},
		"driver module": {map[string]string{"ip_pnp": "builtin", "virtio_net": "module"}, "nat", false},
		"neither":       {nil, "nat", false},
	} {
		var spec shim.Spec
		if err := addNetwork(&spec, banger.Kernel{Features: tt.features}, banger.VMSpec{Name: "web", Net: tt.net}); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(strings.Join(spec.Machine.Cmdline, " "), "ip=192.168.127.2:"); got != tt.word {
			t.Errorf("%s: kernel words %q", name, spec.Machine.Cmdline)
		}
		if (spec.Machine.Net != nil) != (tt.net == "nat") || (spec.Hello.Net != nil) != (tt.net == "nat") {
			t.Errorf("%s: card %v, told %v", name, spec.Machine.Net, spec.Hello.Net)
		}
	}
}
