package kernelcat

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"banger"
)

// bootModules are the modules banger's initrd loads, in the order in which
// they are wanted; what they depend on comes before each.
var bootModules = []struct {
	name     string
	required bool
}{
	{"virtio_mmio", true},    // the bus of every device of a microVM
	{"virtio_blk", true},     // the root file system and the VM's disk
	{"ext4", true},           // what is on the VM's disk; built in more often than not
	{"overlay", true},        // puts the two together
	{"virtio_console", true}, // the port that the agent listens on
	{"virtio_net", false},    // a VM without a network is still a VM
	{"virtio_rng", false},    // entropy at once; without it the first reader may wait
}

// InitrdModules returns the files that banger's initrd loads, below
// modulesDir, in the order to load them in. Those built into the kernel are
// left out, so the list may be empty. more are wanted besides. A kernel that
// lacks a module banger cannot boot without, or one of more, is an Unsupported
// error; kernel is its name, for that error.
func InitrdModules(kernel, modulesDir string, more ...string) ([]string, error) {
	t, err := openModules(modulesDir)
	if err != nil {
		return nil, err
	}
	defer t.root.Close()
	var names []string
	for _, m := range bootModules {
		if t.has(m.name) != "" {
			names = append(names, m.name)
		} else if m.required {
			return nil, banger.Errorf(banger.Unsupported, "kernel %s has no %s", kernel, m.name)
		}
	}
	for _, name := range more {
		if t.has(name) == "" {
			return nil, banger.Errorf(banger.Unsupported, "kernel %s has no %s", kernel, name).WithHint("banger kernel ls --available")
		}
		names = append(names, name)
	}
	files, err := t.order(names)
	if err != nil {
		return nil, fmt.Errorf("kernel %s: %w", kernel, err)
	}
	return files, nil
}

// features are the drivers and options that banger.Kernel.Features tells
// about: the module of that driver, if it can be one, and its option.
var features = []struct{ name, module, config string }{
	{"virtio_mmio", "virtio_mmio", "CONFIG_VIRTIO_MMIO"},
	{"virtio_blk", "virtio_blk", "CONFIG_VIRTIO_BLK"},
	{"virtio_net", "virtio_net", "CONFIG_VIRTIO_NET"},
	{"virtio_console", "virtio_console", "CONFIG_VIRTIO_CONSOLE"},
	{"virtio_rng", "virtio_rng", "CONFIG_HW_RANDOM_VIRTIO"},
	{"virtio_pci", "virtio_pci", "CONFIG_VIRTIO_PCI"},
	{"virtio_balloon", "virtio_balloon", "CONFIG_VIRTIO_BALLOON"},
	{"vsock", "vmw_vsock_virtio_transport", "CONFIG_VIRTIO_VSOCKETS"},
	{"overlay", "overlay", "CONFIG_OVERLAY_FS"},
	{"ext4", "ext4", "CONFIG_EXT4_FS"},
	{"erofs", "erofs", "CONFIG_EROFS_FS"},
	{"fuse", "fuse", "CONFIG_FUSE_FS"},
	{"virtiofs", "virtiofs", "CONFIG_VIRTIO_FS"},
	{"9p", "9p", "CONFIG_9P_FS"},
	{"ip_pnp", "", "CONFIG_IP_PNP"},
	{"virtio_mmio_cmdline", "", "CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES"},
}

// Features tells for each driver that banger cares about whether the kernel
// has it "builtin" or as a "module"; one it lacks has no entry. A kernel without
// modules has no modulesDir. config is the kernel's build configuration
// (/boot/config-*), pvh what VmlinuxInfo says.
func Features(modulesDir string, config io.Reader, pvh bool) (map[string]string, error) {
	t := &moduleTree{}
	if modulesDir != "" {
		var err error
		if t, err = openModules(modulesDir); err != nil {
			return nil, err
		}
		defer t.root.Close()
	}
	options, err := readConfig(config)
	if err != nil {
		return nil, fmt.Errorf("read kernel configuration: %w", err)
	}
	found := make(map[string]string)
	for _, f := range features {
		how := ""
		if f.module != "" {
			how = t.has(f.module)
		}
		// A kernel built without modules has no modules.builtin.
		if how == "" && options[f.config] == "y" {
			how = "builtin"
		}
		if how != "" {
			found[f.name] = how
		}
	}
	if pvh {
		found["pvh"] = "builtin"
	}
	return found, nil
}

// modular lists the drivers banger cannot boot without that a configuration
// says are modules.
func modular(config io.Reader) ([]string, error) {
	options, err := readConfig(config)
	if err != nil {
		return nil, fmt.Errorf("read kernel configuration: %w", err)
	}
	var names []string
	for _, m := range bootModules {
		for _, f := range features {
			if m.required && f.module == m.name && options[f.config] == "m" {
				names = append(names, m.name)
			}
		}
	}
	return names, nil
}

// readConfig reads lines NAME=value; comments say what is off.
func readConfig(r io.Reader) (map[string]string, error) {
	options := make(map[string]string)
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if name, value, ok := strings.Cut(lines.Text(), "="); ok && !strings.HasPrefix(name, "#") {
			options[name] = value
		}
	}
	return options, lines.Err()
}
