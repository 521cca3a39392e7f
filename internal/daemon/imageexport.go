package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"banger"
	"banger/internal/catalogs"
	"banger/internal/oci"
	"banger/internal/rootfs"
	"banger/internal/state"
)

func (d *Daemon) imageSave(ctx context.Context, r banger.ImageSaveRequest, p progress) (done banger.ImagePushed, err error) {
	if (r.Path == "") == (r.FD == nil) {
		return done, banger.Errorf(banger.Invalid, "want either a path or a descriptor to save to")
	}
	e, reused, err := d.export(ctx, r.Name, r.Compression, p)
	if err != nil {
		return done, fmt.Errorf("save image %q: %w", r.Name, state.Classify(err))
	}
	defer e.Close()
	write := func(w io.Writer) error { return e.Save(ctx, w, r.Name, p) }
	if r.FD != nil {
		err = toCaller(ctx, *r.FD, write)
	} else {
		err = toFile(r.Path, write)
	}
	if err != nil {
		return done, fmt.Errorf("save image %q: %w", r.Name, state.Classify(err))
	}
	return banger.ImagePushed{Ref: r.Name, Digest: e.Digest, Reused: reused}, nil
}

func (d *Daemon) imagePush(ctx context.Context, r banger.ImagePushRequest, p progress) (done banger.ImagePushed, err error) {
	if done.Ref, err = oci.FullRef(r.Ref); err != nil { // before anything is packed
		return done, err
	}
	options, err := d.ociOptions(catalogs.Origin{}, p)
	if err != nil {
		return done, err
	}
	e, reused, err := d.export(ctx, r.Name, r.Compression, p)
	if err != nil {
		return done, fmt.Errorf("push image %q: %w", r.Name, state.Classify(err))
	}
	defer e.Close()
	if done.Ref, err = e.Push(ctx, r.Ref, options); err != nil {
		return done, err
	}
	done.Digest, done.Reused = e.Digest, reused
	d.Log.Info("image pushed", "image", r.Name, "ref", done.Ref, "digest", done.Digest)
	return done, nil
}

// export makes an image ready to go out: as it came while its layers are
// cached, else as one layer.
func (d *Daemon) export(ctx context.Context, name, compression string, p progress) (e *oci.Export, reused bool, err error) {
	im, manifest, config, f, err := d.openImage(ctx, name)
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	if len(manifest) > 0 && compression == "" {
		p(banger.Progress{Step: "read the layers of " + name})
		e, err = oci.Reuse(ctx, d.Layout.Blobs(), manifest, config)
		if !errors.Is(err, fs.ErrNotExist) {
			return e, err == nil, err
		}
	}
	fi, err := f.Stat()
	if err != nil {
		return nil, false, err
	}
	tree, err := rootfs.OpenTree(f, fi.Size())
	if err != nil {
		return nil, false, err
	}
	e, err = oci.Pack(ctx, oci.PackOptions{Dir: d.Layout.Scratch(), Compression: compression, Arch: im.Arch, Config: im.Config,
		RawConfig: config, Created: im.CreatedAt, By: "banger: " + im.Source, Write: tree.WriteTar, Progress: p})
	return e, false, err
}

// openImage gives all that an image is, as it was at one moment. The file is
// the root file system.
func (d *Daemon) openImage(ctx context.Context, name string) (im banger.Image, manifest, config []byte, f *os.File, err error) {
	unlock, err := d.keys.Lock(ctx, "image/"+name)
	if err != nil {
		return im, nil, nil, nil, err
	}
	defer unlock()
	if im, err = d.images.Get(name); err != nil {
		return im, nil, nil, nil, err
	}
	if manifest, err = d.ociDocument(name, state.OCIManifestFile); err != nil {
		return im, nil, nil, nil, err
	}
	if config, err = d.ociDocument(name, state.OCIConfigFile); err != nil {
		return im, nil, nil, nil, err
	}
	path, err := d.rootfsOf(im)
	if err != nil {
		return im, nil, nil, nil, err
	}
	f, err = os.Open(path)
	return im, manifest, config, f, err
}

// toFile writes a file that is there as a whole or, if there was one, stays as it was.
func toFile(path string, write func(io.Writer) error) (err error) {
	if !filepath.IsAbs(path) {
		return banger.Errorf(banger.Invalid, "%q is not an absolute path", path)
	}
	if fi, err := os.Stat(path); err == nil && !fi.Mode().IsRegular() {
		return banger.Errorf(banger.Invalid, "%q is there and not a regular file", path)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if errors.Is(err, fs.ErrNotExist) {
		return banger.Errorf(banger.NotFound, "there is no folder %q", filepath.Dir(path))
	}
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if err := write(f); err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return state.SyncDir(filepath.Dir(path))
}
