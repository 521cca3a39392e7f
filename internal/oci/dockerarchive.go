package oci

import (
	"context"
	"errors"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"sync"

	"banger"
)

// dockerEntry is one image of a docker-archive's manifest.json.
type dockerEntry struct {
	Config   string
	RepoTags []string
	Layers   []string // paths of tars, the lowest first
}

// dockerEntries reads manifest.json.
func (a *Archive) dockerEntries() ([]dockerEntry, error) {
	raw, err := a.document(manifestFile, maxManifest)
	if err != nil {
		return nil, err
	}
	var list []dockerEntry
	return list, decodeDocument(manifestFile, raw, &list)
}

// isDocker reports whether manifest.json is that of a docker-archive: any tar of
// a root file system may have a file of that name.
func (a *Archive) isDocker() bool {
	list, err := a.dockerEntries()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(list, func(e dockerEntry) bool { return e.Config != "" && a.has(e.Config) })
}

// dockerImage finds an image of a docker-archive. It has no manifest with
// digests: the layers are settled by the diff IDs of the config, and that by its
// name, where it has one that says so.
func (a *Archive) dockerImage(_ context.Context, ref string, want platform, m *meter) (*Image, error) {
	list, err := a.dockerEntries()
	if err != nil {
		return nil, err
	}
	e, tag, err := pickDocker(list, ref)
	if err != nil {
		return nil, err
	}
	if len(e.Layers) == 0 {
		return nil, malformed("it has no layers")
	}
	if len(e.Layers) > maxLayers {
		return nil, malformed("%d layers, at most %d can be", len(e.Layers), maxLayers)
	}
	d := &documents{manifest: &manifest{}}
	if d.config, err = a.document(e.Config, maxConfig); err != nil {
		return nil, err
	}
	if id := configID().FindStringSubmatch(e.Config); id != nil {
		if got := digestOfBytes(d.config); got != "sha256:"+id[1] {
			return nil, wrongBytes(&archiveStore{}, 0, got, 0, "sha256:"+id[1])
		}
	}
	var sum int64
	for _, path := range e.Layers {
		size, err := a.layerSize(path)
		if err != nil {
			return nil, err
		}
		if sum += size; sum > maxUncompressed {
			return nil, malformed("its layers take more than %d GiB", maxUncompressed>>30)
		}
		d.manifest.Layers = append(d.manifest.Layers, descriptor{Size: size})
	}
	store := &archiveStore{archive: a, paths: map[string]string{}}
	im, err := d.image("read its config", want, store, m)
	if err != nil {
		return nil, err
	}
	for i, l := range im.Layers {
		store.paths[l.Name] = e.Layers[i]
	}
	im.Ref = tag
	return im, nil
}

func (a *Archive) layerSize(path string) (int64, error) {
	r, size, err := a.files.open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, banger.Errorf(banger.Invalid, "the archive lacks the layer %s", shownName(path))
	}
	if err != nil {
		return 0, err
	}
	return size, r.Close()
}

// configID finds the digest in a config's path: HEX.json, sha256:HEX, or
// blobs/sha256/HEX, by who wrote the archive.
var configID = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`(?:^|/|sha256:)([0-9a-f]{64})(?:\.json)?$`) })

// pickDocker chooses the image that ref means, or the only one there is. The tag
// is the one that was meant, or the first.
func pickDocker(list []dockerEntry, ref string) (e dockerEntry, tag string, err error) {
	var there []string
	for _, e := range list {
		name := e.Config
		if len(e.RepoTags) > 0 {
			name = strings.Join(e.RepoTags, ", ")
			tag = e.RepoTags[0]
		}
		there = append(there, name)
		for _, t := range e.RepoTags {
			if ref != "" && sameRef(ref, t) {
				return e, t, nil
			}
		}
		if id := configID().FindStringSubmatch(e.Config); id != nil && ref == "sha256:"+id[1] {
			return e, tag, nil
		}
	}
	switch {
	case len(list) == 0:
		return e, "", malformed("%s lists no image", manifestFile)
	case ref != "":
		return e, "", noSuchRef(ref, there)
	case len(list) > 1:
		return e, "", severalRefs(there)
	}
	return list[0], tag, nil
}
