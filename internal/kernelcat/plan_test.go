package kernelcat

import (
	"strings"
	"testing"

	"banger"
)

func TestPlanBoot(t *testing.T) {
	all := "virtio_mmio virtio_blk ext4 overlay virtio_console"
	for name, c := range map[string]struct {
		builtin, module string
		has             Parts
		path            string
		foreign         bool
		reason          string // a part of it, or of the error where there is no path
	}{
		"all built in":                         {all, "", Parts{}, BootDirect, false, "every driver"},
		"all built in, and an initrd":          {all, "", Parts{Initrd: true}, BootDirect, false, "every driver"},
		"all built in, and modules of others":  {all + " virtio_net", "fuse 9p", Parts{Modules: true}, BootDirect, false, "every driver"},
		"all built in, but the network's":      {all, "virtio_net virtio_rng", Parts{Modules: true}, BootInitrd, false, "but virtio_net, virtio_rng"},
		"a network's module that is not there": {all, "virtio_net", Parts{}, BootDirect, false, "every driver"},
		"modules":                              {"ext4", "virtio_mmio virtio_blk overlay virtio_console virtio_net", Parts{Modules: true}, BootInitrd, false, "not built in: virtio_mmio, virtio_blk, overlay, virtio_console"},
		"modules and an initrd":                {"ext4", "virtio_mmio virtio_blk overlay virtio_console", Parts{true, true}, BootInitrd, false, "comes with modules"},
		"modules without a manifest of them":   {"", "", Parts{Modules: true}, BootInitrd, false, "comes with modules"},
		"modules without a driver":             {"ext4", "virtio_mmio virtio_blk overlay", Parts{true, true}, "", false, "no virtio_console"},
		"an initrd":                            {"ext4", "", Parts{Initrd: true}, BootFlat, true, "an initrd and without modules; not built in: virtio_mmio, virtio_blk, overlay, virtio_console"},
		"an initrd without a manifest":         {"", "", Parts{Initrd: true}, BootFlat, true, "an initrd"},
		"modules that are not there":           {"ext4", "virtio_mmio virtio_blk overlay virtio_console", Parts{Initrd: true}, BootFlat, true, "an initrd"},
		"no overlay":                           {"virtio_mmio virtio_blk ext4 virtio_console", "", Parts{}, BootFlat, false, "but overlay"},
		"no overlay, and an initrd":            {"virtio_mmio virtio_blk ext4 virtio_console", "", Parts{Initrd: true}, BootFlat, false, "but overlay"},
		"nothing known, nothing there":         {"", "", Parts{}, BootDirect, false, "no other way"},
		"little known, nothing there":          {"ext4", "", Parts{}, BootDirect, false, "no other way; not built in: virtio_mmio, virtio_blk, overlay, virtio_console"},
	} {
		k := banger.Kernel{Name: "k", Features: map[string]string{"pvh": "builtin"}}
		for _, f := range strings.Fields(c.builtin) {
			k.Features[f] = "builtin"
		}
		for _, f := range strings.Fields(c.module) {
			k.Features[f] = "module"
		}
		p, err := PlanBoot(k, c.has)
		if p.Path != c.path || p.Foreign != c.foreign || (err != nil) != (c.path == "") {
			t.Errorf("%s: %+v, %v", name, p, err)
			continue
		}
		if err != nil {
			p.Reason = err.Error()
			if !banger.IsKind(err, banger.Unsupported) {
				t.Errorf("%s: %v is %s", name, err, banger.AsError(err).Kind)
			}
		}
		if !strings.Contains(p.Reason, c.reason) {
			t.Errorf("%s: the reason is %q, want %q in it", name, p.Reason, c.reason)
		}
	}
}
