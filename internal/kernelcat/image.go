package kernelcat

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"strings"

	"banger"
)

// Image is an image of a registry as OpenImage gives it.
type Image struct {
	Ref    string // in full, for instance docker.io/linuxkit/kernel:6.6.71
	Digest string // of the manifest for the architecture, sha256:HEX
	// Layers open the layers as tar streams, the lowest first. A stream is
	// verified when it was read to its end. Each can be opened more than once.
	Layers []func(context.Context) (io.ReadCloser, error)
	Close  func() error
}

// OpenImage finds an image for the architecture, as uname -m, and tells
// progress what its layers have transferred.
type OpenImage func(ctx context.Context, ref, arch string, progress func(banger.Progress)) (*Image, error)

// imageSource is a kernel in an image of a registry.
type imageSource struct{ ref string }

func parseImage(ref string) (Source, error) {
	if ref == "" || strings.HasPrefix(ref, "/") {
		return nil, banger.Errorf(banger.Invalid, "%q names no image", ociScheme+ref).
			WithHint("want oci://[HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST], for instance oci://docker.io/linuxkit/kernel:6.6.71")
	}
	return imageSource{ref}, nil
}

const ociScheme = "oci://"

func (s imageSource) String() string { return ociScheme + s.ref }

// DefaultName is what an image of that reference is called too: the last part
// of its repository with the tag, or with the first 12 digits of the digest.
func (s imageSource) DefaultName() string {
	name, digest, pinned := strings.Cut(s.ref[strings.LastIndexByte(s.ref, '/')+1:], "@sha256:")
	repo, tag, tagged := strings.Cut(name, ":")
	switch {
	case pinned:
		tag = digest[:min(len(digest), 12)]
	case !tagged:
		tag = "latest"
	}
	return nameFrom(repo + "-" + tag)
}

// fill reads all layers once for their names, and those that hold a part of
// the chosen kernel once more for its content.
func (s imageSource) fill(ctx context.Context, f *filling) (origin, error) {
	if f.options.OpenImage == nil {
		return origin{}, banger.Errorf(banger.Unsupported, "%s: images cannot be opened here", s)
	}
	transfer := f.options.Progress
	im, err := f.options.OpenImage(ctx, s.ref, f.arch, func(p banger.Progress) {
		if transfer != nil {
			transfer(p)
		}
	})
	if err != nil {
		return origin{}, err
	}
	defer im.Close()
	tree := newLayerTree()
	for i, open := range im.Layers {
		if err := readLayer(ctx, open, func(r io.Reader) error { return tree.add(i, r) }); err != nil {
			return origin{}, err
		}
	}
	transfer = nil // or the second reading would count again
	files, err := tree.choose()
	if err != nil {
		return origin{}, fmt.Errorf("%s: %w", im.Ref, err)
	}
	if len(files.others) > 0 {
		f.notice("%s holds kernels %s too; taking %s, the newest", im.Ref, strings.Join(files.others, ", "), files.version)
	}
	if err := f.unpackImage(ctx, im, files); err != nil {
		return origin{}, err
	}
	ref, _, _ := strings.Cut(im.Ref, "@")
	return origin{source: "oci:" + ref + "@" + im.Digest, digest: im.Digest}, nil
}

func readLayer(ctx context.Context, open func(context.Context) (io.ReadCloser, error), read func(io.Reader) error) error {
	r, err := open(ctx)
	if err != nil {
		return err
	}
	defer r.Close() // what was read is verified by then, or given up
	return read(r)
}

// unpackImage takes the chosen files.
func (f *filling) unpackImage(ctx context.Context, im *Image, files imageKernel) error {
	b := f.bundle
	if files.version != "" {
		if err := b.setVersion(files.version); err != nil {
			return err
		}
	}
	step, done := "unpack the kernel of "+im.Ref, int64(0)
	f.report(step, 0, files.size)
	plan := files.plan()
	for i, open := range im.Layers {
		w := plan[i]
		if w == nil {
			continue
		}
		err := readLayer(ctx, open, func(r io.Reader) error {
			return eachEntry(r, func(n int, h *tar.Header, r io.Reader) error {
				m := &meter{r: &boundedReader{r: r, left: &b.left}, report: func(n int64) { f.report(step, done+n, files.size) }}
				err := b.addImageFiles(w.take(n, h), m)
				done += m.n
				return err
			})
		})
		if err != nil {
			return err
		}
		for from := range w.links {
			return banger.Errorf(banger.Invalid, "layer %d has a hard link to %.200q, which is no file before it", i+1, from)
		}
	}
	for _, l := range files.symlinks {
		if err := b.addModuleLink(l.part.file, l.file.target); err != nil {
			return err
		}
	}
	return nil
}

// addImageFiles takes the parts of a kernel that are one file of a layer:
// more than one if that has hard links.
func (b *bundle) addImageFiles(parts []chosen, r io.Reader) error {
	for i, c := range parts {
		switch first := parts[0].part; {
		case i == 0:
			if err := b.addPart(c.part, c.path, r); err != nil {
				return err
			}
		case c.part.kind == module && first.kind == module:
			if err := b.addModuleHardlink(c.part.file, first.file); err != nil {
				return err
			}
		default:
			return banger.Errorf(banger.Invalid, "%q and %q are one file", parts[0].path, c.path)
		}
	}
	return nil
}
