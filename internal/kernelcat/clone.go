package kernelcat

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path"

	"banger"
	"banger/internal/hostfile"
)

// The parts of a bundle that are files of this host share their blocks with
// them, where the file system can.

// cloneKernel is setKernel and extract in one, for a file of size bytes.
func (b *bundle) cloneKernel(src *os.File, size int64) (VmlinuxInfo, error) {
	if size == 0 || size > maxVmlinuz {
		return VmlinuxInfo{}, banger.Errorf(banger.Invalid, "a kernel does not have %d bytes", size)
	}
	magic := make([]byte, bootHeaderSize)
	if _, err := src.ReadAt(magic, 0); err != nil && err != io.EOF {
		return VmlinuxInfo{}, err
	}
	elf := bytes.HasPrefix(magic, []byte("\x7fELF"))
	if !elf && string(magic[offMagic:offMagic+4]) != "HdrS" { // packed as a whole, or no kernel
		if err := b.setKernel(src.Name(), src); err != nil {
			return VmlinuxInfo{}, err
		}
		return b.extract(b.ctx)
	}
	dst, err := b.root.OpenFile(vmlinuxFile, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o444)
	if err != nil {
		return VmlinuxInfo{}, err
	}
	var info VmlinuxInfo
	if !elf {
		info, err = Vmlinux(b.ctx, dst, src, size)
	} else if err = hostfile.Clone(b.ctx, dst, src); err == nil {
		info, err = Vmlinux(b.ctx, there{dst}, dst, size)
	}
	if err = errors.Join(err, dst.Close()); err != nil {
		return VmlinuxInfo{}, err
	}
	b.vmlinuzSize, b.info = size, &info
	return b.extract(b.ctx)
}

// there is a file that has what would be written to it.
type there struct{ io.ReaderAt }

func (there) Write(p []byte) (int, error) { return len(p), nil }

// cloneInitrd is setInitrd for a file of size bytes.
func (b *bundle) cloneInitrd(src *os.File, size int64) error {
	if size > maxInitrd {
		return banger.Errorf(banger.Invalid, "initrd: %w", errTooBig)
	}
	b.initrdSize = size
	return b.clone(initrdFile, src)
}

// cloneModule is addModule for a file of size bytes.
func (b *bundle) cloneModule(name string, src *os.File, size int64) error {
	if b.left -= size; b.left < 0 {
		return banger.Errorf(banger.Invalid, "modules: more than %d bytes", int64(maxUnpacked))
	}
	name = path.Join(modulesDir, name)
	if err := b.mkdirAll(path.Dir(name)); err != nil {
		return err
	}
	b.modulesSize += size
	return b.clone(name, src)
}

// dropModules removes what was copied of the modules' folder.
func (b *bundle) dropModules() error {
	b.modulesSize, b.made = 0, ""
	return b.root.RemoveAll(modulesDir)
}

// clone makes a new file, read-only, of one of the host.
func (b *bundle) clone(name string, src *os.File) error {
	dst, err := b.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o444)
	if err != nil {
		return asTwice(err, name)
	}
	return errors.Join(hostfile.Clone(b.ctx, dst, src), dst.Close())
}
