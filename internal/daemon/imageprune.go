package daemon

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"banger"
	"banger/internal/oci"
	"banger/internal/shim"
	"banger/internal/state"
)

// Kinds of what is pruned.
const (
	prunedImage   = "image"
	prunedLayer   = "layer"
	prunedBoot    = "boot disk"
	prunedInitrd  = "initrd"
	prunedModules = "modules disk"
	prunedCaches  = "build caches"
)

// imagePrune removes what nothing needs any more.
func (d *Daemon) imagePrune(ctx context.Context, r banger.ImagePruneRequest) (banger.PruneReport, error) {
	report := banger.PruneReport{Items: []banger.Pruned{}, Dry: r.DryRun}
	add := func(items []banger.Pruned, err error) error {
		for _, it := range items {
			report.Items = append(report.Items, it)
			report.Freed += it.Size
		}
		return err
	}
	gone := map[string]bool{} // images that go
	if r.All {
		items, err := d.pruneImages(ctx, r.DryRun)
		if err := add(items, err); err != nil {
			return report, err
		}
		for _, it := range items {
			gone[it.Name] = true
		}
	}
	if err := add(d.pruneLayers(ctx, gone, r.DryRun)); err != nil {
		return report, err
	}
	if err := add(d.pruneCaches(r.DryRun)); err != nil {
		return report, err
	}
	err := add(d.pruneBoot(ctx, r.DryRun))
	if !r.DryRun && len(report.Items) > 0 {
		d.Log.Info("pruned", "items", len(report.Items), "bytes", report.Freed)
	}
	return report, err
}

// pruneImages removes the images that no VM uses. One with a bad record stays:
// what it is nobody knows.
func (d *Daemon) pruneImages(ctx context.Context, dry bool) (items []banger.Pruned, err error) {
	images, err := d.images.List()
	if err != nil {
		return nil, err
	}
	links := map[uint64]uint64{} // of files with several names, those that go
	for _, im := range images {
		if im.Problem != "" {
			continue
		}
		it := banger.Pruned{Kind: prunedImage, Name: im.Name, Why: "no vm uses it"}
		gone, err := d.pruneImage(ctx, &it, links, dry)
		if err != nil {
			return items, err
		}
		if gone {
			items = append(items, it)
		}
	}
	return items, nil
}

func (d *Daemon) pruneImage(ctx context.Context, it *banger.Pruned, links map[uint64]uint64, dry bool) (gone bool, err error) {
	unlock, err := d.keys.Lock(ctx, "image/"+it.Name)
	if err != nil {
		return false, err
	}
	defer unlock()
	d.refs.Lock()
	defer d.refs.Unlock()
	if !d.images.Has(it.Name) || len(d.imageUsers(it.Name)) > 0 {
		return false, nil
	}
	entries, err := os.ReadDir(d.images.Path(it.Name))
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil {
			return false, err
		}
		st := fi.Sys().(*syscall.Stat_t)
		links[st.Ino]++
		// With its last name the file goes: of those that were removed the kernel has kept count.
		if last := links[st.Ino] == uint64(st.Nlink); dry && last || !dry && st.Nlink == 1 {
			it.Size += st.Blocks * 512
		}
	}
	if dry {
		return true, nil
	}
	return true, d.deleteImage(it.Name)
}

// pruneLayers removes the blobs that no image refers to, but for those that are
// being pulled, and for all while something is built.
func (d *Daemon) pruneLayers(ctx context.Context, gone map[string]bool, dry bool) (items []banger.Pruned, err error) {
	// A pull keeps hold of its layers until its record is there, which it is under this lock.
	d.refs.Lock()
	defer d.refs.Unlock()
	if d.builds.Load() > 0 {
		return nil, nil
	}
	images, err := d.images.List()
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for _, im := range images {
		for _, l := range im.Layers {
			used[l.Digest] = used[l.Digest] || !gone[im.Name]
		}
	}
	blobs, err := oci.CachedBlobs(d.Layout.Blobs())
	for _, b := range blobs {
		if ctx.Err() != nil {
			return items, context.Cause(ctx)
		}
		if used[b.Digest] || d.flight.Holds(b.Digest) {
			continue
		}
		if err := removeUnless(dry, b.Path); err != nil {
			return items, err
		}
		items = append(items, banger.Pruned{Kind: prunedLayer, Name: b.Digest, Size: b.Size, Why: "no image has it"})
	}
	return items, err
}

func removeUnless(dry bool, path string) error {
	if dry {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// pruneBoot removes what was made for boots of another guest program, and of
// kernels that are gone or were replaced.
func (d *Daemon) pruneBoot(ctx context.Context, dry bool) (items []banger.Pruned, err error) {
	_, sum, err := d.guest()
	if err != nil {
		return nil, err
	}
	kernels, err := d.kernels.Names()
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, k := range kernels {
		if id, err := d.recordID(k); err == nil {
			ids = append(ids, id)
		}
	}
	used, err := d.bootFiles()
	if err != nil {
		return nil, err
	}
	for _, c := range []struct {
		kind, dir, why string
		needed         func(name string) bool
	}{
		{prunedBoot, d.Layout.BootDisks(), "made by another banger", func(name string) bool { return name == sum[:16]+".img" }},
		{prunedInitrd, d.Layout.Initrds(), "no kernel boots with it", func(name string) bool {
			id, rest, _ := strings.Cut(name, "-")
			return slices.Contains(ids, id) && strings.HasPrefix(rest, sum[:16])
		}},
		{prunedModules, d.Layout.ModuleDisks(), "no kernel has these modules", func(name string) bool {
			return slices.Contains(ids, strings.TrimSuffix(name, ".img"))
		}},
	} {
		entries, err := os.ReadDir(c.dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return items, err
		}
		for _, e := range entries {
			path := filepath.Join(c.dir, e.Name())
			fi, err := e.Info()
			if err != nil || !fi.Mode().IsRegular() || c.needed(e.Name()) || used[path] {
				continue
			}
			if ctx.Err() != nil {
				return items, context.Cause(ctx)
			}
			if err := removeUnless(dry, path); err != nil {
				return items, err
			}
			items = append(items, banger.Pruned{Kind: c.kind, Name: e.Name(), Size: fi.Sys().(*syscall.Stat_t).Blocks * 512, Why: c.why})
		}
	}
	return items, nil
}

// bootFiles are the files that the machines have which run, or are about to.
func (d *Daemon) bootFiles() (map[string]bool, error) {
	names, err := d.disks.Names()
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for _, id := range names {
		// The folder of its sockets is there before all else of a machine, and goes last.
		if _, err := os.Stat(d.Layout.VMRun(id)); err != nil {
			continue
		}
		var spec shim.Spec
		if state.ReadRecord(d.disks.Path(id, state.BootFile), &spec) != nil {
			continue // it does not boot yet
		}
		used[spec.Machine.Initrd] = true
		for _, disk := range spec.Machine.Disks {
			used[disk.Path] = true
		}
	}
	return used, nil
}
