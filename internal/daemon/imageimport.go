package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"banger"
	"banger/internal/oci"
	"banger/internal/rootfs"
	"banger/internal/state"
)

// imageImport makes an image of files on this host.
func (d *Daemon) imageImport(ctx context.Context, r banger.ImageImportRequest, p progress) (im banger.Image, err error) {
	if (r.Path == "") == (r.FD == nil) {
		return im, banger.Errorf(banger.Invalid, "want either a path or a descriptor to import from")
	}
	if im.Arch, err = oci.Arch(r.Platform); err != nil {
		return im, err
	}
	if err := checkFS(r.FS); err != nil {
		return im, err
	}
	if err := d.checkKernel(r.Kernel); err != nil {
		return im, err
	}
	if r.Name != "" { // before anything is read
		if err := d.mayImport(r); err != nil {
			return im, err
		}
	}
	shown := cmp.Or(r.Path, "stdin")
	src, err := d.openImport(ctx, r, p)
	if err != nil && ctx.Err() != nil {
		return im, banger.Errorf(banger.Canceled, "import %s: %w", shown, context.Cause(ctx))
	}
	if err != nil {
		return im, fmt.Errorf("import %s: %w", shown, state.Classify(err))
	}
	defer src.close()
	if r.Name == "" {
		if r.Name = src.defaultName(r.Path); r.Name == "" {
			return im, banger.Errorf(banger.Invalid, "import %s: it needs a name", shown).WithHint("choose one with --name")
		}
	}
	unlock, err := d.keys.Lock(ctx, "image/"+r.Name)
	if err != nil {
		return im, err
	}
	defer unlock()
	if err := d.mayImport(r); err != nil {
		return im, err
	}
	return d.addImage(r.Force, func(stage string) (banger.Image, error) {
		im.Name, im.Kernel, im.Source, im.FS = r.Name, r.Kernel, "import:"+cmp.Or(r.Path, "-"), r.FS
		im.CreatedAt = time.Now().UTC().Truncate(time.Second)
		if err := src.fill(ctx, stage, &im, p); err != nil {
			return im, fmt.Errorf("import %s: %w", shown, err)
		}
		return im, nil
	})
}

func (d *Daemon) mayImport(r banger.ImageImportRequest) error {
	if err := state.ValidateName("image", r.Name); err != nil {
		return err
	}
	if d.images.Has(r.Name) && !r.Force {
		return imageThere(r.Name).WithHint("banger image show %s, or replace it with --force", r.Name)
	}
	return nil
}

// importSource is what is imported, once it is known what that is: one of the
// fields found, dir and disk, or else the tar of a root file system.
type importSource struct {
	found   *oci.Image   // an image of an archive
	archive *oci.Archive // that it is in
	dir     string       // of a root file system
	disk    bool         // in is that of a disk
	raw     *os.File     // the disk, where it can be read as it is
	in      io.Reader    // the stream, unpacked

	// bound, which may be nil, limits what comes out of a decompressor.
	bound   func(io.Reader) io.Reader
	closers []func() // the last comes first
}

func (s *importSource) close() {
	for i := len(s.closers) - 1; i >= 0; i-- {
		s.closers[i]()
	}
}

// openImport finds out what there is, by its content alone.
func (d *Daemon) openImport(ctx context.Context, r banger.ImageImportRequest, p progress) (s *importSource, err error) {
	s = &importSource{}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if fi, err := os.Stat(r.Path); r.FD == nil && err == nil && fi.IsDir() {
		return s, s.openDir(ctx, r, p)
	}
	var f *os.File
	regular := r.FD == nil
	if regular {
		f, _, err = openRegular(r.Path)
		s.closers = append(s.closers, func() { _ = f.Close() })
	} else {
		var done func()
		f, done, err = fromCaller(ctx, *r.FD)
		s.closers = append(s.closers, func() { done() })
	}
	if err != nil {
		s.closers = nil
		return s, err
	}
	if !regular {
		return s, d.openStream(ctx, s, f, nil, r, p)
	}
	return s, d.openStream(ctx, s, f, f, r, p)
}

// openStream finds out what a stream is; f is the file that it is of, if it is
// a regular one.
func (d *Daemon) openStream(ctx context.Context, s *importSource, src io.Reader, f *os.File, r banger.ImageImportRequest, p progress) error {
	in, err := oci.Unpack(src)
	if err != nil {
		return err
	}
	s.closers = append(s.closers, func() { _ = in.Close() })
	head, err := in.Peek(rootfs.DiskHead)
	if err != nil && err != io.EOF {
		return err
	}
	if s.in = in; s.bound != nil {
		s.in = s.bound(in)
	}
	isTar, mayBeArchive := oci.TarHead(head)
	switch {
	case len(head) == 0:
		return banger.Errorf(banger.Invalid, "it is empty")
	case rootfs.IsDisk(head):
		if s.disk = true; f != nil && !in.Packed {
			s.raw = f
		}
		return s.noRef(r)
	case mayBeArchive:
		if f == nil || in.Packed {
			if f, err = d.spool(ctx, s.in, p); err != nil {
				return err
			}
			s.closers = append(s.closers, func() { _ = f.Close() })
		}
		return s.openTar(ctx, f, r, p)
	case isTar:
		return s.noRef(r)
	}
	return banger.Errorf(banger.Unsupported, "it is no tar, no disk and no directory").
		WithHint("banger image import --help")
}

func (s *importSource) noRef(r banger.ImageImportRequest) error {
	if r.Ref == "" {
		return nil
	}
	return banger.Errorf(banger.Invalid, "it holds one root file system, and no image %q", r.Ref).WithHint("leave out --ref")
}

func (s *importSource) openDir(ctx context.Context, r banger.ImageImportRequest, p progress) (err error) {
	if !filepath.IsAbs(r.Path) {
		return banger.Errorf(banger.Invalid, "%q is not an absolute path", r.Path)
	}
	s.archive, err = oci.OpenDir(r.Path)
	if errors.Is(err, oci.ErrNoArchive) {
		s.dir = r.Path
		return s.noRef(r)
	}
	return s.resolve(ctx, r, p, err)
}

// openTar opens an archive, or what only looked like one.
func (s *importSource) openTar(ctx context.Context, f *os.File, r banger.ImageImportRequest, p progress) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	s.archive, err = oci.OpenTar(ctx, f, fi.Size())
	if !errors.Is(err, oci.ErrNoArchive) {
		return s.resolve(ctx, r, p, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if s.in, err = oci.Unpack(f); err != nil {
		return err
	}
	return s.noRef(r)
}

func (s *importSource) resolve(ctx context.Context, r banger.ImageImportRequest, p progress, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return banger.Errorf(banger.Unavailable, "%w", err)
	}
	if err != nil {
		return err
	}
	s.closers = append(s.closers, func() { _ = s.archive.Close() })
	if s.found, err = s.archive.Resolve(ctx, r.Ref, oci.Options{Arch: r.Platform, Progress: p}); err != nil {
		return err
	}
	s.closers = append(s.closers, func() { _ = s.found.Close() })
	return nil
}

// spool writes a stream to a file without a name, for what has to be read here and there.
func (d *Daemon) spool(ctx context.Context, in io.Reader, p progress) (*os.File, error) {
	f, err := os.CreateTemp(d.Layout.Scratch(), "import-*")
	if err != nil {
		return nil, err
	}
	err = errors.Join(os.Remove(f.Name()), copyTold(ctx, f, in, "read the archive", p))
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// ends are those of names of files that say nothing of what is in them.
var ends = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?i)(\.(tar|tgz|txz|tzst|tbz2|gz|zst|xz|bz2|img|raw|ext[234]|erofs|oci|rootfs))+$`)
})

// defaultName is a name for the image, or nothing.
func (s *importSource) defaultName(path string) string {
	if s.found != nil {
		if name := s.found.DefaultName(); name != "" {
			return name
		}
	}
	name := ends().ReplaceAllString(filepath.Base(path), "")
	if path == "" || state.ValidateName("image", name) != nil {
		return ""
	}
	return strings.ToLower(name)
}
