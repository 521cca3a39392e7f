package daemon

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"banger"
	"banger/internal/agent"
	"banger/internal/api"
	"banger/internal/rootfs"
	"banger/internal/shim"
	"banger/internal/state"
	"banger/internal/vmm"
)

// The defaults of a VM. Memory is touched by the guest page by page and disk
// block by block, so both are bounds, not costs.
const (
	defaultCPUs   = 1
	defaultMemory = 512 << 20
	defaultDisk   = 10 << 30
	minDisk       = 64 << 20
	defaultGrace  = 30 * time.Second // systemd takes 2 to 6 s under emulation, longer on a busy host
	defaultBoot   = 120              // seconds: emulated, on a busy host, with many boots at once
)

func (d *Daemon) vmList(context.Context, none) ([]banger.VM, error) { return d.allVMs(), nil }

func (d *Daemon) vmShow(_ context.Context, r banger.NameRequest) (banger.VM, error) {
	v, err := d.find(r.Name)
	if err != nil {
		return banger.VM{}, err
	}
	return v.record(), nil
}

// allVMs lists the records, oldest first.
func (d *Daemon) allVMs() []banger.VM {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := make([]banger.VM, 0, len(d.vms))
	for _, v := range d.vms {
		list = append(list, v.record())
	}
	slices.SortFunc(list, func(a, b banger.VM) int {
		if c := a.CreatedAt.Compare(b.CreatedAt); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return list
}

// find takes a name, an ID or an unambiguous prefix of at least four digits of an ID.
func (d *Daemon) find(name string) (*vm, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var hits []*vm
	var names []string
	for id, v := range d.vms {
		rec := v.record()
		if rec.Name == name || id == name {
			return v, nil
		}
		if len(name) >= 4 && strings.HasPrefix(id, name) {
			hits = append(hits, v)
		}
		names = append(names, rec.Name)
	}
	if len(hits) == 1 {
		return hits[0], nil
	}
	if len(hits) > 1 {
		var ids []string
		for _, v := range hits {
			ids = append(ids, v.record().ID)
		}
		slices.Sort(ids)
		return nil, banger.Errorf(banger.Invalid, "%q may be any of %s", name, strings.Join(ids, ", "))
	}
	err := banger.Errorf(banger.NotFound, "no vm named %q", name)
	if near := state.Nearest(name, names); near != "" {
		return nil, err.WithHint("did you mean %s?", near)
	}
	return nil, err.WithHint("banger vm ls")
}

// vmUsers names the VMs whose spec fits.
func (d *Daemon) vmUsers(fits func(banger.VMSpec) bool) []string {
	var users []string
	for _, v := range d.allVMs() {
		if fits(v.Spec) {
			users = append(users, "vm "+v.Name)
		}
	}
	return users
}

// vmCreate makes a VM and starts it. If anything goes wrong, or the caller
// goes away, nothing of it is left.
func (d *Daemon) vmCreate(ctx context.Context, r banger.VMCreateRequest, p progress) (banger.VM, error) {
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
	image, err := d.ensureImage(ctx, spec.Image, p)
	if err != nil {
		return banger.VM{}, err
	}
	spec.Image = image.Name
	if spec.Kernel == "" {
		spec.Kernel = image.Kernel
	}
	if spec.Kernel == "" {
		spec.Kernel = defaultKernel
	}
	if err := d.ensureKernel(ctx, spec.Kernel, p); err != nil {
		return banger.VM{}, err
	}
	var owner *banger.Process
	if r.Ephemeral {
		if owner, err = caller(ctx); err != nil {
			return banger.VM{}, err
		}
	}
	v, err := d.addVM(id, spec, owner)
	if err != nil {
		return banger.VM{}, err
	}
	if owner != nil {
		d.watchOwner(v)
	}
	if r.NoStart {
		return v.record(), nil
	}
	rec, err := d.start(ctx, v, p)
	if err != nil {
		if kept := d.keepConsole(rec); kept != "" && banger.IsKind(err, banger.Unavailable) {
			err = banger.AsError(err).WithHint("the whole console: %s", kept)
		}
		_ = d.remove(v)
		return rec, err
	}
	return rec, nil
}

// maxConsoles is how many consoles of VMs that did not boot are kept.
const maxConsoles = 10

// keepConsole moves the console of a VM that is to go into the cache, and
// gives its path there, or nothing if there is nothing to see.
func (d *Daemon) keepConsole(rec banger.VM) string {
	if fi, err := os.Stat(rec.Console); err != nil || fi.Size() == 0 {
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
	for _, err := range []error{def(&s.Init, "auto", "banger", "systemd"), def(&s.Net, "nat", "none"), def(&s.Accel, "auto", "kvm", "tcg")} {
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
	case s.Memory < 128<<20 || s.Memory > 1<<40:
		return s, banger.Errorf(banger.Invalid, "%d bytes of memory: want 128 MiB to 1 TiB", s.Memory)
	case s.Disk < minDisk || s.Disk > 16<<40:
		return s, banger.Errorf(banger.Invalid, "%d bytes of disk: want 64 MiB to 16 TiB", s.Disk)
	case s.Image == "":
		return s, banger.Errorf(banger.Invalid, "no image given").WithHint("banger image ls --available")
	}
	return s, nil
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

// addVM makes the VM's folder with its empty disk and its keys. Nothing of the image is copied.
func (d *Daemon) addVM(id string, spec banger.VMSpec, owner *banger.Process) (*vm, error) {
	stage, err := d.disks.Stage()
	if err != nil {
		return nil, err
	}
	rec, err := d.fillVM(stage, id, spec, owner)
	if err == nil {
		d.refs.Lock()
		defer d.refs.Unlock()
		if _, err = d.images.Get(spec.Image); err == nil {
			err = d.disks.Commit(stage, id, rec, false)
		}
	}
	if err != nil {
		_ = os.RemoveAll(stage)
		return nil, state.Classify(fmt.Errorf("create vm %q: %w", spec.Name, err))
	}
	v := d.newVM(rec)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.vms[id] = v
	d.Log.Info("vm created", "vm", spec.Name, "id", id, "image", spec.Image, "kernel", spec.Kernel)
	return v, nil
}

func (d *Daemon) fillVM(stage, id string, spec banger.VMSpec, owner *banger.Process) (banger.VM, error) {
	rec := banger.VM{
		ID: id, Name: spec.Name, Spec: spec, State: banger.Created, CreatedAt: time.Now().UTC(), Owner: owner,
		Console: filepath.Join(d.Layout.VM(id), state.ConsoleLog),
		Agent:   filepath.Join(d.Layout.VMRun(id), state.AgentSocket),
	}
	private, public, err := agent.NewHostKey()
	if err != nil {
		return rec, err
	}
	rec.HostKey = strings.TrimSpace(public)
	if err := state.WriteFile(filepath.Join(stage, state.HostKeyFile), []byte(private), 0o600); err != nil {
		return rec, err
	}
	return rec, rootfs.Empty(filepath.Join(stage, state.DiskFile), spec.Disk)
}

func (d *Daemon) vmStart(ctx context.Context, r banger.NameRequest, p progress) (banger.VM, error) {
	v, err := d.find(r.Name)
	if err != nil {
		return banger.VM{}, err
	}
	return d.start(ctx, v, p)
}

func (d *Daemon) vmStop(ctx context.Context, r banger.VMStopRequest) (banger.VM, error) {
	v, err := d.find(r.Name)
	if err != nil {
		return banger.VM{}, err
	}
	unlock, err := d.keys.Lock(ctx, "vm/"+v.record().ID)
	if err != nil {
		return banger.VM{}, err
	}
	defer unlock()
	if !alive(v.record().State) {
		return v.record(), nil
	}
	grace := time.Duration(r.Seconds) * time.Second
	if grace <= 0 {
		grace = defaultGrace
	}
	if err := v.update(func(rec *banger.VM) { rec.State, rec.Reason = banger.Stopping, "" }); err != nil {
		return v.record(), err
	}
	v.end(r.Force, grace)
	return v.wait(ctx, func(rec banger.VM) bool { return !alive(rec.State) })
}

// end asks the shim for the end of the machine.
func (v *vm) end(force bool, grace time.Duration) {
	v.order(func(c *shim.Client) error {
		if force {
			return c.Kill()
		}
		return c.Stop(grace)
	})
}

func (d *Daemon) vmDelete(ctx context.Context, r banger.NameRequest) (none, error) {
	v, err := d.find(r.Name)
	if err != nil {
		return none{}, err
	}
	rec := v.record()
	unlock, err := d.keys.Lock(ctx, "vm/"+rec.ID)
	if err != nil {
		return none{}, err
	}
	defer unlock()
	if rec = v.record(); alive(rec.State) && !r.Force {
		return none{}, banger.Errorf(banger.Conflict, "vm %q is %s", rec.Name, rec.State).
			WithHint("banger vm stop %s, or banger vm rm --force %s", rec.Name, rec.Name)
	}
	return none{}, d.removeLocked(ctx, v)
}

// remove takes a VM away whatever it does, for good: also when the caller is gone.
func (d *Daemon) remove(v *vm) error {
	unlock, err := d.keys.Lock(d.life, "vm/"+v.record().ID)
	if err != nil {
		return err
	}
	defer unlock()
	return d.removeLocked(d.life, v)
}

func (d *Daemon) removeLocked(ctx context.Context, v *vm) error {
	if alive(v.record().State) {
		v.end(true, 0)
		if _, err := v.wait(ctx, func(rec banger.VM) bool { return !alive(rec.State) }); err != nil {
			return err
		}
	}
	rec := v.record()
	d.mu.Lock()
	_, there := d.vms[rec.ID]
	delete(d.vms, rec.ID)
	d.mu.Unlock()
	if !there {
		return nil // somebody else was faster
	}
	_ = os.RemoveAll(d.Layout.VMRun(rec.ID))
	if err := d.disks.Delete(rec.ID); err != nil {
		return err
	}
	d.Log.Info("vm removed", "vm", rec.Name)
	return nil
}
