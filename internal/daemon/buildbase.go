package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"banger"
	"banger/internal/dockerfile"
	"banger/internal/oci"
	"banger/internal/rootfs"
	"banger/internal/state"
)

// buildBase is an image of the store that a build begins with, or copies from.
type buildBase struct {
	d      *Daemon
	ref    string // as it was asked for
	image  banger.Image
	config dockerfile.Config
	key    string // names the contents

	manifest, raw []byte // its OCI documents; nil: it has none
	open          *openTree
}

// openTree is a root file system that is open.
type openTree struct {
	*rootfs.Tree
	f *os.File
}

func openRootfs(path string) (*openTree, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil {
		var t *rootfs.Tree
		if t, err = rootfs.OpenTree(f, fi.Size()); err == nil {
			return &openTree{t, f}, nil
		}
	}
	_ = f.Close()
	return nil, err
}

func (t *openTree) close() error {
	if t == nil {
		return nil
	}
	return t.f.Close()
}

// base finds what a FROM or a --from means: an image that is there, an entry of
// the catalogs, or a reference to a registry, which is pulled.
func (b *builder) base(ctx context.Context, ref string) (*buildBase, error) {
	if base := b.bases[ref]; base != nil {
		return base, nil
	}
	im, err := b.d.buildImage(ctx, ref, b.p)
	if err != nil {
		return nil, err
	}
	base := &buildBase{d: b.d, ref: ref, image: im}
	if err := base.read(); err != nil {
		return nil, fmt.Errorf("image %q: %w", im.Name, err)
	}
	b.bases[ref] = base
	return base, nil
}

// buildImage finds or gets an image as a Dockerfile names it.
func (d *Daemon) buildImage(ctx context.Context, ref string, p progress) (banger.Image, error) {
	if d.images.Has(ref) {
		return d.images.Get(ref)
	}
	name, err := oci.DefaultName(ref)
	if err != nil {
		return banger.Image{}, err
	}
	full, err := oci.Canonical(ref)
	if err != nil {
		return banger.Image{}, err
	}
	listed, err := d.listedAs(ctx, ref, name, full)
	if err != nil {
		return banger.Image{}, err
	}
	if im, err := d.images.Get(name); err == nil && (im.Source == "oci:"+full || listed == name || im.Built != nil && im.Name == name) {
		return im, nil
	}
	if listed != "" {
		return d.ensureImage(ctx, listed, p)
	}
	im, err := d.imagePull(ctx, banger.ImagePullRequest{Ref: full, Name: name}, p)
	if !banger.IsKind(err, banger.Unavailable) || ctx.Err() != nil {
		return im, err
	}
	if other, gerr := d.images.Get(name); gerr == nil {
		p(banger.Progress{Notice: true, Step: fmt.Sprintf("%v; taking the image %s that is here, of %s", err, name, other.Source)})
		return other, nil
	}
	return im, err
}

// listedAs is the entry of the catalogs that a reference means: one of that very
// name, or the one that the reference is the first source of.
func (d *Daemon) listedAs(ctx context.Context, ref, name, full string) (string, error) {
	for _, candidate := range []string{ref, name} {
		listed, _, err := d.mayBeListed(candidate)
		if err != nil {
			return "", err
		}
		if !listed {
			continue
		}
		it, err := d.imageBooks.Lookup(ctx, candidate)
		if errors.Is(err, fs.ErrNotExist) || banger.IsKind(err, banger.NotFound) {
			continue
		}
		if err != nil {
			return "", err
		}
		if candidate == ref {
			return ref, nil
		}
		for _, s := range it.Entry.Sources {
			if other, err := oci.Canonical(s.OCI); s.OCI != "" && err == nil && other == full {
				return name, nil
			}
		}
	}
	return "", nil
}

// read reads what the image says of itself.
func (base *buildBase) read() (err error) {
	im := base.image
	if base.manifest, err = base.d.ociDocument(im.Name, state.OCIManifestFile); err != nil {
		return err
	}
	if base.raw, err = base.d.ociDocument(im.Name, state.OCIConfigFile); err != nil {
		return err
	}
	c := im.Config
	base.config = dockerfile.Config{Entrypoint: c.Entrypoint, Cmd: c.Cmd, Env: c.Env, WorkingDir: c.WorkingDir, User: c.User, StopSignal: c.StopSignal}
	if base.raw != nil {
		var doc struct {
			Config dockerfile.Config `json:"config"`
		}
		if err := json.Unmarshal(base.raw, &doc); err != nil {
			return banger.Errorf(banger.Invalid, "read its config: %w", err)
		}
		base.config = doc.Config
	}
	path, err := base.d.rootfsOf(im)
	if err != nil {
		return err
	}
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	// Without a digest what tells is when it was made: an image is never changed.
	id := im.Digest
	if id == "" {
		id = fmt.Sprintf("%s %s %d %d", im.Source, im.CreatedAt, fi.Size(), fi.ModTime().UnixNano())
	}
	sum := sha256.Sum256([]byte("image " + id))
	base.key = hex.EncodeToString(sum[:])
	return nil
}

// tree opens its root file system.
func (base *buildBase) tree() (*rootfs.Tree, error) {
	if base.open == nil {
		path, err := base.d.rootfsOf(base.image)
		if err != nil {
			return nil, err
		}
		t, err := openRootfs(path)
		if err != nil {
			return nil, fmt.Errorf("read the image %q: %w", base.image.Name, err)
		}
		base.open = t
	}
	return base.open.Tree, nil
}

func (base *buildBase) close() error { return base.open.close() }

// cached are its own layers, if all of them are in the cache.
func (base *buildBase) cached() ([]oci.Blob, bool) {
	if base.manifest == nil || base.raw == nil {
		return nil, false
	}
	blobs, err := oci.BlobsOf(base.manifest, base.raw)
	if err != nil {
		return nil, false
	}
	for _, l := range blobs {
		if !l.Here(base.d.Layout.Blobs()) {
			return nil, false
		}
	}
	return blobs, true
}

// blobs are its layers: its own, or one that holds its whole root file system.
// rest is the config whose history fits them.
func (base *buildBase) blobs(ctx context.Context, p progress) (blobs []oci.Blob, config []byte, err error) {
	if blobs, ok := base.cached(); ok {
		return blobs, base.raw, nil
	}
	key := "rootfs-" + base.key
	if rec, ok := base.d.buildRecord(key); ok && rec.Blob != nil {
		return []oci.Blob{*rec.Blob}, nil, nil
	}
	p(banger.Progress{Step: "pack the root file system of " + base.image.Name})
	tree, err := base.tree()
	if err != nil {
		return nil, nil, err
	}
	blob, err := oci.WriteBlob(ctx, base.d.Layout.Blobs(), func(w io.Writer) error { return tree.WriteTar(ctx, w) })
	if err != nil {
		return nil, nil, err
	}
	return []oci.Blob{blob}, nil, base.d.writeBuildRecord(key, buildRecord{Blob: &blob, Step: "the root file system of " + base.image.Name})
}

// layers are its layers for a root file system that is made of it.
func (base *buildBase) layers() ([]rootfs.Layer, error) {
	if blobs, ok := base.cached(); ok {
		return base.d.blobLayers(blobs), nil
	}
	tree, err := base.tree()
	if err != nil {
		return nil, err
	}
	return []rootfs.Layer{tree.Layer(base.image.Name)}, nil
}

func (d *Daemon) blobLayers(blobs []oci.Blob) []rootfs.Layer {
	var layers []rootfs.Layer
	for _, blob := range blobs {
		l := blob.Layer(d.Layout.Blobs())
		layers = append(layers, rootfs.Layer{Name: l.Name, Open: l.Open})
	}
	return layers
}

// imageName is the name that an image gets of what a person wrote: as it is, or
// if it is a reference with a tag as a pull would name it.
func imageName(ref string) (string, error) {
	if _, tag, ok := strings.Cut(ref, ":"); !ok || tag == "" {
		return ref, nil
	}
	return oci.DefaultName(ref)
}
