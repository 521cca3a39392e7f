package guest

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"banger/internal/hello"
)

// probe is one thing to try. It is done for real where that is possible, so
// that a driver the kernel can load counts as much as one that is built in.
type probe struct {
	name string
	need string // who cannot do without it, separated by spaces
	try  func() error
}

// probes are what `banger kernel verify` tells about. Who needs what follows
// systemd's README and Docker's contrib/check-config.sh.
var probes = []probe{
	{"virtio_blk", "banger", virtioDriver("virtio_blk")},
	{"virtio_console", "banger", virtioDriver("virtio_console")},
	{"virtio_net", "", virtioDriver("virtio_net")},
	{"virtio_rng", "", virtioDriver("virtio_rng")},
	{"virtio_balloon", "", virtioDriver("virtio_balloon")},
	{"vsock", "", func() error { return trySocket(unix.AF_VSOCK, unix.SOCK_STREAM, 0) }},
	{"ext4", "banger", fileSystem("ext4")},
	{"overlay", "banger docker", tryOverlay},
	{"erofs", "", fileSystem("erofs")},
	{"squashfs", "", fileSystem("squashfs")},
	{"9p", "", fileSystem("9p")},
	{"fuse", "", device("/dev/fuse")},
	{"virtiofs", "", fileSystem("virtiofs")},
	{"autofs", "systemd", fileSystem("autofs")},
	{"mqueue", "docker", fileSystem("mqueue")},
	{"binfmt_misc", "", fileSystem("binfmt_misc")},
	{"cgroup2", "systemd docker", tryCgroups},
	{"namespaces", "systemd docker", tryNamespaces},
	{"user_namespaces", "", present("/proc/self/ns/user")},
	{"seccomp_filter", "systemd docker", trySeccomp},
	{"keys", "docker", tryKeys},
	{"file_handles", "systemd", tryFileHandles},
	{"bpf_cgroup", "systemd docker", tryBPF},
	{"bpf_jit", "", present("/proc/sys/net/core/bpf_jit_enable")},
	{"io_uring", "", tryIOUring},
	{"landlock", "", tryLandlock},
	{"pressure", "", present("/proc/pressure/cpu")},
	{"unix_sockets", "systemd", func() error { return trySocket(unix.AF_UNIX, unix.SOCK_STREAM, 0) }},
	{"ipv6", "", func() error { return trySocket(unix.AF_INET6, unix.SOCK_STREAM, 0) }},
	{"bridge", "docker", linkKind("bridge")},
	{"veth", "docker", linkKind("veth")},
	{"vxlan", "", linkKind("vxlan")},
	{"macvlan", "", linkKind("macvlan")},
	{"wireguard", "", linkKind("wireguard")},
	{"tun", "", device("/dev/net/tun")},
	{"br_netfilter", "", tryBridgeNetfilter},
	{"nftables", "docker", tryNFTables},
	{"nftables_nat", "docker", tryMasquerade},
	{"iptables_nft", "docker", tryCompat},
	{"iptables_legacy", "", tryIPTables},
	{"ptp_kvm", "", driver("ptp_kvm", "CONFIG_PTP_1588_CLOCK_KVM")},
	{"vmgenid", "", driver("vmgenid", "CONFIG_VMGENID")},
	{"config_gz", "", present("/proc/config.gz")},
}

// runProbe tries everything and writes what it found as JSON. What it makes,
// it leaves: the machine is thrown away.
func runProbe(w io.Writer) error {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return err
	}
	report := hello.Report{Release: unix.ByteSliceToString(uts.Release[:])}
	for _, p := range probes {
		f := hello.Feature{Name: p.name, For: strings.Fields(p.need), Has: true}
		if err := p.try(); err != nil {
			f.Has, f.Why = false, err.Error()
		}
		report.Features = append(report.Features, f)
	}
	return json.NewEncoder(w).Encode(report)
}

// tmpfs is where a machine always has one: an overlay cannot lie on another.
const tmpfs = "/dev/shm"

func present(path string) func() error {
	return func() error {
		_, err := os.Stat(path)
		return err
	}
}

// device opens a device, which loads its module if there is one.
func device(path string) func() error {
	return func() error {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		return f.Close()
	}
}

// virtioDriver looks for a driver, which is in use for the devices that a
// machine has, and is loaded here for those it has not.
func virtioDriver(name string) func() error {
	return func() error {
		path := filepath.Join("/sys/bus/virtio/drivers", name)
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		_ = runModprobe([]string{name}) // what counts is whether the driver is there then
		_, err := os.Stat(path)
		return err
	}
}

// driver looks for the driver of a device that this machine need not have: such
// a one cannot be tried, only be there.
func driver(module, option string) func() error {
	return func() error {
		if _, err := os.Stat("/sys/module/" + module); err == nil {
			return nil
		}
		if _, err := findModule(modulesDir, module); err == nil {
			return nil
		}
		found := false
		_ = eachLine(filepath.Join(modulesDir, "modules.builtin"), func(line string) {
			found = found || normal(strings.TrimSuffix(filepath.Base(line), ".ko")) == module
		})
		if found || configHas(option) {
			return nil
		}
		return unix.ENODEV
	}
}

// configHas reads the kernel's own configuration, if it shows that.
func configHas(option string) bool {
	f, err := os.Open("/proc/config.gz")
	if err != nil {
		return false
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return false
	}
	for lines := bufio.NewScanner(z); lines.Scan(); {
		if lines.Text() == option+"=y" {
			return true
		}
	}
	return false
}

// fileSystem makes the kernel look for a file system, which it does when one is
// to be mounted.
func fileSystem(name string) func() error {
	return func() error {
		dir, err := os.MkdirTemp(tmpfs, "probe-")
		if err != nil {
			return err
		}
		defer os.Remove(dir) // fails where the mount did not
		if unix.Mount("none", dir, name, unix.MS_RDONLY, "") == nil {
			return nil
		}
		known, err := os.ReadFile("/proc/filesystems")
		if err != nil {
			return err
		}
		if !slices.Contains(strings.Fields(string(known)), name) {
			return unix.ENODEV
		}
		return nil
	}
}

func tryOverlay() error {
	dir, err := os.MkdirTemp(tmpfs, "probe-")
	if err != nil {
		return err
	}
	for _, d := range []string{"lower", "upper", "work", "root"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	return unix.Mount("overlay", dir+"/root", "overlay", 0,
		"lowerdir="+dir+"/lower,upperdir="+dir+"/upper,workdir="+dir+"/work")
}

func tryCgroups() error {
	dir, err := os.MkdirTemp(tmpfs, "probe-")
	if err != nil {
		return err
	}
	if err := unix.Mount("cgroup2", dir, "cgroup2", 0, ""); err != nil {
		return err
	}
	b, err := os.ReadFile(dir + "/cgroup.controllers")
	if err != nil {
		return err
	}
	for _, want := range []string{"cpu", "cpuset", "io", "memory", "pids"} {
		if !slices.Contains(strings.Fields(string(b)), want) {
			return fmt.Errorf("no controller %s", want)
		}
	}
	return nil
}

func tryNamespaces() error {
	for _, ns := range []string{"mnt", "uts", "ipc", "pid", "net", "cgroup"} {
		if _, err := os.Stat("/proc/self/ns/" + ns); err != nil {
			return err
		}
	}
	return nil
}

func trySocket(domain, kind, protocol int) error {
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func trySeccomp() error {
	action := uint32(unix.SECCOMP_RET_ERRNO)
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, uintptr(unsafe.Pointer(&action)))
	return asError(errno)
}

func tryKeys() error {
	_, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_PROCESS_KEYRING, true)
	return err
}

func tryFileHandles() error {
	_, _, err := unix.NameToHandleAt(unix.AT_FDCWD, "/run", 0)
	if errors.Is(err, unix.ENOSYS) {
		return err
	}
	return nil
}

// tryBPF loads the shortest program that says who may use a device, which is
// how systemd and Docker keep containers from devices.
func tryBPF() error {
	insns := []uint64{0x00000001_000000b7, 0x95} // r0 = 1; exit
	license := []byte("GPL\x00")
	attr := struct { // the head of union bpf_attr for BPF_PROG_LOAD
		kind, count    uint32
		insns, license uint64
		rest           [96]byte
	}{kind: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(insns))}
	attr.insns = uint64(uintptr(unsafe.Pointer(&insns[0])))
	attr.license = uint64(uintptr(unsafe.Pointer(&license[0])))
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	return asError(errno)
}

func tryIOUring() error {
	var params [120]byte // struct io_uring_params
	_, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)), 0)
	return asError(errno)
}

func tryLandlock() error {
	_, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	return asError(errno)
}

func asError(errno unix.Errno) error {
	if errno != 0 {
		return errno
	}
	return nil
}
