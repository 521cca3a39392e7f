package hello

import "strconv"

// RoleBuild is the argument of GuestProgram for one piece of a build: it reads a
// BuildOrder, one line of JSON, on stdin. The layers of a build are directories
// of the machine's disk, each the upper of an overlay over those before it and
// the image.
const RoleBuild = "build"

// The operations of a BuildOrder.
const (
	BuildRun    = "run"    // run a command over the layers, with Layer as the upper; the exit status is the command's
	BuildApply  = "apply"  // unpack the layer tar that follows on stdin into Layer
	BuildFreeze = "freeze" // write all to the disk and hold it there until stdin ends; says BuildFrozen on stdout
	BuildShow   = "show"   // mount the layers at BuildRoot, to be looked at
)

// BuildFrozen is the line that says that the host may read the disk.
const BuildFrozen = "frozen"

// BuildRoot is where the layers of a build are mounted.
const BuildRoot = "/run/banger/build/root"

// MaxBuildOrder bounds a BuildOrder, in bytes.
const MaxBuildOrder = 1 << 20

// BuildFault is the exit status for what went wrong before a command ran.
const BuildFault = 125

// BuildUpper is the directory of a layer, from the root of the machine's disk.
func BuildUpper(layer int) string { return "banger-build/" + strconv.Itoa(layer) + "/upper" }

// BuildOrder is one piece of a build.
type BuildOrder struct {
	Op    string `json:"op"`
	Layer int    `json:"layer,omitempty"` // from 1; those below it are there already

	// Of BuildRun:
	Argv      []string     `json:"argv,omitempty"`
	Env       []string     `json:"env,omitempty"`
	Dir       string       `json:"dir,omitempty"`
	User      string       `json:"user,omitempty"` // user[:group]; empty is root
	Files     []BuildFile  `json:"files,omitempty"`
	FilesDir  string       `json:"files_dir,omitempty"` // where Files are
	Mounts    []BuildMount `json:"mounts,omitempty"`
	NoNetwork bool         `json:"no_network,omitempty"`
	// Caches is the device with the file system of the caches among Mounts.
	Caches string `json:"caches,omitempty"`
}

// BuildFile is an executable file that is there for one command.
type BuildFile struct {
	Name string `json:"name"`
	Data string `json:"data"`
}

// BuildMount is a directory that is there for one command.
type BuildMount struct {
	Target string `json:"target"`
	// Cache is the name of a directory that commands share, of other builds too;
	// empty: a tmpfs.
	Cache string `json:"cache,omitempty"`
	Size  int64  `json:"size,omitempty"` // of a tmpfs, in bytes
	Mode  uint32 `json:"mode,omitempty"` // of a new cache
	UID   uint32 `json:"uid,omitempty"`
	GID   uint32 `json:"gid,omitempty"`
}
