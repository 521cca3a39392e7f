package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"banger"
	"banger/internal/hello"
	"banger/internal/kernelcat"
	"banger/internal/rootfs"
	"banger/internal/shim"
	"banger/internal/state"
)

// planBoot chooses how to boot a kernel, by its record and its folder.
func (d *Daemon) planBoot(k banger.Kernel) (kernelcat.BootPlan, error) {
	has := func(name string) bool {
		_, err := os.Stat(d.kernels.Path(k.Name, name))
		return err == nil
	}
	return kernelcat.PlanBoot(k, kernelcat.Parts{Modules: has(state.ModulesDir), Initrd: has(state.InitrdFile)})
}

// planRoot decides what the root of a new VM of an image will be. Its kernel may
// be another one at a later start.
func (d *Daemon) planRoot(spec banger.VMSpec, image banger.Image) (banger.RootKind, error) {
	kernel, err := d.kernels.Get(spec.Kernel)
	if err != nil {
		return "", err
	}
	if err := errors.Join(kernelcat.ValidateArgs(kernel.Args, spec.KernelArgs), canMount(spec.Mounts, kernel)); err != nil {
		return "", err
	}
	plan, err := d.planBoot(kernel)
	if err != nil {
		return "", err
	}
	if plan.Path == kernelcat.BootFlat {
		return banger.FlatRoot, nil
	}
	// A kernel that cannot mount the image gets an ext4 copy of it.
	if mounts, err := d.mounts(plan, kernel, image); err != nil || !mounts {
		return banger.FlatRoot, err
	}
	return banger.OverlayRoot, nil
}

// mounts reports whether a kernel, booted so, has the driver of an image's file
// system. That of ext4 it needs for the machine's own disks.
func (d *Daemon) mounts(plan kernelcat.BootPlan, kernel banger.Kernel, image banger.Image) (bool, error) {
	switch {
	case image.FS != rootfs.FSErofs:
		return true, nil
	case plan.Path != kernelcat.BootInitrd:
		return kernel.Features[rootfs.FSErofs] == "builtin", nil
	}
	// Its record may be of before anybody looked for the module.
	_, err := kernelcat.InitrdModules(kernel.Name, d.kernels.Path(kernel.Name, state.ModulesDir), rootfs.FSErofs)
	if banger.IsKind(err, banger.Unsupported) {
		return false, nil
	}
	return err == nil, err
}

// planVM is planBoot for a VM whose root is there already. Every kernel can
// boot a flat root; one that must have it cannot boot an overlay.
func (d *Daemon) planVM(rec banger.VM, kernel banger.Kernel) (kernelcat.BootPlan, error) {
	plan, err := d.planBoot(kernel)
	switch {
	case err != nil:
	case plan.Path == kernelcat.BootFlat && rec.Root != banger.FlatRoot:
		err = banger.Errorf(banger.Conflict, "vm %q was made for a kernel with overlay, and kernel %q cannot boot it any more: %s",
			rec.Name, kernel.Name, plan.Reason).WithHint("give kernel %s back what it had, or make the vm anew", kernel.Name)
	case plan.Path != kernelcat.BootFlat && rec.Root == banger.FlatRoot:
		plan.Reason += "; the root is flat, for so the vm was made"
	}
	return plan, err
}

// bootInitrd is the path of the initrd that the plan wants, or nothing. Its
// image has to be one that the kernel mounts, unless the root is a copy of it.
func (d *Daemon) bootInitrd(ctx context.Context, plan kernelcat.BootPlan, kernel banger.Kernel, image banger.Image, root banger.RootKind) (string, error) {
	var more []string
	if image.FS == rootfs.FSErofs && root != banger.FlatRoot {
		if mounts, err := d.mounts(plan, kernel, image); err != nil {
			return "", err
		} else if !mounts {
			return "", banger.Errorf(banger.Conflict, "image %q is an erofs file system, and kernel %q has no driver for it any more", image.Name, kernel.Name).
				WithHint("give kernel %s back what it had, or make the vm anew: it gets a copy of the image", kernel.Name)
		}
		more = append(more, rootfs.FSErofs)
	}
	switch {
	case plan.Foreign:
		return d.kernels.Path(kernel.Name, state.InitrdFile), nil
	case plan.Path == kernelcat.BootInitrd:
		return d.initrd(ctx, kernel.Name, more...)
	}
	return "", nil
}

// rootWords tell the kernel, or the initrd of somebody else, to run the guest
// program from the boot disk, and that program what its root is.
func rootWords(plan kernelcat.BootPlan, root banger.RootKind) []string {
	var words []string
	if plan.Path != kernelcat.BootInitrd {
		words = append(words, "root=/dev/vda", "rootfstype=ext4", "ro", "init="+rootfs.GuestPath)
	}
	if plan.Foreign {
		// initramfs-tools, dracut, mkinitcpio and systemd know it: a disk that
		// cannot be written to is nothing to repair.
		words = append(words, "fsck.mode=skip")
	}
	if root == banger.FlatRoot {
		words = append(words, hello.FlatRoot)
	}
	return words
}

// addArgs adds the words of the kernel's record and of the VM, last: of most
// words the last one counts.
func addArgs(spec *shim.Spec, kernel banger.Kernel, vm banger.VMSpec) error {
	spec.Machine.Cmdline = slices.Concat(spec.Machine.Cmdline, kernel.Args, vm.KernelArgs)
	return kernelcat.ValidateArgs(kernel.Args, vm.KernelArgs)
}

// makeDisk makes the private disk of a VM: of a few hundred KiB for an overlay,
// a copy of the image for a flat root. The copy is on the disk if it is to stay.
func (d *Daemon) makeDisk(ctx context.Context, path string, spec banger.VMSpec, root banger.RootKind, stays bool) error {
	if root != banger.FlatRoot {
		return rootfs.Empty(path, spec.Disk)
	}
	image, err := d.images.Get(spec.Image)
	if err != nil {
		return err
	}
	disk, err := d.rootfsOf(image)
	if err != nil {
		return err
	}
	err = rootfs.Private(ctx, path, disk, spec.Disk)
	if e := banger.AsError(err); err != nil {
		switch {
		case e.Kind == banger.Unsupported && image.FS == rootfs.FSErofs:
			err = e.WithHint("take a kernel that has erofs and overlay: banger kernel ls --available")
		case e.Hint != "":
		case e.Kind == banger.Unsupported:
			err = e.WithHint("make the image anew, with --force, or take a kernel that has overlay: banger kernel ls --available")
		case e.Kind == banger.Invalid:
			err = e.WithHint("give the vm a larger --disk")
		}
	}
	if err != nil || !stays {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return nil
}
