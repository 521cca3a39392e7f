package daemon

import (
	"context"
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

// planRoot decides what the root of a new VM will be. Its kernel may be another
// one at a later start.
func (d *Daemon) planRoot(spec banger.VMSpec) (banger.RootKind, error) {
	kernel, err := d.kernels.Get(spec.Kernel)
	if err != nil {
		return "", err
	}
	if err := kernelcat.ValidateArgs(kernel.Args, spec.KernelArgs); err != nil {
		return "", err
	}
	plan, err := d.planBoot(kernel)
	if err != nil {
		return "", err
	}
	if plan.Path == kernelcat.BootFlat {
		return banger.FlatRoot, nil
	}
	return banger.OverlayRoot, nil
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

// bootInitrd is the path of the initrd that the plan wants, or nothing.
func (d *Daemon) bootInitrd(ctx context.Context, plan kernelcat.BootPlan, kernel banger.Kernel, image banger.Image) (string, error) {
	erofs := image.FS == rootfs.FSErofs
	switch {
	case erofs && plan.Path == kernelcat.BootInitrd:
		return d.initrd(ctx, kernel.Name, rootfs.FSErofs)
	case erofs && plan.Path == kernelcat.BootDirect && kernel.Features[rootfs.FSErofs] != "builtin":
		return "", banger.Errorf(banger.Unsupported, "image %q is an erofs file system, for which kernel %q has no driver built in", image.Name, kernel.Name).
			WithHint("choose another kernel: banger kernel ls --available")
	case plan.Foreign:
		return d.kernels.Path(kernel.Name, state.InitrdFile), nil
	case plan.Path == kernelcat.BootInitrd:
		return d.initrd(ctx, kernel.Name)
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
	if e := banger.AsError(err); err != nil && e.Hint == "" {
		switch e.Kind {
		case banger.Unsupported:
			err = e.WithHint("make the image anew, with --force, or take a kernel that has overlay: banger kernel ls --available")
		case banger.Invalid:
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
