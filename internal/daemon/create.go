package daemon

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"banger"
	"banger/internal/agent"
	"banger/internal/api"
	"banger/internal/kernelcat"
	"banger/internal/state"
	"banger/internal/vmm"
)

// The defaults of a VM. Memory is touched by the guest page by page and disk
// block by block, so both are bounds, not costs.
const (
	defaultCPUs   = 1
	defaultMemory = 512 << 20
	minMemory     = 64 << 20 // what our generic kernel boots with, banger's own init and a small image
	defaultDisk   = 10 << 30
	minDisk       = 64 << 20
	maxDisk       = 16 << 40
	defaultGrace  = 30 * time.Second // systemd takes 2 to 6 s under emulation, longer on a busy host
	defaultBoot   = 120              // seconds: emulated, on a busy host, with many boots at once
	maxBoot       = 24 * 3600
	maxGrace      = 24 * 3600            // seconds
	maxLife       = 10 * 366 * 24 * 3600 // seconds
)

// vmCreate makes a VM and starts it. If anything goes wrong, or the caller
// goes away, nothing of it is left.
func (d *Daemon) vmCreate(ctx context.Context, r banger.VMCreateRequest, p progress) (banger.VM, error) {
	if r.Spec.Memory == 0 {
		r.Spec.Memory = d.memoryThatFits(defaultMemory)
	}
	spec, err := fillSpec(r.Spec)
	if err != nil {
		return banger.VM{}, err
	}
	id := newID()
	if spec.Name == "" {
		spec.Name = "vm-" + id[:6]
	}
	free, err := d.reserve(spec.Name)
	if err != nil {
		return banger.VM{}, err
	}
	defer free()
	d.at("create: reserved")
	unpromise, err := d.promiseMemory(banger.VM{ID: id, Name: spec.Name, Spec: spec}, r.NoStart)
	if err != nil {
		return banger.VM{}, fmt.Errorf("create vm %q: %w", spec.Name, err)
	}
	defer unpromise()
	image, err := d.ensureImage(ctx, spec.Image, p)
	if err != nil {
		return banger.VM{}, err
	}
	if err := runsHere(image); err != nil {
		return banger.VM{}, err
	}
	if spec, err = d.fillFromImage(spec, r.Spec, image); err != nil {
		return banger.VM{}, err
	}
	if spec.Kernel, err = d.ensureKernel(ctx, spec.Kernel, p); err != nil {
		return banger.VM{}, err
	}
	root, err := d.planRoot(spec, image)
	if err != nil {
		return banger.VM{}, err
	}
	if root == banger.FlatRoot {
		p(banger.Progress{Step: "copy image " + spec.Image})
	}
	// Until it is whole the VM is the daemon's: should the daemon be killed, the
	// next one removes it.
	owner := &d.self
	switch {
	case r.Ephemeral:
		owner, err = caller(ctx)
	case r.NoStart:
		owner = nil
	}
	if err != nil {
		return banger.VM{}, err
	}
	v, err := d.addVM(ctx, banger.VM{ID: id, Name: spec.Name, Spec: spec, Root: root, Owner: owner})
	if err != nil {
		return banger.VM{}, err
	}
	rec, err := d.finish(ctx, v, r, p)
	if err == nil && ctx.Err() != nil { // nobody has heard that it is there
		err = context.Cause(ctx)
	}
	if err != nil {
		if kept := d.keepConsole(rec, err); kept != "" {
			err = banger.AsError(err).WithHint("the whole console: %s", kept)
		}
		return rec, errors.Join(err, d.remove(v))
	}
	return rec, nil
}

// runsHere refuses an image that is made for another machine.
func runsHere(image banger.Image) error {
	if image.Arch == "" || image.Arch == hostArch() {
		return nil
	}
	return banger.Errorf(banger.Unsupported, "image %q is made for %s, this host is %s", image.Name, image.Arch, hostArch()).
		WithHint("pull it for this host: banger image pull --name NAME REF")
}

// maxConsoles is how many consoles of VMs that did not boot are kept.
const maxConsoles = 10

// keepConsole moves the console of a VM that did not boot, and is to go, into
// the cache, and gives its path there, or nothing if there is nothing to see.
func (d *Daemon) keepConsole(rec banger.VM, err error) string {
	fi, statErr := os.Stat(rec.Console)
	if !banger.IsKind(err, banger.Unavailable) || statErr != nil || fi.Size() == 0 {
		return ""
	}
	// The names begin with the time, so that the oldest come first.
	path := filepath.Join(d.Layout.Consoles(), time.Now().UTC().Format("20060102-150405-")+rec.Name+"-"+rec.ID+".log")
	if err := os.Rename(rec.Console, path); err != nil {
		return "" // the cache is on another disk; the error has the last lines
	}
	if all, err := os.ReadDir(d.Layout.Consoles()); err == nil {
		for _, old := range all[:max(0, len(all)-maxConsoles)] {
			_ = os.Remove(filepath.Join(d.Layout.Consoles(), old.Name()))
		}
	}
	return path
}

// finish takes a VM that was added to where its caller wants it.
func (d *Daemon) finish(ctx context.Context, v *vm, r banger.VMCreateRequest, p progress) (banger.VM, error) {
	if r.Ephemeral {
		d.watchOwner(v)
	}
	if r.NoStart {
		return v.record(), nil
	}
	if _, err := d.start(ctx, v, p); err != nil {
		return v.record(), err
	}
	d.at("create: running")
	if !r.Ephemeral {
		if err := v.intend(func(rec *banger.VM) { rec.Owner = nil }); err != nil {
			return v.record(), err
		}
	}
	return v.record(), nil
}

// caller is the process that made the call.
func caller(ctx context.Context) (*banger.Process, error) {
	peer := api.Peer(ctx)
	if peer == nil {
		return nil, banger.Errorf(banger.Invalid, "the caller of an ephemeral vm is not known")
	}
	p, err := vmm.ProcessOf(int(peer.Pid))
	return &p, err
}

// fillSpec checks what was asked for and fills in the defaults that depend on nothing else.
func fillSpec(s banger.VMSpec) (banger.VMSpec, error) {
	if s.Name != "" {
		if err := state.ValidateVMName(s.Name); err != nil {
			return s, err
		}
	}
	def := func(field *string, value string, others ...string) error {
		if *field == "" {
			*field = value
		}
		if *field != value && !slices.Contains(others, *field) {
			return banger.Errorf(banger.Invalid, "%q is none of %s", *field, strings.Join(append([]string{value}, others...), ", "))
		}
		return nil
	}
	for _, err := range []error{def(&s.Init, "auto", inits[1:]...), def(&s.Net, "nat", "none"), def(&s.Accel, "auto", "kvm", "tcg"),
		def(&s.Restart, "no", "on-failure", "always")} {
		if err != nil {
			return s, err
		}
	}
	if s.CPUs == 0 {
		s.CPUs = defaultCPUs
	}
	if s.Memory == 0 {
		s.Memory = defaultMemory
	}
	if s.Disk == 0 {
		s.Disk = defaultDisk
	}
	if s.BootTimeout <= 0 {
		s.BootTimeout = defaultBoot
	}
	switch {
	case s.CPUs < 1 || s.CPUs > 64:
		return s, banger.Errorf(banger.Invalid, "%d CPUs: want 1 to 64", s.CPUs)
	case s.Memory < minMemory || s.Memory > 1<<40:
		return s, banger.Errorf(banger.Invalid, "%d bytes of memory: want 64 MiB to 1 TiB", s.Memory)
	case s.Disk < minDisk || s.Disk > maxDisk:
		return s, banger.Errorf(banger.Invalid, "%d bytes of disk: want 64 MiB to 16 TiB", s.Disk)
	case s.BootTimeout > maxBoot:
		return s, banger.Errorf(banger.Invalid, "%d seconds to boot: want at most %d", s.BootTimeout, maxBoot)
	case s.Timeout < 0 || s.Timeout > maxLife || s.IdleTimeout < 0 || s.IdleTimeout > maxLife:
		return s, banger.Errorf(banger.Invalid, "a limit of %d or %d seconds: want at most %d", s.Timeout, s.IdleTimeout, maxLife)
	case s.Image == "":
		return s, banger.Errorf(banger.Invalid, "no image given").WithHint("banger image ls --available")
	}
	return s, errors.Join(checkGuest(s), checkMounts(s.Mounts), kernelcat.ValidateArgs(s.KernelArgs))
}

// reserve keeps the name for a VM that is being made.
func (d *Daemon) reserve(name string) (free func(), err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	taken := d.names[name]
	for _, v := range d.vms {
		taken = taken || v.record().Name == name
	}
	if taken {
		return nil, banger.Errorf(banger.Exists, "a vm named %q is already there", name).
			WithHint("banger vm rm %s, or take another name", name)
	}
	d.names[name] = true
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.names, name)
	}, nil
}

func newID() string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// addVM makes the VM's folder with its disk and its keys. rec says who it is,
// what it is to be and whose it is.
func (d *Daemon) addVM(ctx context.Context, rec banger.VM) (*vm, error) {
	id, spec := rec.ID, rec.Spec
	stage, err := d.disks.Stage()
	if err != nil {
		return nil, err
	}
	rec, err = d.fillVM(ctx, stage, rec)
	if err == nil {
		d.at("create: staged")
		d.refs.Lock()
		defer d.refs.Unlock()
		_, err = d.images.Get(spec.Image)
	}
	if err == nil && !d.kernels.Has(spec.Kernel) {
		err = d.kernels.Missing(spec.Kernel)
	}
	if err == nil {
		err = d.disks.Commit(stage, id, rec, false)
	}
	if err != nil {
		// A commit that failed late has given the folder its name.
		_ = errors.Join(os.RemoveAll(stage), os.RemoveAll(d.disks.Path(id)))
		return nil, state.Classify(fmt.Errorf("create vm %q: %w", spec.Name, err))
	}
	d.at("create: committed")
	v := d.newVM(rec)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.vms[id] = v
	d.journal.add(vmEvent(rec, "created", ""))
	d.Log.Info("vm created", "vm", spec.Name, "id", id, "image", spec.Image, "kernel", spec.Kernel)
	return v, nil
}

func (d *Daemon) fillVM(ctx context.Context, stage string, rec banger.VM) (banger.VM, error) {
	rec.State, rec.CreatedAt = banger.Created, time.Now().UTC()
	rec.Console, rec.Agent = d.consolePath(rec.ID), d.agentPath(rec.ID)
	private, public, err := agent.NewHostKey()
	if err != nil {
		return rec, err
	}
	rec.HostKey = strings.TrimSpace(public)
	if err := state.WriteFile(filepath.Join(stage, state.HostKeyFile), []byte(private), 0o600); err != nil {
		return rec, err
	}
	if rec.Spec.Files, err = packFiles(ctx, filepath.Join(stage, state.FilesFile), rec.Spec.Files); err != nil {
		return rec, err
	}
	stays := rec.Owner == nil || *rec.Owner == d.self // else it goes with its caller
	return rec, d.makeDisk(ctx, filepath.Join(stage, state.DiskFile), rec.Spec, rec.Root, stays)
}
