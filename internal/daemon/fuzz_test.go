package daemon

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"path"
	"testing"
	"time"

	"banger"
	"banger/internal/dockerfile"
	"banger/internal/rootfs"
)

// FuzzUnpack unpacks an archive of any bytes as ADD does. What comes of it is a
// layer that an image can be made of, and that has what the stage's view shows.
func FuzzUnpack(f *testing.F) {
	archive := func(headers ...tar.Header) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range headers {
			h.Format = tar.FormatPAX
			if err := w.WriteHeader(&h); err != nil {
				f.Fatal(err)
			}
		}
		_ = w.Close()
		return b.Bytes()
	}
	f.Add(archive(tar.Header{Name: "a", Mode: 0o644}, tar.Header{Name: "b", Typeflag: tar.TypeLink, Linkname: "a"}))
	f.Add(archive(tar.Header{Name: "../../etc/x", Mode: 0o4755}, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, tar.Header{Name: "l/y"}))
	f.Add(archive(tar.Header{Name: "d/", Typeflag: tar.TypeDir}, tar.Header{Name: "d", Typeflag: tar.TypeReg}))
	f.Add(archive(tar.Header{Name: "lib/", Typeflag: tar.TypeDir, Mode: 0o700}, tar.Header{Name: "lib/.wh.x"}))
	f.Add(archive(tar.Header{Name: "p", Typeflag: tar.TypeFifo}, tar.Header{Name: "c", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}))
	f.Add(archive(tar.Header{Name: "x", PAXRecords: map[string]string{"SCHILY.xattr.user.a": "1", "comment": "x"}}))
	f.Add(archive(tar.Header{Name: "s", Typeflag: tar.TypeSymlink, Linkname: "s"}, tar.Header{Name: "s/a"}, tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "s/a"}))
	below := archive(tar.Header{Name: "usr/lib/", Typeflag: tar.TypeDir, Mode: 0o755}, tar.Header{Name: "lib", Typeflag: tar.TypeSymlink, Linkname: "usr/lib"})
	f.Fuzz(func(t *testing.T, data []byte) {
		view := rootfs.NewView(nil)
		if err := view.Apply(t.Context(), bytes.NewReader(below)); err != nil {
			t.Fatal(err)
		}
		var layer bytes.Buffer
		c := &copier{b: &builder{now: time.Unix(1000, 0)}, op: &dockerfile.Copy{Dest: "/", IntoDir: true, Unpack: true},
			view: view, placer: rootfs.NewPlacer(view, &atMost{w: &layer, left: 4 << 20}), mode: -1}
		done, err := c.unpack(bytes.NewReader(data))
		if err = errors.Join(err, c.placer.Close()); err != nil || !done {
			return // what went wrong ends the build
		}
		image := t.TempDir() + "/image"
		var layers []rootfs.Layer
		for _, b := range [][]byte{below, layer.Bytes()} {
			layers = append(layers, rootfs.Layer{Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }})
		}
		if _, err := rootfs.Build(t.Context(), image, layers, rootfs.Options{}); err != nil {
			t.Fatalf("no image can be made of it: %v", err)
		}
		wantAsView(t, view, image)
	})
}

var errTooMuch = banger.Errorf(banger.Invalid, "too much")

// atMost fails what writes more than a fuzzer has time for.
type atMost struct {
	w    io.Writer
	left int
}

func (a *atMost) Write(p []byte) (int, error) {
	if a.left -= len(p); a.left < 0 {
		return 0, errTooMuch
	}
	return a.w.Write(p)
}

// wantAsView wants the files of an image to be what a view shows.
func wantAsView(t *testing.T, view *rootfs.View, image string) {
	t.Helper()
	tree, err := openRootfs(image)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.close()
	top, err := tree.Lookup("")
	if err != nil {
		t.Fatal(err)
	}
	err = tree.Walk(t.Context(), top, func(name string, f *rootfs.TreeFile) error {
		at, h, err := view.Resolve(path.Join("/", path.Dir(name)))
		if err != nil || h == nil || at != path.Dir("/" + name)[1:] {
			t.Errorf("the view has %q at %q, %v", path.Dir(name), at, err)
		}
		if _, h, err = view.Resolve("/" + name); f.Header.Typeflag == tar.TypeDir && (err != nil || h == nil || h.Typeflag != tar.TypeDir) {
			t.Errorf("the view has no directory %q: %v, %v", name, h, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
