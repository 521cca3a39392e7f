package oci

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"banger"
)

// Blob is a layer in the cache.
type Blob struct {
	Digest    string `json:"digest"`  // of the blob, sha256:...
	DiffID    string `json:"diff_id"` // of the tar, sha256:...
	Size      int64  `json:"size"`    // bytes of the blob
	MediaType string `json:"media_type"`
}

// WriteBlob makes a layer of the tar that fill writes and puts it into the
// cache, packed with zstd. The same tar gives the same blob. After an error
// nothing is left; errors of fill come as they are. More than a pulled layer may
// have, 64 GiB, is Invalid.
func WriteBlob(ctx context.Context, cache string, fill func(w io.Writer) error) (b Blob, err error) {
	dir := filepath.Join(cache, "sha256")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return b, storeError(err)
	}
	f, err := os.CreateTemp(dir, partial+"*")
	if err != nil {
		return b, storeError(err)
	}
	defer func() {
		_ = f.Close()
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	blob, tar := sha256.New(), sha256.New()
	out := &countingWriter{w: io.MultiWriter(f, blob)}
	// One goroutine: how several share the work shows in the bytes.
	z, err := zstd.NewWriter(out, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return b, err
	}
	in := &boundedWriter{w: io.MultiWriter(z, tar), left: maxUncompressed}
	err = fill(in)
	if cerr := z.Close(); err == nil {
		err = cerr
	}
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	switch {
	case out.err != nil:
		err = storeError(out.err)
	case in.left < 0:
		err = malformed("the layer has more than %d GiB", maxUncompressed>>30)
	}
	if err != nil {
		return b, err
	}
	b = Blob{Digest: sumOf(blob), DiffID: sumOf(tar), Size: out.n, MediaType: string(types.OCILayerZStd)}
	// Not synced, like every blob: see cacheFile.commit.
	if err := os.Rename(f.Name(), blobPath(cache, b.Digest)); err != nil {
		return b, storeError(err)
	}
	return b, nil
}

// countingWriter counts, and remembers its error.
type countingWriter struct {
	w   io.Writer
	n   int64
	err error
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	if err != nil {
		c.err = err
	}
	return n, err
}

// boundedWriter takes so many bytes and no more.
type boundedWriter struct {
	w    io.Writer
	left int64
}

func (b *boundedWriter) Write(p []byte) (int, error) {
	if b.left -= int64(len(p)); b.left < 0 {
		return 0, io.ErrShortWrite
	}
	return b.w.Write(p)
}

// Here reports whether the blob is in the cache, as far as its size tells.
func (b Blob) Here(cache string) bool {
	if !digestGrammar().MatchString(b.Digest) || !digestGrammar().MatchString(b.DiffID) {
		return false
	}
	fi, err := os.Lstat(blobPath(cache, b.Digest))
	return err == nil && fi.Mode().IsRegular() && fi.Size() == b.Size
}

// Layer is the blob as a layer that is read from the cache alone. Where it is
// not there, or damaged, opening it is a NotFound error.
func (b Blob) Layer(cache string) Layer {
	return Layer{Name: "layer " + shortDigest(b.Digest), Digest: b.Digest, DiffID: b.DiffID, Size: b.Size,
		store: blobStore(cache), meter: &meter{}}
}

// blobStore is a cache that nothing stands behind.
type blobStore string

func (s blobStore) open(ctx context.Context, l *Layer) (io.ReadCloser, *cacheFile, error) {
	src, err := openCached(ctx, string(s), l)
	if errors.Is(err, fs.ErrNotExist) {
		err = banger.Errorf(banger.NotFound, "it is not in the cache any more, or was damaged")
	}
	return src, nil, err
}

func (s blobStore) explain(ctx context.Context, doing string, err error) error {
	if ctx.Err() != nil {
		return banger.Errorf(banger.Canceled, "%s: %w", doing, context.Cause(ctx))
	}
	return fmt.Errorf("%s: %w", doing, err)
}

func (s blobStore) who() string { return "the cache" }

// BlobsOf are the layers of an image by its manifest and its config.
func BlobsOf(rawManifest, rawConfig []byte) ([]Blob, error) {
	m, err := parseManifest(rawManifest, "")
	if err != nil {
		return nil, err
	}
	c := &config{}
	if err := json.Unmarshal(rawConfig, c); err != nil {
		return nil, malformed("config: %w", err)
	}
	if len(c.RootFS.DiffIDs) != len(m.Layers) {
		return nil, malformed("%d layers in the manifest, %d in the config", len(m.Layers), len(c.RootFS.DiffIDs))
	}
	var blobs []Blob
	for i, l := range m.Layers {
		media := l.MediaType
		switch media { // the names that OCI has for what Docker made
		case types.DockerLayer:
			media = types.OCILayer
		case types.DockerUncompressedLayer:
			media = types.OCIUncompressedLayer
		}
		blobs = append(blobs, Blob{Digest: l.Digest, DiffID: c.RootFS.DiffIDs[i], Size: l.Size, MediaType: string(media)})
	}
	return blobs, nil
}

// Composition is an image to be put together of layers in the cache.
type Composition struct {
	Arch    string // as Options.Arch
	Created time.Time
	Author  string
	Config  any    // what becomes "config" of the image's config
	Base    []byte // the config of the image that it begins with, whose history goes before Steps; may be empty
	Layers  []Blob
	Steps   []BuildStep
}

// BuildStep is one step of a history: image-spec v1.1, config.md, "history".
type BuildStep struct {
	Created time.Time `json:"created,omitzero"`
	By      string    `json:"created_by,omitempty"`
	Author  string    `json:"author,omitempty"`
	Comment string    `json:"comment,omitempty"`
	Empty   bool      `json:"empty_layer,omitempty"`
}

// Compose makes the documents of the image. Its layers are read from the cache.
func Compose(cache string, c Composition) (*Image, error) {
	want, err := platformOf(c.Arch)
	if err != nil {
		return nil, err
	}
	var base struct {
		History []BuildStep `json:"history"`
	}
	if len(c.Base) > 0 {
		if err := json.Unmarshal(c.Base, &base); err != nil {
			return nil, malformed("config: %w", err)
		}
	}
	ids, layers := []string{}, []any{}
	for _, l := range c.Layers {
		ids = append(ids, l.DiffID)
		layers = append(layers, describe(l.MediaType, l.Digest, l.Size))
	}
	d := documents{}
	if d.config, err = json.Marshal(struct {
		Created      time.Time   `json:"created"`
		Author       string      `json:"author,omitempty"`
		Architecture string      `json:"architecture"`
		Variant      string      `json:"variant,omitempty"`
		OS           string      `json:"os"`
		Config       any         `json:"config"`
		RootFS       any         `json:"rootfs"`
		History      []BuildStep `json:"history"`
	}{c.Created.UTC(), c.Author, want.arch, want.variants[0], "linux", c.Config,
		map[string]any{"type": "layers", "diff_ids": ids}, append(base.History, c.Steps...)}); err != nil {
		return nil, err
	}
	if d.raw, err = json.Marshal(struct {
		Version   int    `json:"schemaVersion"`
		MediaType string `json:"mediaType"`
		Config    any    `json:"config"`
		Layers    []any  `json:"layers"`
	}{2, string(types.OCIManifestSchema1), describe(string(types.OCIConfigJSON), digestOfBytes(d.config), int64(len(d.config))), layers}); err != nil {
		return nil, err
	}
	d.digest = digestOfBytes(d.raw)
	d.named = d.digest
	if d.manifest, err = parseManifest(d.raw, ""); err != nil {
		return nil, err
	}
	return d.image("build", want, blobStore(cache), &meter{})
}

// describe is a descriptor as it is written.
func describe(mediaType, digest string, size int64) any {
	return struct {
		MediaType string `json:"mediaType"`
		Digest    string `json:"digest"`
		Size      int64  `json:"size"`
	}{mediaType, digest, size}
}

// Canonical is the form of a reference that an Image has as its Ref.
func Canonical(ref string) (string, error) {
	r, err := parse(ref)
	return r.full, err
}
