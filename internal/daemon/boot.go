package daemon

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"banger"
	"banger/internal/agent"
	"banger/internal/guestbin"
	"banger/internal/hello"
	"banger/internal/kernelcat"
	"banger/internal/network"
	"banger/internal/rootfs"
	"banger/internal/shim"
	"banger/internal/state"
	"banger/internal/vmm"
)

// boot is the host's side of one boot, top to bottom, up to the point where a
// shim holds the machine. The guest's side is internal/guest/boot.go.
func (d *Daemon) boot(ctx context.Context, v *vm) (*shim.Client, error) {
	rec := v.record()
	dir, run := d.Layout.VM(rec.ID), d.Layout.VMRun(rec.ID)
	caps, err := d.capabilitiesOf(rec)
	if err != nil {
		return nil, err
	}
	spec, err := d.prepare(ctx, rec, caps)
	if err != nil {
		return nil, err
	}
	if v.caches != "" {
		v.cachesDevice = fmt.Sprintf("/dev/vd%c", 'a'+len(spec.Machine.Disks))
		spec.Machine.Disks = append(spec.Machine.Disks, vmm.Disk{Path: v.caches})
	}

	// 5. The intent, then the shim. A machine of before has left nothing that matters.
	if err := errors.Join(os.RemoveAll(run), os.RemoveAll(filepath.Join(dir, state.ExitFile))); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(run, 0o700); err != nil {
		return nil, err
	}
	if err := state.WriteRecord(filepath.Join(dir, state.BootFile), spec); err != nil {
		return nil, errors.Join(err, os.RemoveAll(run))
	}
	d.at("boot: prepared")
	if err := v.intend(func(r *banger.VM) {
		r.State, r.Reason, r.StoppedAt = banger.Starting, "", time.Time{}
		r.Capabilities = capable(caps)
		r.Machine = &banger.Machine{BootID: bootID(), BootPath: spec.BootPath, BootReason: spec.BootReason}
	}); err != nil {
		return nil, errors.Join(err, os.RemoveAll(run))
	}
	d.at("boot: intended")
	c, err := d.spawnShim(rec.ID)
	if err != nil {
		_ = v.update(func(r *banger.VM) {
			r.State, r.Reason, r.Machine, r.Capabilities = banger.Failed, err.Error(), nil, nil
		})
		return nil, errors.Join(err, os.RemoveAll(run))
	}
	d.at("boot: spawned")
	v.follow(c)
	return c, nil
}

// prepare is the part of a boot that is told to the shim.
func (d *Daemon) prepare(ctx context.Context, rec banger.VM, caps []capability) (spec shim.Spec, err error) {
	// 1. The kernel and the image as they are now, and how the one boots the other.
	kernel, err := d.kernels.Get(rec.Spec.Kernel)
	if err != nil {
		return spec, err
	}
	plan, err := d.planVM(rec, kernel)
	if err == nil {
		err = canMount(rec.Spec.Mounts, kernel)
	}
	if err != nil {
		return spec, err
	}
	image, err := d.images.Get(rec.Spec.Image)
	if err != nil {
		return spec, err
	}
	imageDisk, err := d.rootfsOf(image)
	if err != nil {
		return spec, err
	}

	// 2. What all VMs with this kernel and this banger share: boot disk and initrd.
	bootDisk, err := d.bootDisk(ctx)
	if err != nil {
		return spec, err
	}
	initrd, err := d.bootInitrd(ctx, plan, kernel, image, rec.Root)
	if err != nil {
		return spec, err
	}

	// 3. The machine: three disks, of which the last is its own and the others are shared.
	spec = shim.Spec{
		Machine: vmm.Spec{
			ID: rec.ID, CPUs: rec.Spec.CPUs, Memory: rec.Spec.Memory, Accel: rec.Spec.Accel, RunDir: d.Layout.VMRun(rec.ID),
			Kernel: d.kernels.Path(rec.Spec.Kernel, state.VmlinuxFile), Initrd: initrd, Cmdline: rootWords(plan, rec.Root),
			Disks: []vmm.Disk{
				{Path: bootDisk, ReadOnly: true},
				{Path: imageDisk, ReadOnly: true},
				{Path: filepath.Join(d.Layout.VM(rec.ID), state.DiskFile)},
			},
		},
		Mounts: rec.Spec.Mounts, UserKey: d.Layout.UserKey(), HostKey: rec.HostKey, BootPath: plan.Path, BootReason: plan.Reason,
		Timeout: time.Duration(rec.Spec.Timeout) * time.Second, IdleTimeout: time.Duration(rec.Spec.IdleTimeout) * time.Second,
	}

	if err := d.fitDisk(rec); err != nil { // a resize may have been cut off
		return spec, err
	}

	// 4. What the guest is told when it asks, and what its kernel is told.
	if spec.Hello, err = d.helloConfig(rec, image); err != nil {
		return spec, err
	}
	if err := d.addModules(ctx, &spec, rec.Spec.Kernel); err != nil {
		return spec, err
	}
	if err := d.addFiles(&spec, rec); err != nil {
		return spec, err
	}
	for _, c := range caps {
		if c.prepare == nil {
			continue
		}
		if err := c.prepare(&spec, kernel, rec.Spec); err != nil {
			return spec, err
		}
	}
	return spec, addArgs(&spec, kernel, rec.Spec)
}

func builtinGuest() (program []byte, sha256 string, err error) {
	if program, err = guestbin.Bytes(); err == nil {
		sha256, err = guestbin.SHA256()
	}
	return program, sha256, err
}

// bootDisk makes the disk with the guest binary, once per guest binary.
func (d *Daemon) bootDisk(ctx context.Context) (string, error) {
	guest, sum, err := d.guest()
	if err != nil {
		return "", err
	}
	return d.cached(ctx, filepath.Join(d.Layout.BootDisks(), sum[:16]+".img"), func(path string) error {
		return rootfs.BootDisk(path, bytes.NewReader(guest), int64(len(guest)))
	})
}

// initrd makes the initrd of a kernel whose drivers are modules, once per kernel
// and guest binary, and per set of modules that few boots want.
func (d *Daemon) initrd(ctx context.Context, name string, more ...string) (string, error) {
	guest, sum, err := d.guest()
	if err != nil {
		return "", err
	}
	id, err := d.recordID(name)
	if err != nil {
		return "", err
	}
	return d.cached(ctx, filepath.Join(d.Layout.Initrds(), strings.Join(append([]string{id, sum[:16]}, more...), "-")+".cpio"), func(path string) error {
		dir := d.kernels.Path(name, state.ModulesDir)
		names, err := kernelcat.InitrdModules(name, dir, more...)
		if err != nil {
			return err
		}
		modules, err := moduleFiles(dir, names)
		if err != nil {
			return err
		}
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		err = rootfs.Initrd(f, rootfs.File{Size: int64(len(guest)), Open: func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(guest)), nil
		}}, modules)
		// It has its name for good: a power cut must not leave an empty file with it.
		return errors.Join(err, f.Sync())
	})
}

// moduleFiles are kernel modules as files of an initrd: unpacked, whatever the
// distribution packs them with. No more than one of them is in memory.
func moduleFiles(dir string, names []string) ([]rootfs.File, error) {
	var files []rootfs.File
	for _, path := range names {
		name, b, err := kernelcat.ReadModule(dir, path)
		if err != nil {
			return nil, err
		}
		files = append(files, rootfs.File{Name: name, Size: int64(len(b)), Open: func() (io.ReadCloser, error) {
			_, b, err := kernelcat.ReadModule(dir, path)
			return io.NopCloser(bytes.NewReader(b)), err
		}})
	}
	return files, nil
}

// cached gives the path of a file that is made once, by the first who needs it.
func (d *Daemon) cached(ctx context.Context, path string, fill func(tmp string) error) (string, error) {
	unlock, err := d.keys.Lock(ctx, path)
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	dir, err := os.MkdirTemp(d.Layout.Scratch(), "make-")
	if err != nil {
		return "", state.Classify(err)
	}
	defer os.RemoveAll(dir)
	tmp := filepath.Join(dir, filepath.Base(path))
	if err := fill(tmp); err != nil {
		return "", state.Classify(fmt.Errorf("make %s: %w", filepath.Base(path), err))
	}
	if err := os.Rename(tmp, path); err != nil {
		return "", err
	}
	return path, nil
}

// helloConfig is what the guest gets to know: who it is, who may come in, what its image wants.
func (d *Daemon) helloConfig(rec banger.VM, image banger.Image) (hello.Config, error) {
	private, err := os.ReadFile(filepath.Join(d.Layout.VM(rec.ID), state.HostKeyFile))
	if err != nil {
		return hello.Config{}, fmt.Errorf("read host key: %w", err)
	}
	user, err := agent.LoadOrCreateUserKey(d.Layout.UserKey())
	if err != nil {
		return hello.Config{}, err
	}
	machineID := sha256.Sum256([]byte("banger machine-id " + rec.ID))
	return hello.Config{
		Version: d.Version.Version, ID: rec.ID, Hostname: hostname(rec.Spec), MachineID: hex.EncodeToString(machineID[:16]),
		HostKey: string(private), AuthorizedKeys: append([]string{string(ssh.MarshalAuthorizedKey(user.PublicKey()))}, rec.Spec.AuthorizedKeys...),
		Init: rec.Spec.Init, Env: slices.Concat(image.Config.Env, rec.Spec.Env),
		WorkingDir: cmp.Or(rec.Spec.WorkingDir, image.Config.WorkingDir), User: cmp.Or(rec.Spec.User, image.Config.User),
		Mounts: len(rec.Spec.Mounts),
	}, nil
}

// addNetwork puts the user-mode network into the machine and into what the
// guest is told. A kernel that can set up its network by itself, and has the
// driver built in, does so before its first process; for any other one the
// word would only be a wait for a device that comes later.
func addNetwork(spec *shim.Spec, kernel banger.Kernel, vm banger.VMSpec) error {
	if vm.Net != "nat" {
		return nil
	}
	u, err := network.NewUser("/etc/resolv.conf")
	if err != nil {
		return err
	}
	spec.Machine.Net = &vmm.Net{Guest: u.Guest, Gateway: u.Gateway, DNS: u.DNS, MAC: u.MAC}
	spec.Hello.Net = &hello.Net{MAC: u.MAC.String(), Address: u.Guest.String(), Gateway: u.Gateway.String(),
		DNS: []string{u.DNS.String()}, Search: u.Search}
	if kernel.Features["ip_pnp"] == "builtin" && kernel.Features["virtio_net"] == "builtin" {
		spec.Machine.Cmdline = append(spec.Machine.Cmdline, u.KernelWord(hostname(vm)))
	}
	return nil
}

// spawnShim starts the shim in a session of its own, so that no signal meant
// for the daemon reaches it. The shim inherits its listening socket: there is
// no moment at which it cannot be reached, so the daemon connects before there
// is a shim, and nothing can go wrong after its start.
func (d *Daemon) spawnShim(id string) (c *shim.Client, err error) {
	path := filepath.Join(d.Layout.VMRun(id), state.ShimSocket)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for the shim: %w", err)
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	socket, err := l.File()
	if err != nil {
		return nil, fmt.Errorf("listen for the shim: %w", err)
	}
	defer socket.Close()
	if c, err = shim.Dial(d.life, path); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = c.Close()
		}
	}()
	log, err := os.OpenFile(filepath.Join(d.Layout.VM(id), state.ShimLog), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start the shim: %w", err)
	}
	defer log.Close()
	cmd := exec.Command("/proc/self/exe", "shim", d.Layout.VM(id))
	cmd.Args[0] = "banger"
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, []*os.File{socket}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the shim: %w", err)
	}
	go func() { _ = cmd.Wait() }() // no task: it outlives the daemon
	return c, nil
}
