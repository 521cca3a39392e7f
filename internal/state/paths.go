// Package state is what banger keeps on disk: paths, records, locks.
package state

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"banger"
)

// The names of everything banger writes. docs/STATE.md describes each one.
const (
	KernelsDir = "kernels"
	ImagesDir  = "images"
	VMsDir     = "vms"
	KeysDir    = "keys"

	ManifestFile = "manifest.json" // of a kernel or an image
	VmlinuxFile  = "vmlinux"
	ModulesDir   = "modules"
	InitrdFile   = "initrd.img"
	RootfsFile   = "rootfs.img"

	OCIManifestFile = "oci-manifest.json" // of an image, as it came
	OCIConfigFile   = "oci-config.json"

	VMFile      = "vm.json"
	DiskFile    = "disk.img"
	HostKeyFile = "host_key"
	FilesFile   = "files.tar"
	BootFile    = "boot.json"
	ExitFile    = "exit.json"
	ConsoleLog  = "console.log"
	ShimLog     = "shim.log"

	ConsoleTimes = "console.times"

	UserKeyFile = "user_ed25519"
	DaemonLock  = "daemon.lock"
	DaemonLog   = "daemon.log"
	StartLock   = "start.lock"
	EventsFile  = "events.jsonl"

	ConfigFile = "config.toml"

	BlobsDir    = "blobs"
	BuildsDir   = "builds"
	CachesFile  = "caches.img" // of builds; caches-ID.img while a VM has it
	CatalogsDir = "catalogs"
	BootDir     = "boot"
	InitrdDir   = "initrd"
	ModDisksDir = "modules"
	ConsolesDir = "consoles"
	ScratchDir  = "scratch"

	DaemonSocket = "daemon.sock"
	AgentSocket  = "agent.sock"
	ShimSocket   = "shim.sock"
	TTYSocket    = "tty.sock"
)

// RotatedSuffix is added to the name of a log that was full.
const RotatedSuffix = ".1"

// maxRun is the longest run directory that leaves room for the longest socket
// name below it, since a unix socket path has at most 107 bytes.
const maxRun = 107 - len("/0123456789ab/agent.sock") - 8

// Layout says where banger keeps what, for one user.
type Layout struct {
	Root  string // records that must not be lost
	Cache string // what can be made again; safe to delete at any time
	Run   string // sockets; gone after a reboot

	Config string // the user's configuration file; banger only reads it
}

// Locate reads the layout from the environment. BANGER_ROOT moves everything
// below one folder, but for the sockets, whose paths must stay short;
// BANGER_CONFIG is the configuration file, wherever that is.
func Locate(getenv func(string) string) (Layout, error) {
	l, err := locate(getenv)
	if config := getenv("BANGER_CONFIG"); config != "" && err == nil {
		if l.Config, err = filepath.Abs(config); err != nil {
			err = fmt.Errorf("locate BANGER_CONFIG: %w", err)
		}
	}
	return l, err
}

func locate(getenv func(string) string) (Layout, error) {
	uid := os.Getuid()
	run := getenv("XDG_RUNTIME_DIR")
	if run == "" || !ownedDir(run, uid) {
		run = "/tmp/banger-" + strconv.Itoa(uid)
	} else {
		run = filepath.Join(run, "banger")
	}
	if root := getenv("BANGER_ROOT"); root != "" {
		root, err := filepath.Abs(root)
		if err != nil {
			return Layout{}, fmt.Errorf("locate BANGER_ROOT: %w", err)
		}
		sum := sha256.Sum256([]byte(root))
		return check(Layout{Root: root, Cache: filepath.Join(root, "cache"), Run: filepath.Join(run, hex.EncodeToString(sum[:4])),
			Config: filepath.Join(root, ConfigFile)})
	}
	home := getenv("HOME")
	if home == "" {
		return Layout{}, banger.Errorf(banger.Invalid, "locate the state directory: neither HOME nor BANGER_ROOT is set").
			WithHint("export BANGER_ROOT=/some/folder")
	}
	dir := func(env, fallback string) string {
		if d := getenv(env); filepath.IsAbs(d) {
			return filepath.Join(d, "banger")
		}
		return filepath.Join(home, fallback, "banger")
	}
	return check(Layout{Root: dir("XDG_STATE_HOME", ".local/state"), Cache: dir("XDG_CACHE_HOME", ".cache"), Run: run,
		Config: filepath.Join(dir("XDG_CONFIG_HOME", ".config"), ConfigFile)})
}

func check(l Layout) (Layout, error) {
	if len(l.Run) > maxRun {
		return Layout{}, banger.Errorf(banger.Invalid, "locate the sockets: %q is longer than %d bytes", l.Run, maxRun).
			WithHint("export XDG_RUNTIME_DIR=/run/user/%d", os.Getuid())
	}
	return l, nil
}

// Make creates the directories of the layout, private to the user. The run
// directory may lie in /tmp, so one that somebody else made first is refused.
func (l Layout) Make() error {
	for _, d := range []string{l.Root, l.Cache, l.Kernels(), l.Images(), l.VMs(), l.Path(KeysDir),
		l.Blobs(), l.Builds(), l.Catalogs(), l.BootDisks(), l.Initrds(), l.ModuleDisks(), l.Consoles(), l.Scratch()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return fmt.Errorf("make state directory: %w", err)
		}
	}
	return l.MakeRun()
}

// MakeRun creates the run directory alone: all that a client needs.
func (l Layout) MakeRun() error {
	if err := os.MkdirAll(l.Run, 0o700); err != nil {
		return fmt.Errorf("make run directory: %w", err)
	}
	for _, d := range []string{filepath.Dir(l.Run), l.Run} {
		if d == "/tmp" || d == "/run" {
			continue
		}
		if !ownedDir(d, os.Getuid()) {
			return banger.Errorf(banger.Invalid, "make run directory: %s belongs to somebody else or is open to others", d).
				WithHint("export XDG_RUNTIME_DIR=/run/user/%d", os.Getuid())
		}
	}
	return nil
}

// ownedDir reports whether path is a real directory of the user that no one else can write to.
func ownedDir(path string, uid int) bool {
	fi, err := os.Lstat(path)
	if err != nil || !fi.IsDir() || fi.Mode().Perm()&0o022 != 0 {
		return false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == uid
}

// Path is a file directly below the state root.
func (l Layout) Path(name string) string { return filepath.Join(l.Root, name) }

// Kernels is the directory of the kernel records.
func (l Layout) Kernels() string { return l.Path(KernelsDir) }

// Images is the directory of the image records.
func (l Layout) Images() string { return l.Path(ImagesDir) }

// VMs is the directory of the VM records.
func (l Layout) VMs() string { return l.Path(VMsDir) }

// VM is the directory of one VM.
func (l Layout) VM(id string) string { return filepath.Join(l.VMs(), id) }

// VMRun is the directory of one VM's sockets.
func (l Layout) VMRun(id string) string { return filepath.Join(l.Run, id) }

// UserKey is the SSH key with which this user enters guests.
func (l Layout) UserKey() string { return filepath.Join(l.Root, KeysDir, UserKeyFile) }

// Socket is where the daemon listens.
func (l Layout) Socket() string { return filepath.Join(l.Run, DaemonSocket) }

// Blobs is the cache of OCI layers.
func (l Layout) Blobs() string { return filepath.Join(l.Cache, BlobsDir) }

// Builds is the cache of what the steps of builds made, by their keys.
func (l Layout) Builds() string { return filepath.Join(l.Cache, BuildsDir) }

// Catalogs is the cache of the catalogs that the configuration adds.
func (l Layout) Catalogs() string { return filepath.Join(l.Cache, CatalogsDir) }

// BootDisks is the cache of boot disks, one per guest binary.
func (l Layout) BootDisks() string { return filepath.Join(l.Cache, BootDir) }

// Initrds is the cache of initrds, one per kernel and guest binary.
func (l Layout) Initrds() string { return filepath.Join(l.Cache, InitrdDir) }

// ModuleDisks is the cache of disks with a kernel's modules, one per kernel.
func (l Layout) ModuleDisks() string { return filepath.Join(l.Cache, ModDisksDir) }

// Consoles keeps the last consoles of VMs that did not boot and are gone.
func (l Layout) Consoles() string { return filepath.Join(l.Cache, ConsolesDir) }

// Scratch is for files of work in progress; the daemon empties it when it starts.
func (l Layout) Scratch() string { return filepath.Join(l.Cache, ScratchDir) }
