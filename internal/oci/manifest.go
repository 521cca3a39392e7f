package oci

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"banger"
)

// platform is what an image must be made for.
type platform struct {
	uname    string   // as uname -m
	arch     string   // as GOARCH, which is what OCI uses
	variants []string // acceptable ones, the best first
}

// platforms lists the machines banger knows, by uname -m.
var platforms = []platform{
	{"x86_64", "amd64", []string{"", "v1"}},
	{"aarch64", "arm64", []string{"v8", ""}},
	{"armv7l", "arm", []string{"v7", "v6", ""}},
	{"i686", "386", []string{""}},
	{"ppc64le", "ppc64le", []string{""}},
	{"riscv64", "riscv64", []string{""}},
	{"s390x", "s390x", []string{""}},
	{"loongarch64", "loong64", []string{""}},
}

// platformOf finds a platform: what uname -m says, OS/ARCH[/VARIANT] as OCI has
// it, or with an empty word this host.
func platformOf(word string) (platform, error) {
	os, rest, slashed := strings.Cut(word, "/")
	arch, variant, _ := strings.Cut(rest, "/")
	for _, p := range platforms {
		switch {
		case word == "" && p.arch == runtime.GOARCH, p.uname == word:
			return p, nil
		case !slashed || os != "linux" || p.arch != arch:
		case variant == "":
			return p, nil
		case slices.Contains(p.variants, variant):
			p.variants = []string{variant}
			return p, nil
		}
	}
	return platform{}, banger.Errorf(banger.Unsupported, "platform %q: banger does not know it", word).
		WithHint("write it as linux/amd64 or linux/arm64/v8")
}

// Arch is what uname -m says on a platform, as Options.Arch has it. Kind: Unsupported.
func Arch(platform string) (string, error) {
	p, err := platformOf(platform)
	return p.uname, err
}

// descriptor points to content by digest. Source: OCI image-spec v1.1, descriptor.md.
type descriptor struct {
	MediaType   types.MediaType   `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations"`
	Platform    *struct {
		OS           string `json:"os"`
		Architecture string `json:"architecture"`
		Variant      string `json:"variant"`
	} `json:"platform"`
}

// manifest is the union of an image manifest and an index, so that a document
// that is both (CVE-2021-41190) shows. Source: OCI image-spec v1.1, manifest.md
// and image-index.md; Docker's schema 2 and manifest list have the same form.
type manifest struct {
	SchemaVersion int             `json:"schemaVersion"`
	MediaType     types.MediaType `json:"mediaType"`
	Config        descriptor      `json:"config"`
	Layers        []descriptor    `json:"layers"`
	Manifests     []descriptor    `json:"manifests"`
	FSLayers      json.RawMessage `json:"fsLayers"` // schema 1

	index bool
}

var (
	indexTypes = []types.MediaType{types.OCIImageIndex, types.DockerManifestList}
	imageTypes = []types.MediaType{types.OCIManifestSchema1, types.DockerManifestSchema2}
)

// imageManifest reads the manifest that the reference names, or the one for
// the platform if it names an index.
func (c *client) imageManifest(ctx context.Context, want platform) (*documents, error) {
	d, err := c.manifest(ctx, c.ref.Identifier(), -1)
	if err != nil || !d.manifest.index {
		return d, err
	}
	chosen, err := d.manifest.choose(want)
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", c.ref.full, err)
	}
	named := d.digest
	if d, err = c.manifest(ctx, chosen.Digest, chosen.Size); err != nil {
		return nil, err
	}
	if d.manifest.index {
		return nil, banger.Errorf(banger.Unsupported, "pull %s: an index inside an index", c.ref.full)
	}
	d.named = named
	return d, nil
}

// manifest reads and checks one manifest, by tag or digest; size is -1 if not known.
func (c *client) manifest(ctx context.Context, id string, size int64) (*documents, error) {
	raw, contentType, digest, err := c.document(ctx, "manifests", id, acceptManifests(), maxManifest)
	if err == nil && digestGrammar().MatchString(id) && digest != id {
		err = wrongBytes(c, size, digest, size, id)
	}
	if err == nil && size >= 0 && int64(len(raw)) != size {
		err = wrongBytes(c, int64(len(raw)), digest, size, id)
	}
	var m *manifest
	if err == nil {
		m, err = parseManifest(raw, types.MediaType(contentType))
	}
	if err != nil {
		return nil, c.explain(ctx, "read the manifest of "+c.ref.full, err)
	}
	return &documents{manifest: m, raw: raw, digest: digest, named: digest}, nil
}

// acceptManifests are the media types of what banger reads.
func acceptManifests() []string {
	var accept []string
	for _, t := range append(slices.Clone(imageTypes), indexTypes...) {
		accept = append(accept, string(t))
	}
	return accept
}

func malformed(format string, args ...any) error {
	return banger.Errorf(banger.Invalid, "malformed image: "+format, args...)
}

// parseManifest decides what a document is by its content; what the registry
// says of it may be missing, but must not contradict.
func parseManifest(raw []byte, contentType types.MediaType) (*manifest, error) {
	m := &manifest{}
	if err := json.Unmarshal(raw, m); err != nil {
		return nil, malformed("manifest: %w", err)
	}
	if m.SchemaVersion == 1 || m.FSLayers != nil || contentType == types.DockerManifestSchema1 || contentType == types.DockerManifestSchema1Signed {
		return nil, banger.Errorf(banger.Unsupported, "the image has a Docker schema 1 manifest, which banger does not read").
			WithHint("push it again with a present-day tool")
	}
	image := m.Config.Digest != "" || len(m.Layers) > 0
	m.index = len(m.Manifests) > 0
	if image && m.index {
		return nil, malformed("it is an image manifest and an index at once")
	}
	for _, t := range []types.MediaType{m.MediaType, contentType} {
		if m.index && slices.Contains(imageTypes, t) || image && slices.Contains(indexTypes, t) {
			return nil, malformed("its media type %q is not what it holds", t)
		}
	}
	if m.SchemaVersion != 2 {
		return nil, malformed("schemaVersion %d instead of 2", m.SchemaVersion)
	}
	if m.index {
		return m, nil
	}
	if !image {
		if slices.Contains(indexTypes, m.MediaType) || slices.Contains(indexTypes, contentType) {
			return nil, malformed("an index that lists nothing")
		}
		return nil, malformed("a manifest without config and layers")
	}
	return m, m.check()
}

// check checks an image manifest before anything it points to is asked for.
func (m *manifest) check() error {
	switch t := m.Config.MediaType; t {
	case types.OCIConfigJSON, types.DockerConfigJSON, "":
	default:
		return banger.Errorf(banger.Unsupported, "not a container image: its config has the media type %q", t)
	}
	if !digestGrammar().MatchString(m.Config.Digest) {
		return malformed("config digest %q", m.Config.Digest)
	}
	if m.Config.Size <= 0 || m.Config.Size > maxConfig {
		return malformed("a config of %d bytes, not 1 to %d", m.Config.Size, maxConfig)
	}
	if len(m.Layers) == 0 {
		return malformed("it has no layers")
	}
	if len(m.Layers) > maxLayers {
		return malformed("%d layers, at most %d can be", len(m.Layers), maxLayers)
	}
	var sum int64
	for i, l := range m.Layers {
		if err := checkLayer(l); err != nil {
			return fmt.Errorf("layer %d: %w", i+1, err)
		}
		if sum += l.Size; sum > maxCompressed {
			return malformed("its layers take more than %d GiB", maxCompressed>>30)
		}
	}
	return nil
}

func checkLayer(l descriptor) error {
	switch l.MediaType {
	case types.OCILayer, types.OCILayerZStd, types.OCIUncompressedLayer,
		types.DockerLayer, types.DockerUncompressedLayer, dockerLayerZstd:
	case types.DockerForeignLayer, types.OCIRestrictedLayer, types.OCIUncompressedRestrictedLayer, ociRestrictedZstd:
		return banger.Errorf(banger.Unsupported, "a foreign layer (%s), which the registry does not hold itself", l.MediaType)
	default:
		return banger.Errorf(banger.Unsupported, "media type %q is not that of a file system layer", l.MediaType)
	}
	if !digestGrammar().MatchString(l.Digest) {
		return malformed("digest %q", l.Digest)
	}
	if l.Size < 0 || l.Size > maxCompressed {
		return malformed("a size of %d bytes", l.Size)
	}
	return nil
}

// Media types that go-containerregistry has no constant for.
const (
	dockerLayerZstd   types.MediaType = "application/vnd.docker.image.rootfs.diff.tar.zstd"
	ociRestrictedZstd types.MediaType = "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
)

// choose picks the manifest for the platform out of an index.
func (m *manifest) choose(want platform) (descriptor, error) {
	var there []string
	best, rank := descriptor{}, len(want.variants)
	if len(m.Manifests) == 1 && m.Manifests[0].Platform == nil {
		best, rank = m.Manifests[0], 0 // its config will tell
	}
	for _, d := range m.Manifests {
		p := d.Platform
		if p == nil || p.OS == "unknown" { // unknown/unknown is an attestation, not an image
			continue
		}
		there = append(there, strings.TrimSuffix(fmt.Sprintf("%s/%s/%s", p.OS, p.Architecture, p.Variant), "/"))
		if p.OS != "linux" || p.Architecture != want.arch {
			continue
		}
		if i := slices.Index(want.variants, p.Variant); i >= 0 && i < rank {
			best, rank = d, i
		}
	}
	if rank == len(want.variants) {
		slices.Sort(there)
		list := strings.Join(slices.Compact(there), ", ")
		if list == "" {
			list = "none"
		} else if len(list) > maxSaid {
			list = list[:maxSaid] + "..."
		}
		return descriptor{}, banger.Errorf(banger.Unsupported, "the image is not made for linux/%s; its platforms are %q", want.arch, list)
	}
	if !digestGrammar().MatchString(best.Digest) {
		return descriptor{}, malformed("manifest digest %q", best.Digest)
	}
	if best.Size <= 0 || best.Size > maxManifest {
		return descriptor{}, malformed("a manifest of %d bytes, not 1 to %d", best.Size, maxManifest)
	}
	return best, nil
}
