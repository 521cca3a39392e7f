// Package oci turns an image of a registry or an archive into verified, decompressed layer streams and a config.
package oci

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"time"

	"banger"
)

// Limits of what a registry may ask banger to take. They are far above any real
// image and keep a hostile one from costing more than a refusal.
const (
	maxManifest     = 4 << 20  // bytes of a manifest or an index
	maxConfig       = 4 << 20  // bytes of a config
	maxLayers       = 127      // what overlay-based engines take
	maxCompressed   = 16 << 30 // bytes of all layers as transferred
	maxUncompressed = 64 << 30 // bytes of one layer as unpacked
	maxZstdWindow   = 32 << 20 // bytes of history; zstd -20 needs that much, zstd -19 a quarter
)

// Options says how to resolve and pull. The zero value pulls for this host
// without a cache.
type Options struct {
	// Cache is the blob directory, with files Cache/sha256/HEX. It may be
	// deleted at any time. Empty: nothing is cached.
	Cache string
	// Arch is what uname -m says in the guest, or a platform as OCI writes it
	// (linux/arm64/v8); default that of this host.
	Arch string
	// Stall is how long a registry may send nothing in the middle of an
	// answer, default 30 s.
	Stall time.Duration
	// Origin is the host of the catalog that names the reference, where that
	// is not the user: it may then not send banger nearer than itself.
	Origin string
	// AllowPrivate lets it send banger to private addresses all the same.
	AllowPrivate bool
	// Registries are those of which the user's configuration says how to ask them.
	Registries []Registry
	// Flight, if set, is shared by all pulls of a process with the same cache: a
	// blob that one of them gets is waited for by the others. Nil: each for itself.
	Flight *Flight
	// Progress, if set, is told about ten times a second how many compressed
	// bytes of all layers have been read. Its calls never overlap.
	Progress func(banger.Progress)

	backoff time.Duration // before the first retry; tests shorten it
}

// Image is one image of a registry or an archive, resolved to a digest: whatever
// happens to its tag, the layers are those of Digest.
type Image struct {
	Ref    string // in full, for instance docker.io/library/debian:bookworm; of an archive as that names it, maybe empty
	Digest string // of the image manifest for Arch, sha256:...; empty for a docker-archive, which has none
	Named  string // digest of what Ref names: an index, or the manifest itself; empty as Digest
	Arch   string // as uname -m
	Config banger.ImageConfig
	Layers []Layer // the lowest first
	// RawManifest and RawConfig are the documents as they came; the digests are
	// over these bytes. A docker-archive has no manifest.
	RawManifest, RawConfig []byte

	tag     string // of a layout's index, what it is called there
	release func()
}

// DefaultName is a name for the image, from what an archive calls it; empty if
// it has no name there, or none that fits.
func (im *Image) DefaultName() string {
	// Skopeo's layouts have a bare word there, and so have those that Save makes.
	full, err := FullRef(im.tag)
	if objectName().MatchString(im.tag) && (im.Ref == im.tag || err == nil && full == im.Ref) {
		return im.tag
	}
	name, err := DefaultName(im.Ref)
	if err != nil {
		return ""
	}
	return name
}

// Close lets go of what is held for the image. Layers of a registry's image can
// still be opened after it.
func (im *Image) Close() error {
	im.release()
	return nil
}

// Layer is one layer of an Image.
type Layer struct {
	Name   string // for people: "layer 1/3 sha256:0123456789ab"
	Digest string // of the blob as transferred, sha256:...; empty in a docker-archive, where DiffID settles all
	DiffID string // of the tar stream, sha256:...
	Size   int64  // bytes of the blob as transferred

	store store
	meter *meter
}

// store is where the blobs of an image are.
type store interface {
	// open opens a blob as transferred. What is read has to be written to tee,
	// which is nil where there is nothing to be kept.
	open(ctx context.Context, l *Layer) (src io.ReadCloser, tee *cacheFile, err error)
	// explain turns an error into one for the user; doing is what was being done.
	explain(ctx context.Context, doing string, err error) error
	// who is the store in an error: "the registry".
	who() string
}

// Resolve asks the registry for the manifest and the config of ref; layers are
// not read before Layer.Open. A tag is resolved to a digest once.
//
// Errors: Invalid for a bad reference or a malformed image, NotFound if the
// registry has no such image, Unsupported for another platform or an image
// format banger does not read, Unavailable if the registry does not answer
// (within about five seconds if it cannot be reached at all) or wants a login,
// Canceled if ctx ended.
func Resolve(ctx context.Context, ref string, o Options) (*Image, error) {
	want, err := platformOf(o.Arch)
	if err != nil {
		return nil, err
	}
	return ask(ctx, ref, o, func(c *client) (*Image, error) { return c.resolve(ctx, want) })
}

func (c *client) resolve(ctx context.Context, want platform) (*Image, error) {
	d, err := c.imageManifest(ctx, want)
	if err != nil {
		return nil, err
	}
	raw, err := c.config(ctx, d.manifest.Config)
	if err != nil {
		return nil, err
	}
	d.config = raw
	im, err := d.image("pull "+c.ref.full, want, c, c.meter)
	if err != nil {
		return nil, err
	}
	im.Ref = c.named.full
	left := c.flight.join(im)
	im.release = func() {
		left()
		c.guard.CloseIdleConnections()
	}
	return im, nil
}

// documents are a manifest and a config, before they are an image.
type documents struct {
	manifest      *manifest
	raw, config   []byte
	digest, named string
}

// image checks the two against each other; doing is for errors.
func (d *documents) image(doing string, want platform, s store, m *meter) (*Image, error) {
	cfg, err := parseConfig(doing, d.config, want, len(d.manifest.Layers))
	if err != nil {
		return nil, err
	}
	im := &Image{Digest: d.digest, Named: d.named, Arch: want.uname, Config: cfg.imageConfig(),
		RawManifest: d.raw, RawConfig: d.config, release: func() {}}
	for i, l := range d.manifest.Layers {
		name := fmt.Sprintf("layer %d/%d %s", i+1, len(d.manifest.Layers), shortDigest(cmp.Or(l.Digest, cfg.RootFS.DiffIDs[i])))
		im.Layers = append(im.Layers, Layer{Name: name, Digest: l.Digest, DiffID: cfg.RootFS.DiffIDs[i], Size: l.Size, store: s, meter: m})
		m.total += l.Size
	}
	return im, nil
}

// Open streams the layer as an uncompressed tar. The blob comes from the cache
// if it is there and right, else from the registry, and is then cached on the
// way through.
//
// What is read is not verified before io.EOF: io.EOF comes only when size,
// digest and diffID were all right, any mismatch is an error in its place. So
// read to the end, past the end of the tar too, and keep nothing before that.
// The reader is for one goroutine; cancel ctx to end a Read from another one.
// Close before io.EOF gives up and leaves nothing behind.
func (l Layer) Open(ctx context.Context) (io.ReadCloser, error) {
	ctx, giveUp := context.WithCancelCause(ctx)
	b, err := l.openBlob(ctx)
	if err != nil {
		giveUp(nil)
		return nil, fmt.Errorf("open %s: %w", l.Name, err)
	}
	return newLayerReader(l, b, giveUp), nil
}
