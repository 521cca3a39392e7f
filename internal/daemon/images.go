package daemon

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"banger"
	"banger/internal/imagecat"
	"banger/internal/oci"
	"banger/internal/rootfs"
	"banger/internal/state"
)

func (d *Daemon) imageList(context.Context, none) ([]banger.Image, error) { return d.images.List() }

func (d *Daemon) imageShow(_ context.Context, r banger.NameRequest) (banger.Image, error) {
	return d.images.Get(r.Name)
}

func (d *Daemon) imageCatalog(context.Context, none) ([]banger.ImageOffer, error) {
	cat, err := imagecat.Builtin()
	if err != nil {
		return nil, err
	}
	offers := []banger.ImageOffer{}
	for _, e := range cat.Entries {
		o := banger.ImageOffer{Name: e.Name, Arch: hostArch(), Description: e.Description, State: offerState(d.images.Has(e.Name))}
		for _, s := range e.Sources {
			o.Sources = append(o.Sources, s.String())
		}
		offers = append(offers, o)
	}
	return offers, nil
}

// imagePull makes an image from the catalog or a registry. One that is there
// and the same is left as it is.
func (d *Daemon) imagePull(ctx context.Context, r banger.ImagePullRequest, p progress) (im banger.Image, err error) {
	name, sources, err := imageSources(r)
	if err != nil {
		return im, err
	}
	if r.Kernel != "" && !d.kernels.Has(r.Kernel) {
		return im, d.kernels.Missing(r.Kernel).WithHint("banger kernel pull %s", r.Kernel)
	}
	unlock, err := d.keys.Lock(ctx, "image/"+name)
	if err != nil {
		return im, err
	}
	defer unlock()
	if d.images.Has(name) && !r.Force {
		return d.imageAgain(ctx, r, name, sources)
	}
	stage, err := d.images.Stage()
	if err != nil {
		return im, err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(stage)
		}
	}()
	if im, err = d.makeImage(ctx, stage, sources, p); err != nil {
		return im, state.Classify(fmt.Errorf("pull image %q: %w", r.Ref, err))
	}
	im.Name, im.Kernel = name, r.Kernel
	d.refs.Lock()
	defer d.refs.Unlock()
	if users := d.imageUsers(name); len(users) > 0 {
		err = inUse(name, users)
		return im, err
	}
	if err = d.images.Commit(stage, name, im, r.Force); err != nil {
		return im, err
	}
	d.Log.Info("image pulled", "image", name, "source", im.Source, "digest", im.Digest)
	return im, nil
}

// imageSources says what the request names: an entry of the catalog or a reference.
func imageSources(r banger.ImagePullRequest) (name string, sources []imagecat.Source, err error) {
	cat, err := imagecat.Builtin()
	if err != nil {
		return "", nil, err
	}
	name = r.Name
	entry, err := cat.Lookup(r.Ref)
	switch {
	case err == nil:
		if name == "" {
			name = entry.Name
		}
		sources = entry.Sources
	case errors.Is(err, fs.ErrNotExist):
		def, err := oci.DefaultName(r.Ref)
		if err != nil {
			return "", nil, err
		}
		if name == "" {
			name = def
		}
		sources = []imagecat.Source{{OCI: r.Ref}}
	default:
		return "", nil, err
	}
	return name, sources, state.ValidateName("image", name)
}

// imageAgain answers a pull of an image that is there: the same digest is no
// news, another one is not put in its place without being asked.
func (d *Daemon) imageAgain(ctx context.Context, r banger.ImagePullRequest, name string, sources []imagecat.Source) (banger.Image, error) {
	im, err := d.images.Get(name)
	if err != nil {
		return im, err
	}
	exists := banger.Errorf(banger.Exists, "an image named %q is already there", name).
		WithHint("banger image show %s, or make it anew: banger image pull --force %s", name, r.Ref)
	if im.Digest == "" || sources[0].OCI == "" {
		return im, exists
	}
	found, err := oci.Resolve(ctx, sources[0].OCI, oci.Options{Cache: d.Layout.Blobs()})
	if err != nil {
		return im, err
	}
	defer found.Close()
	if found.Digest != im.Digest {
		return im, exists
	}
	if r.Kernel != "" && r.Kernel != im.Kernel {
		im.Kernel = r.Kernel
		return im, state.WriteRecord(d.images.Path(name, state.ManifestFile), im)
	}
	return im, nil
}

// makeImage tries the sources in their order; a source that cannot be reached
// is passed over with a word, any other failure is final.
func (d *Daemon) makeImage(ctx context.Context, stage string, sources []imagecat.Source, p progress) (banger.Image, error) {
	var errs []error
	for i, s := range sources {
		im, err := d.makeImageFrom(ctx, stage, s, p)
		if err == nil {
			return im, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil || !banger.IsKind(err, banger.Unavailable) {
			return im, err
		}
		if i+1 < len(sources) {
			p(banger.Progress{Notice: true, Step: fmt.Sprintf("%v; trying %s", err, sources[i+1])})
		}
	}
	return banger.Image{}, errors.Join(errs...)
}

func (d *Daemon) makeImageFrom(ctx context.Context, stage string, s imagecat.Source, p progress) (banger.Image, error) {
	im := banger.Image{Source: s.String(), Arch: hostArch(), CreatedAt: time.Now().UTC().Truncate(time.Second)}
	var layers []rootfs.Layer
	switch {
	case s.Scratch:
		layers = []rootfs.Layer{{Name: s.String(), Open: emptyTar}}
	case s.OCI != "":
		found, err := oci.Resolve(ctx, s.OCI, oci.Options{Cache: d.Layout.Blobs(), Progress: p})
		if err != nil {
			return im, err
		}
		defer found.Close()
		im.Source, im.Digest, im.Arch, im.Config = "oci:"+found.Ref, found.Digest, found.Arch, found.Config
		for _, l := range found.Layers {
			layers = append(layers, rootfs.Layer{Name: l.Name, Open: l.Open})
		}
	default:
		scratch, err := os.MkdirTemp(d.Layout.Scratch(), "suite-")
		if err != nil {
			return im, err
		}
		defer os.RemoveAll(scratch)
		im.Config = banger.ImageConfig{Cmd: []string{"/bin/bash"}}
		p(banger.Progress{Step: "make " + s.String() + " from Debian's packages with mmdebstrap"})
		layers = []rootfs.Layer{{Name: s.String(), Open: func(ctx context.Context) (io.ReadCloser, error) {
			return s.Debian.Open(ctx, imagecat.SuiteOptions{TempDir: scratch})
		}}}
	}
	path := filepath.Join(stage, state.RootfsFile)
	if _, err := rootfs.Build(ctx, path, layers, rootfs.Options{Progress: p}); err != nil {
		return im, err
	}
	fi, err := os.Stat(path)
	if err != nil {
		return im, err
	}
	im.Size = fi.Sys().(*syscall.Stat_t).Blocks * 512
	return im, nil
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
	return none{}, d.images.Delete(r.Name)
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
	cat, err := imagecat.Builtin()
	if err != nil {
		return banger.Image{}, err
	}
	if _, err := cat.Lookup(ref); err != nil && !strings.ContainsAny(ref, "/:@") {
		names, _ := d.images.Names()
		for _, e := range cat.Entries {
			names = append(names, e.Name)
		}
		missing := d.images.Missing(ref, names...)
		if state.Nearest(ref, names) == "" {
			missing = missing.WithHint("banger image pull docker.io/library/%s", ref)
		}
		return banger.Image{}, missing
	}
	name, _, err := imageSources(banger.ImagePullRequest{Ref: ref})
	if err != nil {
		return banger.Image{}, err
	}
	if im, err := d.images.Get(name); err == nil && strings.HasSuffix(im.Source, ref) {
		return im, nil
	}
	im, err := d.imagePull(ctx, banger.ImagePullRequest{Ref: ref}, p)
	if banger.IsKind(err, banger.Exists) && name == ref {
		return d.images.Get(name) // somebody else's pull was faster
	}
	return im, err
}

func offerState(pulled bool) string {
	if pulled {
		return "pulled"
	}
	return "available"
}
