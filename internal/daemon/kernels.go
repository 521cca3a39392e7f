package daemon

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"

	"banger"
	"banger/internal/kernelcat"
	"banger/internal/oci"
	"banger/internal/state"
)

// defaultKernel is used where neither the VM nor its image names one.
const defaultKernel = "debian-6.1"

func (d *Daemon) kernelList(context.Context, none) ([]banger.Kernel, error) { return d.kernels.List() }

func (d *Daemon) kernelShow(_ context.Context, r banger.NameRequest) (banger.Kernel, error) {
	return d.kernels.Get(r.Name)
}

func (d *Daemon) kernelCatalog(context.Context, none) ([]banger.KernelOffer, error) {
	cat, err := kernelcat.Builtin()
	if err != nil {
		return nil, err
	}
	offers := []banger.KernelOffer{}
	for _, e := range cat.Entries {
		offer := banger.KernelOffer{Name: e.Name, Distro: e.Distro, Arch: e.Arch, KernelVersion: e.KernelVersion,
			Size: e.SizeBytes, Description: e.Description, State: "available"}
		if d.kernels.Has(e.Name) {
			offer.State = "pulled"
			if k, err := d.kernels.Get(e.Name); err == nil && e.Outdated(k) {
				offer.State = "outdated"
			}
		}
		offers = append(offers, offer)
	}
	return offers, nil
}

// kernelPull gets a kernel of the catalog, or from the source that is named.
func (d *Daemon) kernelPull(ctx context.Context, r banger.KernelPullRequest, p progress) (banger.Kernel, error) {
	want, sources, err := d.kernelSources(r)
	if err != nil {
		return banger.Kernel{}, err
	}
	return d.addKernel(ctx, want, sources, r.Force, p)
}

// kernelSources finds what a pull is about: a name of the catalog, or a source.
func (d *Daemon) kernelSources(r banger.KernelPullRequest) (kernelcat.Want, []kernelcat.Source, error) {
	if kernelcat.IsSource(r.Name) {
		s, err := kernelcat.ParseSource(r.Name)
		if err != nil {
			return kernelcat.Want{}, nil, err
		}
		return kernelcat.Want{Name: cmp.Or(r.As, s.DefaultName()), Args: r.Args}, []kernelcat.Source{s}, nil
	}
	entry, err := d.lookupKernel(r.Name)
	if err != nil {
		return kernelcat.Want{}, nil, err
	}
	sources, err := entry.PullSources()
	want := entry.Want()
	want.Name, want.Args = cmp.Or(r.As, want.Name), r.Args
	return want, sources, err
}

func (d *Daemon) lookupKernel(name string) (kernelcat.CatEntry, error) {
	cat, err := kernelcat.Builtin()
	if err != nil {
		return kernelcat.CatEntry{}, err
	}
	entry, err := cat.Lookup(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return entry, err
	}
	names := []string{}
	for _, e := range cat.Entries {
		names = append(names, e.Name)
	}
	missing := banger.Errorf(banger.NotFound, "no kernel named %q in the catalog", name)
	if near := state.Nearest(name, names); near != "" {
		return entry, missing.WithHint("did you mean %s?", near)
	}
	return entry, missing.WithHint("banger kernel ls --available")
}

// addKernel fills a new kernel from its sources: staged as a whole, then named.
func (d *Daemon) addKernel(ctx context.Context, w kernelcat.Want, sources []kernelcat.Source, force bool, p progress) (k banger.Kernel, err error) {
	if err := kernelcat.ValidateName(w.Name); err != nil {
		return k, err
	}
	unlock, err := d.keys.Lock(ctx, "kernel/"+w.Name)
	if err != nil {
		return k, err
	}
	defer unlock()
	if d.kernels.Has(w.Name) && !force {
		return k, banger.Errorf(banger.Exists, "a kernel named %q is already there", w.Name).
			WithHint("banger kernel show %s, or replace it with --force", w.Name)
	}
	stage, err := d.kernels.Stage()
	if err != nil {
		return k, err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(stage)
		}
	}()
	k, err = kernelcat.Pull(ctx, stage, w, sources, kernelcat.Options{
		TempDir: d.Layout.Scratch(), Progress: p, OpenImage: d.openKernelImage})
	if err != nil {
		return k, state.Classify(err)
	}
	d.at("kernel: filled")
	if err = d.kernels.Commit(stage, w.Name, k, force); err != nil {
		return k, err
	}
	d.Log.Info("kernel added", "kernel", k.Name, "source", k.Source)
	return k, nil
}

func (d *Daemon) kernelDelete(ctx context.Context, r banger.NameRequest) (none, error) {
	unlock, err := d.keys.Lock(ctx, "kernel/"+r.Name)
	if err != nil {
		return none{}, err
	}
	defer unlock()
	d.refs.Lock()
	defer d.refs.Unlock()
	if d.kernels.Has(r.Name) && !r.Force {
		if users := d.kernelUsers(r.Name); len(users) > 0 {
			return none{}, banger.Errorf(banger.Conflict, "kernel %q is used by %s", r.Name, join(users)).
				WithHint("banger kernel rm --force %s", r.Name)
		}
	}
	return none{}, d.kernels.Delete(r.Name)
}

func (d *Daemon) kernelUsers(name string) []string {
	var users []string
	images, _ := d.images.List()
	for _, im := range images {
		if im.Kernel == name {
			users = append(users, "image "+im.Name)
		}
	}
	return append(users, d.vmUsers(func(s banger.VMSpec) bool { return s.Kernel == name })...)
}

// ensureKernel gets the kernel from the catalog if it is not there yet.
func (d *Daemon) ensureKernel(ctx context.Context, name string, p progress) error {
	if d.kernels.Has(name) {
		return nil
	}
	_, err := d.kernelPull(ctx, banger.KernelPullRequest{Name: name}, p)
	if banger.IsKind(err, banger.Exists) {
		return nil // somebody else's pull was faster
	}
	return err
}

// openKernelImage finds an image in a registry for a kernel that is in it. Its
// layers are cached like those of any image.
func (d *Daemon) openKernelImage(ctx context.Context, ref, arch string, p func(banger.Progress)) (*kernelcat.Image, error) {
	found, err := oci.Resolve(ctx, ref, oci.Options{Cache: d.Layout.Blobs(), Arch: arch, Progress: p})
	if err != nil {
		return nil, err
	}
	im := &kernelcat.Image{Ref: found.Ref, Digest: found.Digest, Close: found.Close}
	for _, l := range found.Layers {
		im.Layers = append(im.Layers, l.Open)
	}
	return im, nil
}
