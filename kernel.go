package banger

import (
	"slices"
	"time"
)

// Kernel is one kernel bundle of the store: kernels/NAME/manifest.json.
type Kernel struct {
	Name          string    `json:"name"`
	Distro        string    `json:"distro"`
	Arch          string    `json:"arch"`              // as uname -m: x86_64, aarch64
	KernelVersion string    `json:"kernel_version"`    // as uname -r
	SHA256        string    `json:"sha256"`            // of vmlinux, hex
	Source        string    `json:"source"`            // where it came from, for instance deb:linux-image-6.1.0-56-cloud-amd64=6.1.192-2
	Catalog       string    `json:"catalog,omitempty"` // that it was pulled from by name; empty for the built-in one and for none
	Digest        string    `json:"digest,omitempty"`  // of what the source gave (a bundle, an image's manifest), sha256:HEX
	ImportedAt    time.Time `json:"imported_at"`
	Size          int64     `json:"size"`           // bytes of vmlinux, initrd and modules together
	Args          []string  `json:"args,omitempty"` // words added to the kernel's command line
	// Features says for each driver that banger cares about whether it is
	// "builtin" or a "module"; a driver that is missing has no entry. KernelList
	// leaves them out: they are two thirds of a record, and there may be a thousand.
	Features map[string]string `json:"features,omitempty"`
	// Problem says why the record cannot be used; such a kernel is listed, never hidden.
	Problem string `json:"problem,omitempty"`
}

// KernelOffer is one entry of the kernel catalogs.
type KernelOffer struct {
	Name          string `json:"name"`    // by which it is pulled: NAME, or CATALOG/NAME where NAME means another one
	Catalog       string `json:"catalog"` // that has it: builtin, or one of the configuration
	Distro        string `json:"distro"`
	Arch          string `json:"arch"`
	KernelVersion string `json:"kernel_version,omitempty"` // empty: whatever its source has
	Size          int64  `json:"size,omitempty"`           // bytes to download, 0 if not known
	Description   string `json:"description"`
	State         string `json:"state"` // available, pulled, or outdated: the catalog has another than the one that is here
}

// KernelReport is what KernelVerify found.
type KernelReport struct {
	Kernel  Kernel   `json:"kernel"`            // whose vmlinux is the one of its record
	Machine *Machine `json:"machine,omitempty"` // that booted it; nil if it was not booted
	Release string   `json:"release,omitempty"` // as the kernel itself says, uname -r
	// Features are what was found by trying it in the machine.
	Features []KernelFeature `json:"features,omitempty"`
}

// KernelFeature is something a kernel can or cannot do.
type KernelFeature struct {
	Name string   `json:"name"`
	For  []string `json:"for,omitempty"` // who cannot do without it: banger, systemd, docker
	Has  bool     `json:"has"`
	Why  string   `json:"why,omitempty"` // why not, as the kernel says
}

// Lacks are the features that somebody cannot do without and that were not found.
func (r KernelReport) Lacks(who string) []string {
	var names []string
	for _, f := range r.Features {
		if !f.Has && slices.Contains(f.For, who) {
			names = append(names, f.Name)
		}
	}
	return names
}
