package oci

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"banger"
	"banger/internal/hostfile"
)

// Export is an image that is ready to go out: to a file with Save, to a
// registry with Push. It holds its layers open.
type Export struct {
	Digest   string // of the manifest
	manifest []byte
	config   descriptor
	raw      []byte // the config
	layers   []exportLayer
}

// exportLayer is a blob in a file.
type exportLayer struct {
	descriptor
	diffID string
	file   *os.File
}

// Close lets go of the layers. It is idempotent.
func (e *Export) Close() error {
	var errs []error
	for _, l := range e.layers {
		errs = append(errs, l.file.Close())
	}
	e.layers = nil
	return errors.Join(errs...)
}

// Reuse makes the image go out as it came: with the manifest and the config of
// the pull, and the layers of the cache, which are verified first. If one is
// not there (any more) the error is fs.ErrNotExist.
func Reuse(ctx context.Context, cache string, rawManifest, rawConfig []byte) (_ *Export, err error) {
	m, err := parseManifest(rawManifest, "")
	if err != nil {
		return nil, err
	}
	e := &Export{Digest: digestOfBytes(rawManifest), manifest: rawManifest, config: m.Config, raw: rawConfig}
	defer func() {
		if err != nil {
			_ = e.Close()
		}
	}()
	if m.index || digestOfBytes(rawConfig) != m.Config.Digest {
		return nil, malformed("its manifest and its config do not belong together")
	}
	for _, l := range m.Layers {
		r, err := openCached(ctx, cache, &Layer{Digest: l.Digest, Size: l.Size})
		if err != nil {
			return nil, err
		}
		e.layers = append(e.layers, exportLayer{descriptor: l, file: r.(*os.File)})
	}
	return e, nil
}

// PackOptions says what Pack makes an image of. Only Dir, Arch and Write must be there.
type PackOptions struct {
	Dir         string // for the layer while it is needed; the file in it has no name
	Compression string // gzip, the default, zstd or none
	Arch        string // as Options.Arch
	Config      banger.ImageConfig
	// RawConfig is the config that the image came with: what it says of how the
	// image is run is taken over.
	RawConfig []byte
	Created   time.Time
	By        string // for the history: what the layer is made of
	// Write writes the tar of the one layer.
	Write func(ctx context.Context, w io.Writer) error
	// Progress, if set, is told how many bytes of the tar were written.
	Progress func(banger.Progress)
}

// Pack makes an image of one layer. The same options and the same tar give the
// same bytes.
func Pack(ctx context.Context, o PackOptions) (_ *Export, err error) {
	want, err := platformOf(o.Arch)
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(o.Dir, "layer-*")
	if err != nil {
		return nil, storeError(err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	if err := os.Remove(f.Name()); err != nil { // its descriptor is enough
		return nil, err
	}
	layer, err := packLayer(ctx, f, o)
	if err != nil {
		return nil, err
	}
	e := &Export{layers: []exportLayer{layer}}
	if e.raw, err = packConfig(o, want, layer.diffID); err != nil {
		return nil, err
	}
	e.config = descriptor{MediaType: types.OCIConfigJSON, Digest: digestOfBytes(e.raw), Size: int64(len(e.raw))}
	e.manifest, err = json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": types.OCIManifestSchema1,
		"config": e.config.out(), "layers": []any{layer.out()},
	})
	e.Digest = digestOfBytes(e.manifest)
	return e, err
}

// out is a descriptor as it is written; nothing of it depends on the order of a map.
func (d descriptor) out() any {
	return struct {
		MediaType types.MediaType `json:"mediaType"`
		Digest    string          `json:"digest"`
		Size      int64           `json:"size"`
	}{d.MediaType, d.Digest, d.Size}
}

// packLayer writes the layer and finds out its digests on the way.
func packLayer(ctx context.Context, f *os.File, o PackOptions) (exportLayer, error) {
	blob := newSummer(f)
	var pressed io.WriteCloser
	mediaType := types.OCILayer
	switch o.Compression {
	case "", "gzip":
		z, err := gzip.NewWriterLevel(blob, gzip.DefaultCompression)
		if err != nil {
			return exportLayer{}, err
		}
		pressed = z
	case "zstd":
		// One goroutine: how several share the work must not show in the bytes.
		z, err := zstd.NewWriter(blob, zstd.WithEncoderConcurrency(1))
		if err != nil {
			return exportLayer{}, err
		}
		pressed, mediaType = z, types.OCILayerZStd
	case "none":
		pressed, mediaType = nopCloser{blob}, types.OCIUncompressedLayer
	default:
		return exportLayer{}, banger.Errorf(banger.Invalid, "compression %q is none of gzip, zstd and none", o.Compression)
	}
	plain := newSummer(pressed)
	meter := &meter{step: "pack the root file system", report: o.Progress}
	plain.told = meter.add
	err := o.Write(ctx, plain)
	if cerr := pressed.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return exportLayer{}, storeErrorOr(err)
	}
	return exportLayer{descriptor: descriptor{MediaType: mediaType, Digest: sumOf(blob.sum), Size: blob.n}, diffID: sumOf(plain.sum), file: f}, nil
}

// storeErrorOr gives an error of a full disk its kind and leaves others alone.
func storeErrorOr(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return storeError(err)
	}
	return err
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// packConfig writes the config: image-spec v1.1, config.md. What the image came
// with says how it is run; its layers and their history are no longer those.
func packConfig(o PackOptions, want platform, diffID string) ([]byte, error) {
	var old struct {
		Author string          `json:"author,omitempty"`
		Config json.RawMessage `json:"config"`
	}
	if len(o.RawConfig) > 0 {
		if err := decodeDocument("config", o.RawConfig, &old); err != nil {
			return nil, err
		}
	}
	if len(old.Config) == 0 || bytes.Equal(old.Config, []byte("null")) {
		var err error
		if old.Config, err = json.Marshal(runConfig(o.Config)); err != nil {
			return nil, err
		}
	}
	type step struct {
		Created   time.Time `json:"created"`
		CreatedBy string    `json:"created_by"`
	}
	return json.Marshal(struct {
		Created      time.Time       `json:"created"`
		Author       string          `json:"author,omitempty"`
		Architecture string          `json:"architecture"`
		Variant      string          `json:"variant,omitempty"`
		OS           string          `json:"os"`
		Config       json.RawMessage `json:"config"`
		RootFS       any             `json:"rootfs"`
		History      []step          `json:"history"`
	}{o.Created.UTC(), old.Author, want.arch, want.variants[0], "linux", old.Config,
		struct {
			Type    string   `json:"type"`
			DiffIDs []string `json:"diff_ids"`
		}{"layers", []string{diffID}},
		[]step{{o.Created.UTC(), cmp.Or(o.By, "banger")}}})
}

// runConfig is the part of a config that banger knows.
func runConfig(c banger.ImageConfig) any {
	return struct {
		User       string   `json:",omitempty"`
		Env        []string `json:",omitempty"`
		Entrypoint []string `json:",omitempty"`
		Cmd        []string `json:",omitempty"`
		WorkingDir string   `json:",omitempty"`
		StopSignal string   `json:",omitempty"`
	}{c.User, c.Env, c.Entrypoint, c.Cmd, c.WorkingDir, c.StopSignal}
}

// documents are all that the image consists of but its layers, by digest.
func (e *Export) documents() map[string][]byte {
	return map[string][]byte{e.Digest: e.manifest, e.config.Digest: e.raw}
}

// files are the layers, each digest once.
func (e *Export) files() []exportLayer {
	list := slices.Clone(e.layers)
	slices.SortStableFunc(list, func(a, b exportLayer) int { return cmp.Compare(a.Digest, b.Digest) })
	return slices.CompactFunc(list, func(a, b exportLayer) bool { return a.Digest == b.Digest })
}

// open reads a layer from its start.
func (l exportLayer) open(ctx context.Context) io.Reader {
	return hostfile.Reader(ctx, io.NewSectionReader(l.file, 0, l.Size))
}
