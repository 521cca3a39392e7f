package daemon

import (
	"cmp"
	"context"
	"encoding/json"
	"os"
	"time"

	"banger"
	"banger/internal/catalogs"
	"banger/internal/kernelcat"
	"banger/internal/oci"
	"banger/internal/state"
)

// defaultKernel is used where neither the VM nor its image names one.
const defaultKernel = "debian-6.1"

// listed is an answer to kernel.list, and of which version of the store.
type listed struct {
	version uint64
	json    []byte
}

// brief are the fields of banger.Kernel that a table shows.
type brief struct {
	Name          string    `json:"name"`
	Arch          string    `json:"arch"`
	KernelVersion string    `json:"kernel_version"`
	Source        string    `json:"source"`
	ImportedAt    time.Time `json:"imported_at"`
	Size          int64     `json:"size"`
	Problem       string    `json:"problem,omitempty"`
}

// kernelList keeps its last answer: to make it of a thousand records costs more
// than all else that a list needs.
func (d *Daemon) kernelList(_ context.Context, r banger.KernelListRequest) ([]byte, error) {
	list, version, err := d.kernels.ListVersion()
	if err != nil {
		return nil, err
	}
	answer := &d.kernelsListed
	if r.Brief {
		answer = &d.kernelsBrief
	}
	if last := answer.Load(); last != nil && last.version == version {
		return last.json, nil
	}
	rows := make([]brief, len(list))
	for i, k := range list {
		list[i].Features = nil
		rows[i] = brief{k.Name, k.Arch, k.KernelVersion, k.Source, k.ImportedAt, k.Size, k.Problem}
	}
	var b []byte
	if r.Brief {
		b, err = json.Marshal(rows)
	} else {
		b, err = json.Marshal(list)
	}
	if err != nil {
		return nil, err
	}
	answer.Store(&listed{version, b})
	return b, nil
}

func (d *Daemon) kernelShow(_ context.Context, r banger.NameRequest) (banger.Kernel, error) {
	return d.kernels.Get(r.Name)
}

func (d *Daemon) kernelCatalog(ctx context.Context, _ none) (banger.Offers[banger.KernelOffer], error) {
	set, err := d.kernelBooks.All(ctx)
	if err != nil {
		return banger.Offers[banger.KernelOffer]{}, err
	}
	items, problems := set.Items()
	all := banger.Offers[banger.KernelOffer]{Offers: []banger.KernelOffer{}, Problems: problems}
	for _, it := range items {
		e := it.Entry
		offer := banger.KernelOffer{Name: it.Name, Catalog: it.Origin.Label(), Distro: e.Distro, Arch: e.Arch, KernelVersion: e.KernelVersion,
			Size: e.SizeBytes, Description: e.Description, State: "available"}
		if d.kernels.Has(e.Name) {
			switch k, err := d.kernels.Get(e.Name); {
			case err == nil && k.Catalog != it.Origin.Recorded(): // another catalog's of the same name
			case err == nil && e.Outdated(k):
				offer.State = "outdated"
			default:
				offer.State = "pulled"
			}
		}
		all.Offers = append(all.Offers, offer)
	}
	return all, nil
}

// kernelPull gets a kernel of a catalog, or from the source that is named.
func (d *Daemon) kernelPull(ctx context.Context, r banger.KernelPullRequest, p progress) (banger.Kernel, error) {
	order, err := d.kernelOrder(ctx, r, p)
	if err != nil {
		return banger.Kernel{}, err
	}
	return d.addKernel(ctx, order, r.Force, p)
}

// kernelImport copies a kernel of this host.
func (d *Daemon) kernelImport(ctx context.Context, r banger.KernelImportRequest, p progress) (banger.Kernel, error) {
	var s kernelcat.Source
	var err error
	switch {
	case r.FromHost == (r.From != ""):
		err = banger.Errorf(banger.Invalid, "want either a folder or the host's own kernel").WithHint("banger kernel import --help")
	case r.FromHost:
		s, err = kernelcat.Host()
	case r.Name == "":
		err = banger.Errorf(banger.Invalid, "a kernel that is imported from a folder needs a name").WithHint("banger kernel import NAME --from %s", r.From)
	default:
		s, err = kernelcat.Directory(r.From)
	}
	if err != nil {
		return banger.Kernel{}, err
	}
	want := kernelcat.Want{Name: cmp.Or(r.Name, s.DefaultName()), Args: r.Args}
	return d.addKernel(ctx, kernelOrder{want: want, sources: []kernelcat.Source{s}}, r.Force, p)
}

// kernelOrder is a kernel that is to be had, and where from.
type kernelOrder struct {
	want    kernelcat.Want
	sources []kernelcat.Source
	catalog catalogs.Origin // that names the sources; zero: the built-in one, or the user does
}

// kernelOrder finds what a pull is about: a name of the catalogs, or a source.
func (d *Daemon) kernelOrder(ctx context.Context, r banger.KernelPullRequest, p progress) (o kernelOrder, err error) {
	if kernelcat.IsSource(r.Name) {
		s, err := kernelcat.ParseSource(r.Name)
		if err != nil {
			return o, err
		}
		o.want, o.sources = kernelcat.Want{Name: cmp.Or(r.As, s.DefaultName()), Args: r.Args}, []kernelcat.Source{s}
		return o, nil
	}
	if err := kernelcat.ValidateName(localName(r.Name)); err != nil {
		return o, err
	}
	it, err := d.kernelBooks.Lookup(ctx, r.Name)
	if err != nil {
		return o, err
	}
	tellStale(it.Origin, it.Stale, p)
	o.catalog, o.want = it.Origin, it.Entry.Want()
	o.want.Name, o.want.Args = cmp.Or(r.As, o.want.Name), r.Args
	o.sources, err = it.Entry.PullSources()
	return o, err
}

// addKernel fills a new kernel from its sources: staged as a whole, then named.
func (d *Daemon) addKernel(ctx context.Context, o kernelOrder, force bool, p progress) (k banger.Kernel, err error) {
	w := o.want
	if err := kernelcat.ValidateName(w.Name); err != nil {
		return k, err
	}
	if err := kernelcat.ValidateArgs(w.Args); err != nil {
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
	k, err = kernelcat.Pull(ctx, stage, w, o.sources, kernelcat.Options{
		TempDir: d.Layout.Scratch(), Progress: p, OpenImage: d.openKernelImage(o.catalog),
		AllowPrivate: o.catalog.AllowPrivate})
	if err != nil {
		return k, state.Classify(err)
	}
	k.Catalog = o.catalog.Recorded()
	d.at("kernel: filled")
	if err = d.kernels.Commit(stage, w.Name, k, force); err != nil {
		return k, err
	}
	d.objectEvent(banger.EventKernel, "added", k.Name)
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
	err = d.kernels.Delete(r.Name)
	if err == nil {
		d.objectEvent(banger.EventKernel, "removed", r.Name)
	}
	return none{}, err
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

// ensureKernel gets the kernel from a catalog if it is not there yet, and gives
// its name here: that of acme/NAME is NAME.
func (d *Daemon) ensureKernel(ctx context.Context, name string, p progress) (string, error) {
	if local, ok := d.hasKernel(name); ok {
		return local, nil
	}
	k, err := d.kernelPull(ctx, banger.KernelPullRequest{Name: name}, p)
	if banger.IsKind(err, banger.Exists) {
		if local, ok := d.hasKernel(name); ok {
			return local, nil // somebody else's pull was faster
		}
	}
	return k.Name, err
}

// hasKernel looks for the kernel that NAME or CATALOG/NAME means among those
// that are here.
func (d *Daemon) hasKernel(name string) (local string, ok bool) {
	local = localName(name)
	if local == name {
		return local, d.kernels.Has(name)
	}
	k, err := d.kernels.Get(local)
	return local, err == nil && name == cmp.Or(k.Catalog, catalogs.Builtin)+"/"+local
}

// openKernelImage finds images in registries for kernels that are in them, on
// behalf of the catalog that names them. Layers are cached like those of any image.
func (d *Daemon) openKernelImage(from catalogs.Origin) func(ctx context.Context, ref, arch string, p func(banger.Progress)) (*kernelcat.Image, error) {
	return func(ctx context.Context, ref, arch string, p func(banger.Progress)) (*kernelcat.Image, error) {
		o, err := d.ociOptions(from, p)
		if err != nil {
			return nil, err
		}
		o.Arch = arch
		found, err := oci.Resolve(ctx, ref, o)
		if err != nil {
			return nil, err
		}
		im := &kernelcat.Image{Ref: found.Ref, Digest: found.Digest, Close: found.Close}
		for _, l := range found.Layers {
			im.Layers = append(im.Layers, l.Open)
		}
		return im, nil
	}
}
