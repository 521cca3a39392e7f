package rootfs

import (
	"archive/tar"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"banger"
)

// WriteTar writes the whole tree as a tar that every tool for OCI layers reads:
// PAX headers, the root as "./", a directory before what is in it, hard links
// behind the file they name, sockets left out. The same tree gives the same
// bytes. Holes of files become zeros: layers have no form for them that all read.
//
// Errors are *banger.Error: Unsupported for what a layer or this reader cannot
// hold, Invalid for a damaged file system, Canceled; those of w come as they are.
func (t *Tree) WriteTar(ctx context.Context, w io.Writer) error {
	return t.writeTar(ctx, w, func(out *treeTar) error {
		return t.walkTree(ctx, func(name string, i *inode, first string) error {
			h, err := tarHeader(name, i, first)
			if err != nil {
				return fmt.Errorf("entry %s: %w", shown(name), err)
			}
			if h == nil {
				return nil
			}
			return out.add(h, i)
		})
	})
}

// Layer is the tree as the one layer of an image. It can be opened once at a time.
func (t *Tree) Layer(name string) Layer {
	return Layer{Name: name, Literal: true, Open: func(ctx context.Context) (io.ReadCloser, error) {
		r, w := io.Pipe()
		go func() { w.CloseWithError(t.WriteTar(ctx, w)) }() // ends with the reader
		return r, nil
	}}
}

// treeTar is a tar of files of a tree.
type treeTar struct {
	tree *Tree
	out  *tarWriter
	tw   *tar.Writer
	left int64 // bytes of contents that it may still have
}

// add writes one file with its contents.
func (o *treeTar) add(h *tar.Header, i *inode) error {
	if h.Typeflag == tar.TypeReg {
		if o.left -= h.Size; o.left < 0 {
			return o.tree.tooLarge()
		}
	}
	err := o.tw.WriteHeader(h)
	if err == nil && h.Typeflag == tar.TypeReg {
		err = o.tree.copy(o.tw, i)
	}
	if err != nil && o.out.err == nil && !isOwn(err) {
		err = banger.Errorf(banger.Unsupported, "a tar cannot hold it: %w", err)
	}
	if err != nil {
		return fmt.Errorf("entry %s: %w", shown(h.Name), err)
	}
	return nil
}

// tooLarge is the error of contents that no image could hold.
func (t *Tree) tooLarge() error {
	return banger.Errorf(banger.Unsupported, "its files have more than %d bytes, holes among them", t.most)
}

// writeTar writes what fill adds.
func (t *Tree) writeTar(ctx context.Context, w io.Writer, fill func(*treeTar) error) error {
	out := &tarWriter{ctx: ctx, w: w}
	tw := tar.NewWriter(out)
	err := fill(&treeTar{t, out, tw, t.most})
	if err == nil {
		err = tw.Close()
	}
	if out.err != nil {
		err = out.err
	}
	if err != nil && ctx.Err() != nil {
		return banger.Errorf(banger.Canceled, "%w", context.Cause(ctx))
	}
	return err
}

func isOwn(err error) bool {
	var e *banger.Error
	return errors.As(err, &e)
}

// tarWriter ends with its context and remembers its error.
type tarWriter struct {
	ctx context.Context
	w   io.Writer
	err error
}

func (t *tarWriter) Write(p []byte) (int, error) {
	if t.err == nil && t.ctx.Err() != nil {
		t.err = context.Cause(t.ctx)
	}
	if t.err != nil {
		return 0, t.err
	}
	n, err := t.w.Write(p)
	t.err = err
	return n, err
}

// tarHeader describes one name, or nothing of a socket.
func tarHeader(name string, i *inode, first string) (*tar.Header, error) {
	if strings.HasPrefix(path.Base(name), whiteoutPrefix) {
		return nil, banger.Errorf(banger.Unsupported, "its name means something else in a layer")
	}
	h := &tar.Header{Name: name, Mode: int64(i.mode & 0o7777), Uid: int(i.uid), Gid: int(i.gid),
		ModTime: time.Unix(i.sec, int64(i.nsec)), Format: tar.FormatPAX}
	if first != "" {
		return &tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: first, Mode: h.Mode, Uid: h.Uid, Gid: h.Gid,
			ModTime: h.ModTime, Format: tar.FormatPAX}, nil
	}
	switch i.mode & typeMask {
	case typeRegular:
		h.Typeflag, h.Size = tar.TypeReg, i.size
	case typeDir:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
		if name == "" {
			h.Name = "./"
		}
	case typeSymlink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, i.target
	case typeChar, typeBlock:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, int64(i.major), int64(i.minor)
		if i.mode&typeMask == typeBlock {
			h.Typeflag = tar.TypeBlock
		}
	case typeFifo:
		h.Typeflag = tar.TypeFifo
	case typeSocket:
		return nil, nil
	default:
		return nil, invalid("its inode has no type")
	}
	for _, x := range i.xattrs {
		full, value, ok := x.spelled()
		if !ok {
			continue
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[paxXattr+full] = value
	}
	return h, nil
}

// spelled is an attribute as the system calls have it. One that the kernel does
// not show is not ok.
func (x xattr) spelled() (full, value string, ok bool) {
	for _, p := range xattrPrefixes {
		if p.index != x.index || p.whole && x.name != "" {
			continue
		}
		if !p.whole {
			return p.prefix + x.name, x.value, true
		}
		value, ok = callACL(x.value)
		return p.prefix, value, ok
	}
	return "", "", false
}

// callACL converts an ACL from the form of ext4 to that of the system call. It
// is the inverse of diskACL.
func callACL(v string) (string, bool) {
	const user, group = 0x02, 0x08
	le := binary.LittleEndian
	b := []byte(v)
	if len(b) < 4 || le.Uint32(b) != 1 {
		return "", false
	}
	out := le.AppendUint32(nil, 2)
	for p := b[4:]; len(p) > 0; {
		n := 4
		if len(p) >= 2 && (le.Uint16(p) == user || le.Uint16(p) == group) {
			n = 8
		}
		if len(p) < n {
			return "", false
		}
		out = append(out, p[:4]...)
		if n == 8 {
			out = append(out, p[4:8]...)
		} else {
			out = le.AppendUint32(out, 1<<32-1) // ACL_UNDEFINED_ID
		}
		p = p[n:]
	}
	return string(out), true
}
