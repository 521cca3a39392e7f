package daemon

import (
	"cmp"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"banger"
	"banger/internal/share"
)

// maxMounts bounds the folders of the host in a VM: each is a stream of its agent.
const maxMounts = 16

// notMounted are the places of the guest's kernel and of banger.
var notMounted = []string{"/proc", "/sys", "/dev", "/run/banger"}

// checkMounts checks the folders that a new VM is to have, and puts them into the
// order in which they are mounted: each after those that it may lie in.
func checkMounts(mounts []banger.Mount) error {
	if len(mounts) > maxMounts {
		return banger.Errorf(banger.Invalid, "%d mounts: want at most %d", len(mounts), maxMounts)
	}
	slices.SortStableFunc(mounts, func(a, b banger.Mount) int { return cmp.Compare(a.Target, b.Target) })
	for i, m := range mounts {
		switch {
		case !filepath.IsAbs(m.Source) || !isText(m.Source):
			return banger.Errorf(banger.Invalid, "bad folder %q to mount: want an absolute path", m.Source)
		case !path.IsAbs(m.Target) || path.Clean(m.Target) != m.Target || m.Target == "/" || !isText(m.Target) || len(m.Target) > 1024:
			return banger.Errorf(banger.Invalid, "bad place %q to mount %q at: want an absolute path, without dots, and not the root", m.Target, m.Source)
		case i > 0 && mounts[i-1].Target == m.Target:
			return banger.Errorf(banger.Invalid, "two folders to mount at %q", m.Target)
		case slices.ContainsFunc(notMounted, func(p string) bool { return m.Target == p || strings.HasPrefix(m.Target, p+"/") }):
			return banger.Errorf(banger.Invalid, "bad place %q to mount %q at: it is the system's own", m.Target, m.Source)
		}
	}
	return nil
}

// canMount checks that the folders are there, and that the kernel can mount them.
func canMount(mounts []banger.Mount, kernel banger.Kernel) error {
	if len(mounts) > 0 && kernel.Features["9p"] == "" {
		return banger.Errorf(banger.Unsupported, "kernel %q has no 9p, which --mount needs", kernel.Name).
			WithHint("take one that has it: banger kernel ls --available, or Debian's full one: banger kernel pull deb://linux-image-amd64")
	}
	for _, m := range mounts {
		f, err := share.Open(m.Source, m.ReadOnly)
		if err != nil {
			return err
		}
		_ = f.Close()
	}
	return nil
}
