package hello

// Report is what banger-guest's role probe prints as JSON: what the kernel that
// runs can do.
type Report struct {
	Release  string    `json:"release"` // as uname -r
	Features []Feature `json:"features"`
}

// MaxReport bounds a report, in bytes.
const MaxReport = 64 << 10

// Feature is something a kernel can or cannot do, as was found by trying it.
type Feature struct {
	Name string   `json:"name"`
	For  []string `json:"for,omitempty"` // who cannot do without it: banger, systemd, docker
	Has  bool     `json:"has"`
	Why  string   `json:"why,omitempty"` // why not, as the kernel says
}

// GuestProgram is where banger-guest is in a machine that has booted, and
// RoleProbe its argument for a report.
const (
	GuestProgram = "/run/banger/boot/banger-guest"
	RoleProbe    = "probe"
)

// Those who need features.
const (
	ForBanger  = "banger"
	ForSystemd = "systemd"
	ForDocker  = "docker"
)
