package kernelcat

import (
	"strings"

	"banger"
)

// The ways to boot a kernel, as Machine.BootPath has them.
const (
	BootDirect = "direct" // without an initrd: the kernel mounts the boot disk and runs the guest program
	BootInitrd = "initrd" // with banger's own initrd, which loads the modules that are needed
	BootFlat   = "flat"   // on a copy of the image, for there may be no overlay; with the bundle's initrd or none
)

// Parts are what a bundle holds beside its kernel.
type Parts struct {
	Modules bool // modules/
	Initrd  bool // initrd.img, which somebody else has made
}

// BootPlan is how a kernel is booted.
type BootPlan struct {
	Path   string // BootDirect, BootInitrd or BootFlat
	Reason string // why, in words for the user
	// Foreign says that the initrd is the bundle's. Only a flat boot has such a
	// one: it brings the drivers of a disk, and is not known to bring overlay.
	Foreign bool
}

// overlay is the one driver of a boot that there is a way around.
const overlay = "overlay"

// PlanBoot chooses how to boot a kernel by what it has built in, as its manifest
// says, and by what else its bundle holds. Modules among which one is missing
// that the boot needs are an Unsupported error.
func PlanBoot(k banger.Kernel, has Parts) (BootPlan, error) {
	known := false                     // the manifest says anything about drivers
	var loose, missing, extra []string // needed and not built in; of those not modules either; modules that are good to have
	for _, m := range bootModules {
		how := k.Features[m.name]
		known = known || how != ""
		switch {
		case how == "builtin":
		case m.required && how == "":
			missing = append(missing, m.name)
			fallthrough
		case m.required:
			loose = append(loose, m.name)
		case how == "module":
			extra = append(extra, m.name)
		}
	}
	without := "; not built in: " + strings.Join(loose, ", ")
	if !known {
		without = "; its record does not tell what is built in"
	}
	switch {
	case has.Modules && known && len(missing) > 0:
		return BootPlan{}, banger.Errorf(banger.Unsupported, "boot kernel %q: it has no %s", k.Name, strings.Join(missing, ", ")).
			WithHint("banger kernel ls --available")
	case has.Modules && len(loose) > 0:
		return BootPlan{Path: BootInitrd, Reason: "the kernel comes with modules" + without}, nil
	case has.Modules && len(extra) > 0:
		return BootPlan{Path: BootInitrd, Reason: "the kernel has everything built in but " + strings.Join(extra, ", ")}, nil
	case len(loose) == 0:
		return BootPlan{Path: BootDirect, Reason: "every driver that the boot needs is built into the kernel"}, nil
	case len(loose) == 1 && loose[0] == overlay:
		return BootPlan{Path: BootFlat, Reason: "every driver that the boot needs is built into the kernel but overlay"}, nil
	case has.Initrd:
		return BootPlan{Path: BootFlat, Foreign: true, Reason: "the kernel comes with an initrd and without modules" + without}, nil
	}
	return BootPlan{Path: BootDirect, Reason: "the kernel comes with neither modules nor an initrd, so there is no other way" + without}, nil
}
