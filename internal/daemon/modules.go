package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"banger/internal/kernelcat"
	"banger/internal/rootfs"
	"banger/internal/shim"
	"banger/internal/state"
	"banger/internal/vmm"
)

// addModules puts the kernel's modules into the machine, for the kernel to load
// what it is asked for.
func (d *Daemon) addModules(ctx context.Context, spec *shim.Spec, kernel string) error {
	disk, err := d.modulesDisk(ctx, kernel)
	if err != nil || disk == "" {
		return err
	}
	spec.Machine.Disks = append(spec.Machine.Disks, vmm.Disk{Path: disk, ReadOnly: true})
	spec.Hello.Modules = true
	return nil
}

// recordID names what is made of a kernel's modules. It is that of the kernel's
// record, so that a kernel which is replaced gets others: the same vmlinux may
// come with other modules.
func (d *Daemon) recordID(kernel string) (string, error) {
	record, err := os.ReadFile(d.kernels.Path(kernel, state.ManifestFile))
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(record)
	return hex.EncodeToString(sum[:8]), nil
}

// modulesDisk makes the disk with the kernel's modules, once per kernel; a
// kernel without modules has none.
func (d *Daemon) modulesDisk(ctx context.Context, kernel string) (string, error) {
	dir := d.kernels.Path(kernel, state.ModulesDir)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	} else if err != nil {
		return "", err
	}
	id, err := d.recordID(kernel)
	if err != nil {
		return "", err
	}
	return d.cached(ctx, filepath.Join(d.Layout.ModuleDisks(), id+".img"), func(path string) error {
		_, err := rootfs.Build(ctx, path, []rootfs.Layer{{Name: "modules", Open: func(ctx context.Context) (io.ReadCloser, error) {
			r, w := io.Pipe()
			go func() { w.CloseWithError(kernelcat.WriteModules(w, dir)) }()
			return r, nil
		}}}, rootfs.Options{Workers: 1})
		return err
	})
}
