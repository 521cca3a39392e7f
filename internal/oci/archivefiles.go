package oci

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"banger"
)

// Bounds on an archive's own tar, far above any real one.
const (
	maxArchiveEntries = 50_000
	maxArchiveNames   = 64 << 20 // bytes of all names and link targets
	maxArchiveLinks   = 8        // from one link to the next
)

// dirFiles are the files of a directory. os.Root keeps symbolic links inside it.
type dirFiles struct{ root *os.Root }

func (d dirFiles) open(name string) (io.ReadCloser, int64, error) {
	clean, err := archivePath(name)
	if err != nil {
		return nil, 0, err
	}
	// A FIFO must not be waited for.
	f, err := d.root.OpenFile(clean, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = banger.Errorf(banger.Invalid, "%s is not a regular file", shownName(name))
	}
	if err != nil {
		_ = f.Close()
		return nil, 0, err
	}
	return f, fi.Size(), nil
}

func (d dirFiles) close() error { return d.root.Close() }

// archivePath is a name of an archive as a path in it. A name that climbs out is no tool's.
func archivePath(name string) (string, error) {
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", malformed("it names the path %s", shownName(name))
		}
	}
	return strings.TrimPrefix(path.Clean("/"+name), "/"), nil
}

// tarFiles are the files of a tar, read where they stand in it. Nothing of it
// becomes a file of the host.
type tarFiles struct {
	r       io.ReaderAt
	entries map[string]tarEntry
}

type tarEntry struct {
	offset, size int64
	link         string // path of what it stands for; "" of a file
}

// indexTar notes where the files of a tar are.
func indexTar(ctx context.Context, r io.ReaderAt, size int64) (*tarFiles, error) {
	// archive/tar seeks over what is not read, and reads nothing ahead: behind a
	// header the position is that of the contents.
	in := io.NewSectionReader(r, 0, size)
	tr := tar.NewReader(in)
	t := &tarFiles{r: r, entries: map[string]tarEntry{}}
	names := 0
	for n := 0; ; n++ {
		if n%256 == 0 && ctx.Err() != nil {
			return nil, banger.Errorf(banger.Canceled, "%w", context.Cause(ctx))
		}
		h, err := tr.Next()
		if err == io.EOF {
			return t, nil
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, malformed("the tar is truncated behind entry %d", n)
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return nil, malformed("the tar is damaged behind entry %d: %w", n, err)
		}
		if n >= maxArchiveEntries {
			return nil, malformed("the tar has more than %d entries", maxArchiveEntries)
		}
		if names += len(h.Name) + len(h.Linkname); names > maxArchiveNames {
			return nil, malformed("the names in the tar are longer than %d bytes", maxArchiveNames)
		}
		at, err := in.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		if err := t.add(h, at, size); err != nil {
			return nil, err
		}
	}
}

// add notes one entry. The last one of a name counts, as for tar, but for the
// files that say what the archive is: those nobody writes twice.
func (t *tarFiles) add(h *tar.Header, at, end int64) error {
	e := tarEntry{offset: at, size: h.Size}
	switch h.Typeflag {
	case tar.TypeReg:
		if _, sparse := h.PAXRecords["GNU.sparse.major"]; sparse || h.PAXRecords["GNU.sparse.map"] != "" || h.PAXRecords["GNU.sparse.size"] != "" {
			return malformed("the file %s is sparse", shownName(h.Name))
		}
		if at+h.Size > end {
			return malformed("the tar is truncated in %s", shownName(h.Name))
		}
	case tar.TypeSymlink: // "docker save" has them for layers that images share
		e = tarEntry{link: path.Join("/", path.Dir("/"+h.Name), h.Linkname)}
		if strings.HasPrefix(h.Linkname, "/") {
			e.link = path.Clean(h.Linkname)
		}
	case tar.TypeLink:
		e = tarEntry{link: path.Clean("/" + h.Linkname)}
	default:
		return nil
	}
	name, err := archivePath(h.Name)
	if err != nil {
		return err
	}
	if _, twice := t.entries[name]; twice && (name == layoutFile || name == indexFile || name == manifestFile) {
		return malformed("it has %s twice", name)
	}
	t.entries[name] = e
	return nil
}

func (t *tarFiles) open(name string) (io.ReadCloser, int64, error) {
	clean, err := archivePath(name)
	if err != nil {
		return nil, 0, err
	}
	for range maxArchiveLinks {
		e, ok := t.entries[clean]
		switch {
		case !ok:
			return nil, 0, &fs.PathError{Op: "open", Path: shownName(name), Err: fs.ErrNotExist}
		case e.link == "":
			return io.NopCloser(io.NewSectionReader(t.r, e.offset, e.size)), e.size, nil
		}
		clean = strings.TrimPrefix(e.link, "/")
	}
	return nil, 0, malformed("the file %s is a link that leads nowhere", shownName(name))
}

func (t *tarFiles) close() error { return nil }
