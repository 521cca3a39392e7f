package daemon

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"banger"
	"banger/internal/dockerfile"
	"banger/internal/oci"
	"banger/internal/rootfs"
)

// place makes the layer of a step that puts files into the stage. No machine is
// needed for that: the stage's tree is known here.
func (s *buildStage) place(ctx context.Context, i int) (*oci.Blob, error) {
	view, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	count := 0
	blob, err := oci.WriteBlob(ctx, s.b.d.Layout.Blobs(), func(w io.Writer) error {
		c := &copier{b: s.b, view: view, placer: rootfs.NewPlacer(view, w)}
		var err error
		switch op := s.Steps[i].Op.(type) {
		case *dockerfile.Copy:
			c.op = op
			err = c.copy(ctx, s.inputs[i])
		case *dockerfile.Mkdir:
			err = c.mkdir(op)
		}
		count = c.placer.Count()
		return errors.Join(err, c.placer.Close())
	})
	if err != nil || count == 0 {
		return nil, err
	}
	s.seen++ // the view shows it, and the blob is the next one
	return &blob, nil
}

// copier carries one COPY, ADD or WORKDIR out.
type copier struct {
	b      *builder
	op     *dockerfile.Copy
	view   *rootfs.View
	placer *rootfs.Placer
	owner  *rootfs.Owner // of --chown; nil: as the sources have it
	mode   int64         // of --chmod; -1: as the sources have it
}

// mkdir makes sure of a working directory.
func (c *copier) mkdir(op *dockerfile.Mkdir) error {
	owner, err := c.findOwner(op.User)
	if err != nil {
		return err
	}
	_, err = c.placer.MkdirAll(op.Path, owner)
	return err
}

func (c *copier) copy(ctx context.Context, in input) error {
	c.mode = -1
	if c.op.Chmod != "" {
		mode, err := strconv.ParseInt(c.op.Chmod, 8, 32)
		if err != nil {
			return err
		}
		c.mode = mode
	}
	if c.op.Chown != "" {
		owner, err := c.findOwner(c.op.Chown)
		if err != nil {
			return err
		}
		c.owner = &owner
	}
	for _, f := range c.op.Files {
		h := &tar.Header{Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(f.Data)), ModTime: c.b.now}
		if err := c.file(f.Name, h, strings.NewReader(f.Data)); err != nil {
			return err
		}
	}
	switch {
	case c.op.URL != "":
		return c.fetched(ctx, in.download)
	case in.stage != nil:
		tree, err := in.stage.tree(ctx)
		if err != nil {
			return err
		}
		return c.fromTree(ctx, tree)
	case in.base != nil:
		tree, err := in.base.tree()
		if err != nil {
			return err
		}
		return c.fromTree(ctx, tree)
	case in.selection != nil:
		return c.fromContext(ctx, in.selection)
	}
	return nil
}

// dirOwner is whose the directories are that have to be made.
func (c *copier) dirOwner() rootfs.Owner {
	if c.owner != nil {
		return *c.owner
	}
	return rootfs.Owner{Time: c.b.now}
}

// file puts one file where the step's destination means it.
func (c *copier) file(name string, h *tar.Header, r io.Reader) error {
	dest := c.op.Dest
	at, there, err := c.view.Resolve(dest)
	if err != nil {
		return err
	}
	if c.op.IntoDir || there != nil && there.Typeflag == tar.TypeDir {
		dest = path.Join(dest, name)
		if at, there, err = c.view.Resolve(dest); err != nil {
			return err
		}
	}
	if there != nil && there.Typeflag == tar.TypeDir {
		return banger.Errorf(banger.Invalid, "%q is there and a directory", dest)
	}
	dir, err := c.placer.MkdirAll("/"+path.Dir(at), c.dirOwner())
	if err != nil {
		return err
	}
	return c.put(path.Join(dir, path.Base(at)), h, r)
}

// put puts a file with the owner and the mode that the step asks for.
func (c *copier) put(at string, h *tar.Header, r io.Reader) error {
	header := *h
	if c.owner != nil {
		header.Uid, header.Gid = c.owner.UID, c.owner.GID
	}
	if c.mode >= 0 && h.Typeflag != tar.TypeSymlink {
		header.Mode = c.mode
	}
	header.Uname, header.Gname = "", ""
	return c.placer.Put(at, &header, r)
}

// below puts a file that came out of a directory: name is from the destination.
// A directory on the way that is a symlink to one in the stage is followed.
func (c *copier) below(dest, name string, h *tar.Header, r io.Reader) error {
	dir, err := c.placer.MkdirAll(path.Join(dest, path.Dir(name)), c.dirOwner())
	if err != nil {
		return err
	}
	at := path.Join(dir, path.Base(name))
	if h.Typeflag == tar.TypeDir {
		to, there, err := c.view.Resolve("/" + at)
		if err != nil {
			return err
		}
		if there != nil && there.Typeflag == tar.TypeDir {
			at = to
		}
	}
	return c.put(at, h, r)
}

// fromContext copies what was selected.
func (c *copier) fromContext(ctx context.Context, sel *dockerfile.Selection) error {
	for n, dir := range sel.Dirs {
		if dir {
			if _, err := c.placer.MkdirAll(c.op.Dest, c.dirOwner()); err != nil {
				return err
			}
		}
		for _, it := range sel.Items {
			if it.Source != n {
				continue
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := c.item(sel.Names[n], it); err != nil {
				return fmt.Errorf("%q: %w", it.Path, err)
			}
		}
	}
	return nil
}

// item copies one file of the context. What it holds now has to be what its
// step was named by.
func (c *copier) item(name string, it dockerfile.Item) error {
	h := &tar.Header{Mode: int64(it.Mode.Perm()), ModTime: it.ModTime}
	for _, bit := range []struct {
		has fs.FileMode
		is  int64
	}{{fs.ModeSetuid, 0o4000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSticky, 0o1000}} {
		if it.Mode&bit.has != 0 {
			h.Mode |= bit.is
		}
	}
	put := func(r io.Reader) error {
		if it.Name == "" {
			return c.file(name, h, r)
		}
		return c.below(c.op.Dest, it.Name, h, r)
	}
	switch it.Mode.Type() {
	case fs.ModeDir:
		h.Typeflag = tar.TypeDir
		return put(nil)
	case fs.ModeSymlink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, it.Target
		return put(nil)
	}
	f, err := c.b.context.Open(it.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := newChecked(f, it)
	if it.Name == "" && c.op.Unpack {
		done, err := c.unpack(sum)
		if err != nil {
			return err
		}
		if done {
			return sum.verify()
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		sum = newChecked(f, it)
	}
	h.Typeflag, h.Size = tar.TypeReg, it.Size
	if err := put(sum); err != nil {
		return err
	}
	return sum.verify()
}

// fromTree copies out of another stage or image, with the owners that files have there.
func (c *copier) fromTree(ctx context.Context, tree *rootfs.Tree) error {
	from := rootfs.NewView(tree)
	for _, pattern := range c.op.Sources {
		names := []string{pattern}
		if strings.ContainsAny(pattern, `*?[\`) {
			var err error
			if names, err = tree.Glob(pattern); err != nil {
				return err
			}
		}
		for _, name := range names {
			at, h, err := from.Resolve(name)
			if err == nil && h == nil {
				err = banger.Errorf(banger.NotFound, "there is no %q in it", "/"+strings.TrimPrefix(name, "./"))
			}
			if err == nil {
				err = c.treeSource(ctx, tree, path.Base("/"+name), at)
			}
			if err != nil {
				return fmt.Errorf("source %q: %w", pattern, err)
			}
		}
	}
	return nil
}

// treeSource copies one source of a tree.
func (c *copier) treeSource(ctx context.Context, tree *rootfs.Tree, name, at string) error {
	f, err := tree.Lookup(at)
	if err != nil {
		return err
	}
	if f.Header.Typeflag != tar.TypeDir {
		return streamed(f, func(r io.Reader) error { return c.file(name, f.Header, r) })
	}
	if _, err := c.placer.MkdirAll(c.op.Dest, c.dirOwner()); err != nil {
		return err
	}
	placed := map[string]string{}
	return tree.Walk(ctx, f, func(name string, f *rootfs.TreeFile) error {
		h := f.Header
		if h.Typeflag == tar.TypeLink {
			to, h := placed[h.Linkname], *h
			h.Linkname = to
			return c.below(c.op.Dest, name, &h, nil)
		}
		err := streamed(f, func(r io.Reader) error { return c.below(c.op.Dest, name, h, r) })
		if err == nil && h.Typeflag != tar.TypeDir {
			at, _, rerr := c.view.Resolve(path.Join(c.op.Dest, path.Dir(name)))
			placed[name], err = path.Join(at, path.Base(name)), rerr
		}
		return err
	})
}

// streamed gives use the contents of a file as a reader.
func streamed(f *rootfs.TreeFile, use func(io.Reader) error) error {
	if f.Header.Typeflag != tar.TypeReg {
		return use(nil)
	}
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.CloseWithError(f.Copy(w))
	}()
	err := use(r)
	_ = r.CloseWithError(io.ErrClosedPipe)
	<-done
	return err
}

// findOwner finds user[:group], by name in the stage's own files.
func (c *copier) findOwner(spec string) (rootfs.Owner, error) {
	owner := rootfs.Owner{Time: c.b.now}
	user, group, hasGroup := strings.Cut(spec, ":")
	var err error
	if user != "" {
		if owner.UID, owner.GID, err = c.lookID("/etc/passwd", user, 3); err != nil {
			return owner, err
		}
	}
	if hasGroup && group != "" {
		if owner.GID, _, err = c.lookID("/etc/group", group, 2); err != nil {
			return owner, err
		}
	}
	return owner, nil
}

// lookID finds a name in passwd or group; the second number is in field second.
// A number needs no entry, and stands for both.
func (c *copier) lookID(file, name string, second int) (id, other int, err error) {
	if n, err := strconv.ParseUint(name, 10, 32); err == nil {
		return int(n), int(n), nil
	}
	b, err := c.view.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, 0, err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) <= second || f[0] != name {
			continue
		}
		id, err1 := strconv.ParseUint(f[2], 10, 32)
		other, err2 := strconv.ParseUint(f[second], 10, 32)
		if err1 == nil && err2 == nil {
			return int(id), int(other), nil
		}
	}
	if name == "root" {
		return 0, 0, nil
	}
	return 0, 0, banger.Errorf(banger.Invalid, "%q is not in the stage's %s", name, file)
}
