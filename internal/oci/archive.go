package oci

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
	"slices"
	"strings"

	"banger"
)

// The files of an archive that say what else is in it. Sources: OCI image-spec
// v1.1, image-layout.md; Docker's image/spec/v1.2.md, "Combined Image JSON".
const (
	layoutFile   = "oci-layout"
	indexFile    = "index.json"
	manifestFile = "manifest.json"
)

// Annotations of a layout's index that name an image: image-spec v1.1,
// annotations.md, and containerd's images/annotations.go.
const (
	refAnnotation  = "org.opencontainers.image.ref.name"
	nameAnnotation = "io.containerd.image.name"
)

// Archive holds images in files: an OCI layout, as a directory or a tar, or what
// "docker save" writes. It is for one image at a time.
type Archive struct {
	Format string // oci-layout or docker-archive
	files  archiveFiles
}

// archiveFiles are the files of an archive by their paths in it.
type archiveFiles interface {
	// open opens a regular file and tells its size. One that is not there is fs.ErrNotExist.
	open(name string) (io.ReadCloser, int64, error)
	close() error
}

// ErrNoArchive says that there are no images in a directory or a tar.
var ErrNoArchive = errors.New("it holds no images")

// OpenDir opens an OCI layout, or an unpacked docker-archive. Symbolic links in
// it are followed as far as they stay in it. A directory that is neither is
// ErrNoArchive.
func OpenDir(dir string) (*Archive, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return newArchive(dirFiles{root})
}

// OpenTar opens an OCI layout or a docker-archive in a tar of so many bytes. The
// tar is read where it is for as long as the archive is used, and belongs to the
// caller. A tar that holds neither is ErrNoArchive; one that is damaged is Invalid.
func OpenTar(ctx context.Context, r io.ReaderAt, size int64) (*Archive, error) {
	files, err := indexTar(ctx, r, size)
	if err != nil {
		return nil, err
	}
	return newArchive(files)
}

func newArchive(files archiveFiles) (*Archive, error) {
	a := &Archive{files: files}
	switch {
	// What Docker saves since version 25 is both; a layout says more.
	case a.has(layoutFile) && a.has(indexFile):
		a.Format = "oci-layout"
	case a.has(manifestFile) && a.isDocker():
		a.Format = "docker-archive"
	default:
		_ = files.close()
		return nil, ErrNoArchive
	}
	return a, nil
}

// Close lets go of the files of a directory.
func (a *Archive) Close() error { return a.files.close() }

func (a *Archive) has(name string) bool {
	r, _, err := a.files.open(name)
	if err != nil {
		return false
	}
	_ = r.Close()
	return true
}

// Resolve finds an image: the one that ref names (a tag, a full name or a
// digest), or with an empty ref the only one there is. Its layers are read from
// the archive; only Arch and Progress of the options mean something.
//
// Errors: NotFound for a ref that is not there, Invalid where none is given and
// there are several, both with the names there are; else those of the function
// Resolve.
func (a *Archive) Resolve(ctx context.Context, ref string, o Options) (*Image, error) {
	want, err := platformOf(o.Arch)
	if err != nil {
		return nil, err
	}
	resolve := a.layoutImage
	if a.Format == "docker-archive" {
		resolve = a.dockerImage
	}
	im, err := resolve(ctx, ref, want, &meter{step: "read " + a.Format, report: o.Progress})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", a.Format, a.explain(ctx, err))
	}
	return im, nil
}

// explain gives an error of reading the archive its kind.
func (a *Archive) explain(ctx context.Context, err error) error {
	var own *banger.Error
	switch {
	case ctx.Err() != nil:
		return banger.Errorf(banger.Canceled, "%w", context.Cause(ctx))
	case errors.As(err, &own):
		return err
	case errors.Is(err, fs.ErrNotExist):
		return banger.Errorf(banger.Invalid, "%w", err)
	}
	return banger.Errorf(banger.Unavailable, "%w", err)
}

// document reads a file as a whole.
func (a *Archive) document(name string, limit int64) ([]byte, error) {
	r, size, err := a.files.open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if size > limit {
		return nil, malformed("%s has %d bytes, it may have %d", shownName(name), size, limit)
	}
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", shownName(name), err)
	}
	if int64(len(b)) != size {
		return nil, malformed("%s has %d bytes instead of %d", shownName(name), len(b), size)
	}
	return b, nil
}

// shownName is a name of an archive for an error: such a name can be a megabyte long.
func shownName(name string) string {
	const most = 200
	if len(name) > most {
		name = name[:most] + "..."
	}
	return fmt.Sprintf("%q", name)
}

// blobName is where a layout has a blob. The digest has passed digestGrammar.
func blobName(digest string) string {
	algorithm, hex, _ := strings.Cut(digest, ":")
	return "blobs/" + algorithm + "/" + hex
}

// blobDocument reads a manifest or a config of a layout and checks its digest.
func (a *Archive) blobDocument(d descriptor, limit int64) ([]byte, error) {
	switch {
	case !digestGrammar().MatchString(d.Digest):
		return nil, malformed("digest %.80q", d.Digest)
	case d.Size <= 0 || d.Size > limit:
		return nil, malformed("%s has %d bytes, not 1 to %d", shortDigest(d.Digest), d.Size, limit)
	}
	b, err := a.document(blobName(d.Digest), limit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, banger.Errorf(banger.Invalid, "the archive lacks the blob %s", d.Digest)
	}
	if err != nil {
		return nil, err
	}
	if sum := digestOfBytes(b); sum != d.Digest || int64(len(b)) != d.Size {
		return nil, wrongBytes(&archiveStore{}, int64(len(b)), sum, d.Size, d.Digest)
	}
	return b, nil
}

func digestOfBytes(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// archiveStore is the store of an archive's layers.
type archiveStore struct {
	archive *Archive
	paths   map[string]string // of the layers by their names; nil: by their digests, in a layout
}

func (s *archiveStore) who() string { return "the archive" }

func (s *archiveStore) open(ctx context.Context, l *Layer) (io.ReadCloser, *cacheFile, error) {
	path := s.paths[l.Name]
	if s.paths == nil {
		path = blobName(l.Digest)
	}
	r, _, err := s.archive.files.open(path)
	if err != nil {
		return nil, nil, s.explain(ctx, "open "+shownName(path), err)
	}
	return r, nil, nil
}

func (s *archiveStore) explain(ctx context.Context, doing string, err error) error {
	return fmt.Errorf("%s: %w", doing, s.archive.explain(ctx, err))
}

// choices is a list of the images of an archive for an error.
func choices(names []string) string {
	slices.Sort(names)
	names = slices.Compact(names)
	list := strings.Join(names, ", ")
	if len(names) == 0 {
		list = "none has a name"
	}
	if len(list) > 10*maxSaid {
		list = list[:10*maxSaid] + "..."
	}
	return strings.Map(printable, list)
}

// sameRef reports whether what the user typed means an image that has the name.
func sameRef(typed, name string) bool {
	if typed == name {
		return true
	}
	a, err := parse(typed)
	if err != nil {
		return false
	}
	b, err := parse(name)
	return err == nil && a.full == b.full
}

// decodeDocument decodes a JSON file of an archive.
func decodeDocument(name string, b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return malformed("%s: %w", name, err)
	}
	return nil
}
