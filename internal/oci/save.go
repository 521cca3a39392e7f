package oci

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"banger"
)

// Save writes the image as an OCI layout in a tar (image-spec v1.1,
// image-layout.md), with the manifest.json beside it that Docker before version
// 25 looks for. name is how it is called in there. The same image and name give
// the same bytes.
func (e *Export) Save(ctx context.Context, w io.Writer, name string, progress func(banger.Progress)) error {
	m := &meter{step: "write " + name, report: progress}
	for _, l := range e.files() {
		m.total += l.Size
	}
	t := tar.NewWriter(w)
	for _, f := range e.layoutFiles(name) {
		if err := addFile(t, f.name, int64(len(f.data)), bytes.NewReader(f.data)); err != nil {
			return err
		}
	}
	for _, l := range e.files() {
		if err := addFile(t, blobName(l.Digest), l.Size, io.TeeReader(l.open(ctx), told(m.add))); err != nil {
			return fmt.Errorf("layer %s: %w", shortDigest(l.Digest), err)
		}
	}
	return t.Close()
}

// told is a writer that only counts.
type told func(int64)

func (t told) Write(p []byte) (int, error) {
	t(int64(len(p)))
	return len(p), nil
}

func addFile(t *tar.Writer, name string, size int64, r io.Reader) error {
	if err := t.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: size}); err != nil {
		return err
	}
	_, err := io.Copy(t, r)
	return err
}

type layoutData struct {
	name string
	data []byte
}

// layoutFiles are the small files, with those that say what it is first.
func (e *Export) layoutFiles(name string) []layoutData {
	annotations := map[string]string{refAnnotation: name}
	var tags []string
	if r, err := parse(strings.ToLower(name)); err == nil {
		annotations[nameAnnotation] = r.full
		tags = []string{r.Context().RepositoryStr() + ":" + r.Identifier()}
		if r.registry() != hubName {
			tags = []string{r.full}
		}
		tags[0] = strings.TrimPrefix(tags[0], "library/")
	}
	var layers []string
	for _, l := range e.layers {
		layers = append(layers, blobName(l.Digest))
	}
	index := map[string]any{"schemaVersion": 2, "mediaType": types.OCIImageIndex, "manifests": []any{map[string]any{
		"mediaType": e.manifestType(), "digest": e.Digest, "size": len(e.manifest), "annotations": annotations}}}
	docker := []any{map[string]any{"Config": blobName(e.config.Digest), "RepoTags": tags, "Layers": layers}}
	files := []layoutData{{layoutFile, []byte(`{"imageLayoutVersion":"1.0.0"}`)}, {indexFile, encoded(index)}, {manifestFile, encoded(docker)}}
	documents := e.documents()
	for _, digest := range slices.Sorted(maps.Keys(documents)) {
		files = append(files, layoutData{blobName(digest), documents[digest]})
	}
	return files
}

// encoded is JSON of what can always be encoded; maps are sorted.
func encoded(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("oci: " + err.Error())
	}
	return b
}

// manifestType is the media type of the manifest, as it says itself or as OCI has it.
func (e *Export) manifestType() types.MediaType {
	var m manifest
	if json.Unmarshal(e.manifest, &m) == nil && m.MediaType != "" {
		return m.MediaType
	}
	return types.OCIManifestSchema1
}

// summer is a writer that knows the digest and the number of what passed it.
type summer struct {
	w    io.Writer
	sum  hash.Hash
	n    int64
	told func(int64)
}

func newSummer(w io.Writer) *summer { return &summer{w: w, sum: sha256.New()} }

func (s *summer) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	s.sum.Write(p[:n])
	s.n += int64(n)
	if s.told != nil {
		s.told(int64(n))
	}
	return n, err
}
