package daemon

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"banger"
	"banger/internal/catalogs"
	"banger/internal/config"
	"banger/internal/imagecat"
	"banger/internal/oci"
	"banger/internal/rootfs"
	"banger/internal/state"
)

func (d *Daemon) imageList(context.Context, none) ([]banger.Image, error) { return d.images.List() }

func (d *Daemon) imageCatalog(ctx context.Context, _ none) (banger.Offers[banger.ImageOffer], error) {
	set, err := d.imageBooks.All(ctx)
	if err != nil {
		return banger.Offers[banger.ImageOffer]{}, err
	}
	items, problems := set.Items()
	all := banger.Offers[banger.ImageOffer]{Offers: []banger.ImageOffer{}, Problems: problems}
	for _, it := range items {
		e := it.Entry
		o := banger.ImageOffer{Name: it.Name, Catalog: it.Origin.Label(), Arch: hostArch(), Description: e.Description, State: "available"}
		if im, err := d.images.Get(e.Name); d.images.Has(e.Name) && (err != nil || im.Catalog == it.Origin.Recorded()) {
			o.State = "pulled"
			if e.Outdated(im.Arch, im.Bundle) {
				o.State = "outdated"
			}
		}
		for _, s := range e.Sources {
			if s != (imagecat.Source{}) {
				o.Sources = append(o.Sources, s.String())
			}
		}
		all.Offers = append(all.Offers, o)
	}
	return all, nil
}

// imagePull makes an image from the catalog or a registry. One that is there
// and the same is left as it is.
func (d *Daemon) imagePull(ctx context.Context, r banger.ImagePullRequest, p progress) (im banger.Image, err error) {
	o, err := d.imageOrder(ctx, r, p)
	if err != nil {
		return im, err
	}
	name := o.name
	if err := d.checkKernel(r.Kernel); err != nil {
		return im, err
	}
	unlock, err := d.keys.Lock(ctx, "image/"+name)
	if err != nil {
		return im, err
	}
	defer unlock()
	if d.images.Has(name) && !r.Force {
		return d.imageAgain(ctx, r, o)
	}
	defer func() {
		for _, im := range o.held {
			_ = im.Close()
		}
	}()
	return d.addImage(r.Force, func(stage string) (banger.Image, error) {
		im, err := d.makeImage(ctx, stage, &o, p)
		if err != nil {
			return im, fmt.Errorf("pull image %q: %w", r.Ref, err)
		}
		im.Name, im.Kernel, im.Catalog = name, r.Kernel, o.catalog.Recorded()
		return im, nil
	})
}

// checkKernel refuses a kernel that an image is to prefer and that is not there.
func (d *Daemon) checkKernel(name string) error {
	if name == "" || d.kernels.Has(name) {
		return nil
	}
	return d.kernels.Missing(name).WithHint("banger kernel pull %s", name)
}

// addImage puts an image together in a folder of its own, and gives that its
// name. The caller holds the key of the name.
func (d *Daemon) addImage(force bool, fill func(stage string) (banger.Image, error)) (im banger.Image, err error) {
	stage, err := d.images.Stage()
	if err != nil {
		return im, err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(stage)
		}
	}()
	if im, err = fill(stage); err != nil {
		return im, state.Classify(err)
	}
	d.at("image: filled")
	d.refs.Lock()
	defer d.refs.Unlock()
	if users := d.imageUsers(im.Name); len(users) > 0 {
		err = inUse(im.Name, users)
		return im, err
	}
	if err = d.images.Commit(stage, im.Name, im, force); err != nil {
		return im, err
	}
	d.objectEvent(banger.EventImage, "added", im.Name)
	d.Log.Info("image added", "image", im.Name, "source", im.Source, "digest", im.Digest)
	return im, nil
}

// imageOrder is an image that is to be had, and where from.
type imageOrder struct {
	name    string // here
	sources []imagecat.Source
	catalog catalogs.Origin // that names the sources; zero: the built-in one, or the user does

	platform, arch string // as it was asked for, maybe empty; as uname -m
	fs             string // of the root, as it was asked for, maybe empty

	// held are images that count as being pulled, so that no prune takes their
	// layers, until there is a record that refers to these.
	held []*oci.Image
}

// imageOrder finds what a pull is about: an entry of the catalogs, or else a
// reference to a registry.
func (d *Daemon) imageOrder(ctx context.Context, r banger.ImagePullRequest, p progress) (o imageOrder, err error) {
	if err := checkFS(r.FS); err != nil {
		return o, err
	}
	o.platform, o.fs = r.Platform, r.FS
	if o.arch, err = oci.Arch(r.Platform); err != nil {
		return o, err
	}
	err = fs.ErrNotExist
	listed, qualified, cerr := d.mayBeListed(r.Ref)
	if cerr != nil {
		return o, cerr
	}
	var it catalogs.Item[imagecat.Entry]
	if listed {
		it, err = d.imageBooks.Lookup(ctx, r.Ref)
	}
	switch {
	case err == nil:
		tellStale(it.Origin, it.Stale, p)
		o.name, o.catalog = it.Entry.Name, it.Origin
		if o.sources, err = it.Entry.Known(o.arch); err != nil {
			return o, err
		}
	case errors.Is(err, fs.ErrNotExist) && !qualified:
		if o.name, err = oci.DefaultName(r.Ref); err != nil {
			return o, err
		}
		o.sources = []imagecat.Source{{OCI: r.Ref}}
	default:
		return o, err
	}
	o.name = cmp.Or(r.Name, o.name)
	return o, state.ValidateName("image", o.name)
}

// bareName is the grammar of names in image catalogs.
var bareName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9][a-z0-9._-]*$`) })

// mayBeListed reports whether a reference can be NAME or CATALOG/NAME, and which
// of the two: the latter only where the configuration has such a catalog.
func (d *Daemon) mayBeListed(ref string) (listed, isQualified bool, err error) {
	if !qualified().MatchString(ref) {
		return bareName().MatchString(ref), false, nil
	}
	q, _, _ := strings.Cut(ref, "/")
	origins, err := d.imageBooks.Origins()
	named := q == catalogs.Builtin || slices.ContainsFunc(origins, func(o catalogs.Origin) bool { return o.Name == q })
	return named, named, err
}

// ociOptions are those of all that a catalog, or the user, names.
func (d *Daemon) ociOptions(from catalogs.Origin, p progress) (oci.Options, error) {
	c, err := config.Read(d.Layout.Config)
	o := oci.Options{Cache: d.Layout.Blobs(), Flight: &d.flight, Progress: p, Origin: from.Host(), AllowPrivate: from.AllowPrivate}
	for _, r := range c.Registries {
		o.Registries = append(o.Registries, oci.Registry{Host: r.Host, Insecure: r.Insecure, Mirrors: r.Mirrors})
	}
	return o, err
}

// imageAgain answers a pull of an image that is there: the same digest is no
// news, another one is not put in its place without being asked.
func (d *Daemon) imageAgain(ctx context.Context, r banger.ImagePullRequest, o imageOrder) (banger.Image, error) {
	name := o.name
	im, err := d.images.Get(name)
	if err != nil {
		return im, err
	}
	exists := imageThere(name).
		WithHint("banger image show %s, or make it anew: banger image pull --force %s", name, r.Ref)
	if same, err := d.sameImage(ctx, im, o); err != nil {
		return im, err
	} else if !same {
		return im, exists
	}
	if r.Kernel != "" && r.Kernel != im.Kernel {
		im.Kernel = r.Kernel
		return im, state.WriteRecord(d.images.Path(name, state.ManifestFile), im)
	}
	return im, nil
}

// sameImage reports whether an image is what the first of its sources would give.
func (d *Daemon) sameImage(ctx context.Context, im banger.Image, o imageOrder) (bool, error) {
	s := o.sources[0]
	switch {
	case im.Arch != o.arch, o.fs != "" && o.fs != cmp.Or(im.FS, rootfs.FSExt4):
		return false, nil
	case s.Bundle != nil:
		return im.Bundle == "sha256:"+s.Bundle.SHA256, nil
	case s.OCI == "" || im.Digest == "":
		return false, nil
	}
	options, err := d.ociOptions(o.catalog, nil)
	if err != nil {
		return false, err
	}
	found, err := oci.Named(ctx, s.OCI, options)
	return found == im.Digest || found == im.Named, err
}

// makeImage tries the sources in their order; a source that cannot be reached
// is passed over with a word, any other failure is final.
func (d *Daemon) makeImage(ctx context.Context, stage string, o *imageOrder, p progress) (banger.Image, error) {
	options, err := d.ociOptions(o.catalog, p)
	if err != nil {
		return banger.Image{}, err
	}
	var errs []error
	for i, s := range o.sources {
		options.Arch = cmp.Or(o.platform, o.arch)
		if s.OCI == "" && s.Bundle == nil && o.arch != hostArch() {
			return banger.Image{}, banger.Errorf(banger.Unsupported, "%s cannot be made for %s on this host", s, o.arch).
				WithHint("pull an image of a registry")
		}
		im, err := d.makeImageFrom(ctx, stage, s, o, options)
		if err == nil {
			return im, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil || !banger.IsKind(err, banger.Unavailable) {
			return im, err
		}
		if i+1 < len(o.sources) {
			p(banger.Progress{Notice: true, Step: fmt.Sprintf("%v; trying %s", err, o.sources[i+1])})
		}
	}
	return banger.Image{}, errors.Join(errs...)
}

func (d *Daemon) makeImageFrom(ctx context.Context, stage string, s imagecat.Source, order *imageOrder, o oci.Options) (banger.Image, error) {
	im := banger.Image{Source: s.String(), Arch: hostArch(), FS: order.fs, CreatedAt: time.Now().UTC().Truncate(time.Second)}
	var layers []rootfs.Layer
	switch {
	case s.Bundle != nil:
		im.Arch = s.Bundle.Arch
		return im, d.takeBundle(ctx, stage, &im, s.Bundle.Pinned(), o)
	case s.Scratch:
		layers = []rootfs.Layer{{Name: s.String(), Open: emptyTar}}
	case s.OCI != "":
		found, err := oci.Resolve(ctx, s.OCI, o)
		if err != nil {
			return im, err
		}
		order.held = append(order.held, found)
		im.Source = "oci:" + found.Ref
		if layers, err = takeOCI(stage, &im, found); err != nil {
			return im, err
		}
	default:
		scratch, err := os.MkdirTemp(d.Layout.Scratch(), "suite-")
		if err != nil {
			return im, err
		}
		defer os.RemoveAll(scratch)
		im.Config = banger.ImageConfig{Cmd: []string{"/bin/bash"}}
		o.Progress(banger.Progress{Step: "make " + s.String() + " from Debian's packages with mmdebstrap"})
		layers = []rootfs.Layer{{Name: s.String(), Open: func(ctx context.Context) (io.ReadCloser, error) {
			return s.Debian.Open(ctx, imagecat.SuiteOptions{TempDir: scratch})
		}}}
	}
	return im, buildRootfs(ctx, stage, &im, layers, o.Progress)
}

// takeOCI takes over what an OCI image says of itself and gives its layers.
func takeOCI(stage string, im *banger.Image, from *oci.Image) ([]rootfs.Layer, error) {
	im.Digest, im.Named, im.Arch, im.Config = from.Digest, from.Named, from.Arch, from.Config
	for file, text := range map[string][]byte{state.OCIManifestFile: from.RawManifest, state.OCIConfigFile: from.RawConfig} {
		if len(text) == 0 { // a docker-archive has no manifest
			continue
		}
		if err := state.WriteFile(filepath.Join(stage, file), text, 0o600); err != nil {
			return nil, err
		}
	}
	var layers []rootfs.Layer
	for _, l := range from.Layers {
		layers = append(layers, rootfs.Layer{Name: l.Name, Size: l.Size, Open: l.Open})
		im.Layers = append(im.Layers, banger.ImageLayer{Digest: l.Digest, DiffID: l.DiffID, Size: l.Size})
	}
	return layers, nil
}

// checkFS refuses a kind of file system that no image is made as.
func checkFS(fs string) error {
	if fs == "" || fs == rootfs.FSExt4 || fs == rootfs.FSErofs {
		return nil
	}
	return banger.Errorf(banger.Invalid, "%q is not a file system of images: want ext4 or erofs", fs)
}

// buildRootfs makes the root file system of an image, of the kind that it says.
func buildRootfs(ctx context.Context, stage string, im *banger.Image, layers []rootfs.Layer, p progress) error {
	stats, err := rootfs.Build(ctx, filepath.Join(stage, state.RootfsFile), layers, rootfs.Options{FS: im.FS, Progress: p})
	if im.FS == rootfs.FSExt4 {
		im.FS = "" // as of all others
	}
	im.Size = stats.Allocated
	return err
}

// emptyTar is a tar archive of no files.
func emptyTar(context.Context) (io.ReadCloser, error) {
	var b bytes.Buffer
	err := tar.NewWriter(&b).Close()
	return io.NopCloser(&b), err
}

func (d *Daemon) imageDelete(ctx context.Context, r banger.NameRequest) (none, error) {
	unlock, err := d.keys.Lock(ctx, "image/"+r.Name)
	if err != nil {
		return none{}, err
	}
	defer unlock()
	d.refs.Lock()
	defer d.refs.Unlock()
	// Not even by force: the disk of a VM means nothing without its image.
	if users := d.imageUsers(r.Name); len(users) > 0 {
		return none{}, inUse(r.Name, users)
	}
	return none{}, d.deleteImage(r.Name)
}

func (d *Daemon) deleteImage(name string) error {
	err := d.images.Delete(name)
	if err == nil {
		d.objectEvent(banger.EventImage, "removed", name)
	}
	return err
}

func inUse(name string, users []string) error {
	return banger.Errorf(banger.Conflict, "image %q is used by %s", name, join(users)).
		WithHint("banger vm rm %s", strings.TrimPrefix(users[0], "vm "))
}

func (d *Daemon) imageUsers(name string) []string {
	return d.vmUsers(func(s banger.VMSpec) bool { return s.Image == name })
}

// ensureImage finds the image that a VM asks for by name, or pulls it: an entry
// of the catalog by its name, anything else only by a full reference, so that
// a mistyped name is not looked for in a registry.
func (d *Daemon) ensureImage(ctx context.Context, ref string, p progress) (banger.Image, error) {
	if d.images.Has(ref) {
		return d.images.Get(ref)
	}
	if !strings.ContainsAny(ref, "/:@") {
		names, _ := d.images.Names()
		if _, err := d.imageBooks.Lookup(ctx, ref, names...); err != nil {
			return banger.Image{}, err
		}
	}
	o, err := d.imageOrder(ctx, banger.ImagePullRequest{Ref: ref}, func(banger.Progress) {})
	if err != nil {
		return banger.Image{}, err
	}
	im, err := d.images.Get(o.name)
	if err == nil && (ref == cmp.Or(im.Catalog, catalogs.Builtin)+"/"+o.name || o.catalog.URL == "" && strings.HasSuffix(im.Source, ref)) {
		return im, nil
	}
	im, err = d.imagePull(ctx, banger.ImagePullRequest{Ref: ref}, p)
	if banger.IsKind(err, banger.Exists) && o.name == ref {
		return d.images.Get(o.name) // somebody else's pull was faster
	}
	return im, err
}
