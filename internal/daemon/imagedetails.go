package daemon

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"banger"
	"banger/internal/hostfile"
	"banger/internal/oci"
	"banger/internal/state"
)

func (d *Daemon) imageShow(_ context.Context, r banger.NameRequest) (banger.ImageDetails, error) {
	im, err := d.images.Get(r.Name)
	if err != nil {
		return banger.ImageDetails{}, err
	}
	details := banger.ImageDetails{Image: im, Rootfs: d.images.Path(r.Name, state.RootfsFile), UsedBy: []string{}}
	if im.InPlace != nil {
		details.Rootfs = im.InPlace.Path
	}
	d.refs.Lock()
	details.UsedBy = append(details.UsedBy, d.imageUsers(r.Name)...)
	d.refs.Unlock()
	for _, l := range im.Layers {
		if l.Digest != "" && oci.Cached(d.Layout.Blobs(), l.Digest) {
			details.Cached++
		}
	}
	raw, err := d.ociDocument(r.Name, state.OCIConfigFile)
	details.Labels = oci.Labels(raw)
	return details, err
}

// ociDocument reads the manifest or the config that an image came with, nil if with none.
func (d *Daemon) ociDocument(name, file string) ([]byte, error) {
	b, err := os.ReadFile(d.images.Path(name, file))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

func (d *Daemon) imageHistory(_ context.Context, r banger.NameRequest) ([]banger.ImageStep, error) {
	im, err := d.images.Get(r.Name)
	if err != nil {
		return nil, err
	}
	raw, err := d.ociDocument(r.Name, state.OCIConfigFile)
	if err != nil {
		return nil, err
	}
	if raw == nil { // not made of layers
		return []banger.ImageStep{{Created: im.CreatedAt, By: im.Source, Size: im.Size}}, nil
	}
	return oci.History(raw, im.Layers)
}

// imageTag gives an image another name: an image of its own, that shares all
// files with the first.
func (d *Daemon) imageTag(ctx context.Context, r banger.ImageTagRequest) (im banger.Image, err error) {
	if err := state.ValidateName("image", r.New); err != nil {
		return im, err
	}
	if r.Name == r.New {
		return im, banger.Errorf(banger.Invalid, "image %q has that name already", r.Name)
	}
	// In the order of the names, so that two tags the other way round do not wait for each other.
	for _, name := range []string{min(r.Name, r.New), max(r.Name, r.New)} {
		unlock, err := d.keys.Lock(ctx, "image/"+name)
		if err != nil {
			return im, err
		}
		defer unlock()
	}
	if im, err = d.images.Get(r.Name); err != nil {
		return im, err
	}
	if d.images.Has(r.New) && !r.Force {
		return im, imageThere(r.New).WithHint("banger image show %s, or replace it: banger image tag --force %s %s", r.New, r.Name, r.New)
	}
	return d.addImage(r.Force, func(stage string) (banger.Image, error) {
		im.Name = r.New
		for _, file := range []string{state.RootfsFile, state.OCIManifestFile, state.OCIConfigFile} {
			err := linkOrCopy(ctx, filepath.Join(stage, file), d.images.Path(r.Name, file))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return im, err
			}
		}
		return im, nil
	})
}

func imageThere(name string) *banger.Error {
	return banger.Errorf(banger.Exists, "an image named %q is already there", name)
}

// linkOrCopy makes dst the same file as src, which is never written again; or a copy
// of it, where there are no hard links.
func linkOrCopy(ctx context.Context, dst, src string) error {
	err := os.Link(src, dst)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return err
	}
	from, err := os.Open(src)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer to.Close()
	if err := hostfile.Clone(ctx, to, from); err != nil {
		return err
	}
	return errors.Join(to.Chmod(0o444), to.Sync())
}
