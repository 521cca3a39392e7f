package rootfs

import (
	"archive/tar"
	"io"
	"path"
	"time"

	"banger"
)

// Placer writes a layer of files that are put into a View, which shows them
// from then on. Directories that are there already are not in the layer.
type Placer struct {
	view  *View
	tw    *tar.Writer
	count int
}

// NewPlacer writes the layer to w.
func NewPlacer(v *View, w io.Writer) *Placer { return &Placer{view: v, tw: tar.NewWriter(w)} }

// Count is how many entries the layer has.
func (p *Placer) Count() int { return p.count }

// Close ends the layer.
func (p *Placer) Close() error { return p.tw.Close() }

// Owner is whose a file is to be, and of when.
type Owner struct {
	UID, GID int
	Time     time.Time
}

// MkdirAll makes sure of a directory and gives the path that it has behind all
// symlinks. What has to be made has mode 0755. Invalid: something else is there.
func (p *Placer) MkdirAll(name string, o Owner) (at string, err error) {
	at, h, err := p.view.Resolve(name)
	if err != nil {
		return "", err
	}
	if h != nil {
		if h.Typeflag != tar.TypeDir {
			return "", invalid("%s is no directory", shown("/"+at))
		}
		return at, nil
	}
	parent, err := p.MkdirAll("/"+parentOf(at), o)
	if err != nil {
		return "", err
	}
	at = path.Join(parent, path.Base(at))
	return at, p.write(&tar.Header{Typeflag: tar.TypeDir, Name: at + "/", Mode: 0o755, Uid: o.UID, Gid: o.GID, ModTime: o.Time}, nil)
}

// Put puts a file at a path whose directory MkdirAll gave; of the header the
// name is not used. A directory that is there stays and gets the attributes, any
// other file takes the place of one that is there. A file does not take that of
// a directory, nor the reverse: Invalid.
func (p *Placer) Put(at string, h *tar.Header, r io.Reader) error {
	old, err := p.view.node(at)
	there := err == nil
	if there && (old.header.Typeflag == tar.TypeDir) != (h.Typeflag == tar.TypeDir) {
		if h.Typeflag == tar.TypeDir {
			return invalid("%s is there and no directory", shown("/"+at))
		}
		return invalid("%s is there and a directory", shown("/"+at))
	}
	c := *h
	c.Name = at
	if c.Typeflag == tar.TypeDir {
		c.Name += "/"
	}
	return p.write(&c, r)
}

func (p *Placer) write(h *tar.Header, r io.Reader) error {
	h.Format = tar.FormatPAX
	h.AccessTime, h.ChangeTime = time.Time{}, time.Time{}
	if _, _, err := newEntry(h, Limits{}.withDefaults(), true); err != nil {
		return err
	}
	e, _, err := newEntry(h, Limits{}.withDefaults(), false)
	if err != nil || e.kind == whiteout || e.kind == opaque {
		return banger.Errorf(banger.Unsupported, "%s: its name means something else in a layer", shown(h.Name))
	}
	if e.kind == putLink {
		if n, err := p.view.node(e.link); err != nil || n.isDir() {
			return invalid("%s is a hard link to %s, which is no file", shown(h.Name), shown(e.link))
		}
	}
	if err := p.tw.WriteHeader(h); err != nil {
		return err
	}
	p.count++
	if h.Typeflag == tar.TypeReg && r != nil {
		keep := &keeper{keep: viewFiles[path.Clean(h.Name)]}
		if _, err := io.Copy(io.MultiWriter(p.tw, keep), r); err != nil {
			return err
		}
		return p.view.add(h, keep)
	}
	return p.view.add(h, &keeper{})
}

// keeper keeps what is written, if it is to, up to maxViewFile.
type keeper struct {
	keep bool
	data []byte
}

func (k *keeper) Write(b []byte) (int, error) {
	if k.keep && len(k.data)+len(b) <= maxViewFile {
		k.data = append(k.data, b...)
	}
	return len(b), nil
}

func (k *keeper) Read(b []byte) (int, error) {
	if len(k.data) == 0 {
		return 0, io.EOF
	}
	n := copy(b, k.data)
	k.data = k.data[n:]
	return n, nil
}
