package kernelcat

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"

	"banger"
	"banger/internal/fetch"
	"banger/internal/state"
)

// Local is the folder of the kernels that are here: NAME/manifest.json,
// vmlinux, and initrd.img or modules/ where the kernel needs them. A folder
// made by hand with a good manifest counts like any other; one with a bad
// manifest is listed with its problem.
type Local struct{ state.Store[Entry] }

// OpenLocal is the folder at dir, which exists.
func OpenLocal(dir string) Local {
	return Local{state.Store[Entry]{
		Dir: dir, File: state.ManifestFile, Noun: "kernel",
		Broken: func(name, problem string) Entry { return Entry{Name: name, Problem: problem} },
		Check:  checkLocal,
		Cache:  new(state.Cache[Entry]),
	}}
}

// checkLocal says what is wrong with a record and the files beside it.
func checkLocal(dir, name string, k Entry) error {
	switch {
	case k.Name != name:
		return fmt.Errorf("its manifest is that of %.80q", k.Name)
	case !fetch.IsHexSHA256(k.SHA256):
		return fmt.Errorf("its manifest has no sha256 of vmlinux")
	case k.Arch == "" || badText(k.Arch+k.Distro+k.KernelVersion+k.Source):
		return fmt.Errorf("its manifest has no arch, or a text with control characters")
	}
	fi, err := os.Lstat(dir + "/" + vmlinuxFile)
	if err != nil || !fi.Mode().IsRegular() {
		return fmt.Errorf("its vmlinux is missing")
	}
	return nil
}

// SumFile is the SHA-256 of a file, hex, and its size in bytes.
func SumFile(path string) (sum string, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	if size, err = io.Copy(h, f); err != nil {
		return "", 0, fmt.Errorf("sum %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), size, nil
}

// Verify reads a kernel's vmlinux again and compares it with the record. One
// that differs is a Conflict error.
func (l Local) Verify(k Entry) error {
	sum, size, err := SumFile(l.Path(k.Name, vmlinuxFile))
	if err != nil {
		return err
	}
	if sum != k.SHA256 {
		return banger.Errorf(banger.Conflict, "the vmlinux of kernel %q (%d bytes) is not the one that was pulled: sha256 %s..., its manifest says %s...", k.Name, size, sum[:16], k.SHA256[:16]).
			WithHint("banger kernel rm --force %s, then pull it again", k.Name)
	}
	return nil
}
