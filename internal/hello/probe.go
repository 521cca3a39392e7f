package hello

// Feature is something a kernel can or cannot do, as banger-guest found when it
// tried it; its role probe prints a JSON array of them.
type Feature struct {
	Name string   `json:"name"`
	For  []string `json:"for,omitempty"` // who cannot do without it: banger, systemd, docker
	Has  bool     `json:"has"`
	Why  string   `json:"why,omitempty"` // why not, as the kernel says
}

// Those who need features.
const (
	ForBanger  = "banger"
	ForSystemd = "systemd"
	ForDocker  = "docker"
)
