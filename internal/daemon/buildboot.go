package daemon

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"strings"

	"banger"
	"banger/internal/rootfs"
	"banger/internal/state"
)

// maxSent is how many bytes of layers are sent into a machine that boots the
// base; with more of them, or a base that the kernel cannot mount, it boots an
// ext4 image that has them.
const maxSent = 8 << 20

// boot starts the machine that runs the stage's steps from here on.
func (s *buildStage) boot(ctx context.Context) (*buildVM, error) {
	var size int64
	for _, l := range s.blobs {
		size += l.Size
	}
	spec := banger.VMSpec{Name: "build-" + newID()[:6], Image: "scratch", Kernel: s.b.r.Kernel,
		CPUs: s.b.r.CPUs, Memory: s.b.r.Memory, Disk: s.b.r.Disk}
	mounts := true
	if root := s.root(); root != nil {
		spec.Image = root.image.Name
		spec.Kernel = cmp.Or(spec.Kernel, root.image.Kernel, defaultKernel)
		var err error
		if mounts, err = s.b.d.mountsNamed(ctx, spec.Kernel, root.image, s.b.p); err != nil {
			return nil, err
		}
	}
	send := s.blobs
	if size > maxSent || !mounts {
		if err := s.temporary(ctx, spec.Name); err != nil {
			return nil, err
		}
		spec.Image, send = spec.Name, nil
	}
	vm, err := s.b.d.bootBuilder(ctx, spec, s.b.wantsCaches(), s.b.p)
	if err != nil {
		return nil, errors.Join(err, s.b.d.dropTemporary(spec.Image))
	}
	vm.b = s.b
	for _, blob := range send {
		if err := vm.apply(ctx, blob); err != nil {
			return nil, errors.Join(err, vm.close())
		}
	}
	return vm, nil
}

// mountsNamed is mounts for a kernel that may have to be pulled first.
func (d *Daemon) mountsNamed(ctx context.Context, name string, image banger.Image, p progress) (bool, error) {
	if image.FS != rootfs.FSErofs {
		return true, nil
	}
	name, err := d.ensureKernel(ctx, name, p)
	if err != nil {
		return false, err
	}
	kernel, err := d.kernels.Get(name)
	if err != nil {
		return false, err
	}
	plan, err := d.planBoot(kernel)
	if err != nil {
		return false, err
	}
	return d.mounts(plan, kernel, image)
}

// temporary makes an image of the stage so far. It goes with the VM of that name.
func (s *buildStage) temporary(ctx context.Context, name string) error {
	layers, err := s.layers()
	if err != nil {
		return err
	}
	unlock, err := s.b.d.keys.Lock(ctx, "image/"+name)
	if err != nil {
		return err
	}
	defer unlock()
	_, err = s.b.d.addImage(false, func(stage string) (banger.Image, error) {
		im := banger.Image{Name: name, Source: "build:" + s.baseText(), Arch: hostArch(), CreatedAt: s.b.now, Temporary: true}
		return im, buildRootfs(ctx, stage, &im, layers, s.b.p)
	})
	return err
}

// dropTemporary removes an image that was made for a VM alone.
func (d *Daemon) dropTemporary(name string) error {
	if !strings.HasPrefix(name, "build-") || !d.images.Has(name) {
		return nil
	}
	d.refs.Lock()
	defer d.refs.Unlock()
	im, err := d.images.Get(name)
	if err != nil || !im.Temporary || len(d.imageUsers(name)) > 0 {
		return nil
	}
	if err := d.deleteImage(name); err != nil && !errors.Is(err, fs.ErrNotExist) && !banger.IsKind(err, banger.NotFound) {
		return err
	}
	return nil
}

// sweepTemporary removes the images that builds of a daemon before left.
func (d *Daemon) sweepTemporary() error {
	names, err := d.images.Names()
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		errs = append(errs, d.dropTemporary(name))
	}
	return errors.Join(errs...)
}

// diskOf is the disk of a VM.
func (d *Daemon) diskOf(id string) string { return filepath.Join(d.Layout.VM(id), state.DiskFile) }
