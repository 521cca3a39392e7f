package oci

import (
	"cmp"
	"context"
	"slices"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"banger"
)

// layoutImage finds an image of an OCI layout: image-spec v1.1, image-layout.md.
func (a *Archive) layoutImage(_ context.Context, ref string, want platform, m *meter) (*Image, error) {
	raw, err := a.document(indexFile, maxManifest)
	if err != nil {
		return nil, err
	}
	var top manifest
	if err := decodeDocument(indexFile, raw, &top); err != nil {
		return nil, err
	}
	if top.SchemaVersion != 2 {
		return nil, malformed("%s: schemaVersion %d instead of 2", indexFile, top.SchemaVersion)
	}
	entry, err := pick(&top, ref, want)
	if err != nil {
		return nil, err
	}
	d, err := a.layoutManifest(entry)
	if err != nil {
		return nil, err
	}
	if d.manifest.index {
		named := d.digest
		chosen, err := d.manifest.choose(want)
		if err != nil {
			return nil, err
		}
		if d, err = a.layoutManifest(chosen); err != nil {
			return nil, err
		}
		if d.manifest.index {
			return nil, banger.Errorf(banger.Unsupported, "an index inside an index")
		}
		d.named = named
	}
	if d.config, err = a.blobDocument(d.manifest.Config, maxConfig); err != nil {
		return nil, err
	}
	im, err := d.image("read its config", want, &archiveStore{archive: a}, m)
	if err != nil {
		return nil, err
	}
	im.tag = entry.Annotations[refAnnotation]
	im.Ref = cmp.Or(entry.Annotations[nameAnnotation], im.tag)
	return im, nil
}

// layoutManifest reads a manifest or an index.
func (a *Archive) layoutManifest(d descriptor) (*documents, error) {
	raw, err := a.blobDocument(d, maxManifest)
	if err != nil {
		return nil, err
	}
	m, err := parseManifest(raw, d.MediaType)
	if err != nil {
		return nil, err
	}
	return &documents{manifest: m, raw: raw, digest: d.Digest, named: d.Digest}, nil
}

// names are what an entry of a layout's index can be chosen by.
func (d descriptor) names() []string {
	return slices.DeleteFunc([]string{d.Annotations[nameAnnotation], d.Annotations[refAnnotation], d.Digest},
		func(s string) bool { return s == "" })
}

// pick chooses the entry of a layout's index that ref means, or the only image
// that there is. Entries of one name that differ in their platform are one image.
func pick(top *manifest, ref string, want platform) (descriptor, error) {
	var fit []descriptor
	var there []string
	for _, d := range top.Manifests {
		if p := d.Platform; p != nil && p.OS == "unknown" { // an attestation
			continue
		}
		there = append(there, d.names()[:1]...)
		if ref == "" || slices.ContainsFunc(d.names(), func(n string) bool { return sameRef(ref, n) }) {
			fit = append(fit, d)
		}
	}
	if len(there) == 0 {
		return descriptor{}, malformed("%s lists no image", indexFile)
	}
	if len(fit) == 0 {
		return descriptor{}, noSuchRef(ref, there)
	}
	first := fit[0]
	same := func(key func(descriptor) string) bool {
		return !slices.ContainsFunc(fit, func(d descriptor) bool { return key(d) != key(first) })
	}
	switch {
	case same(func(d descriptor) string { return d.Digest }):
		return first, nil
	case same(func(d descriptor) string { return cmp.Or(d.Annotations[nameAnnotation], d.Annotations[refAnnotation]) }) &&
		!slices.ContainsFunc(fit, func(d descriptor) bool { return d.Platform == nil || slices.Contains(indexTypes, d.MediaType) }):
		return (&manifest{MediaType: types.OCIImageIndex, Manifests: fit, index: true}).choose(want)
	}
	return descriptor{}, severalRefs(there)
}

func noSuchRef(ref string, there []string) error {
	return banger.Errorf(banger.NotFound, "it has no image %q; there are: %s", ref, choices(there)).
		WithHint("choose one with --ref")
}

func severalRefs(there []string) error {
	return banger.Errorf(banger.Invalid, "it has several images: %s", choices(there)).
		WithHint("choose one with --ref")
}
