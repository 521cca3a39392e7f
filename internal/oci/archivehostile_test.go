package oci

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"banger"
)

func TestHostileLayouts(t *testing.T) {
	t.Parallel()
	layer := gzLayer("a", 10_000)
	blobPath := func(b []byte) string { return "blobs/sha256/" + strings.TrimPrefix(digestOf(b), "sha256:") }
	for name, c := range map[string]struct {
		bend  func(s shelf, im *image, d map[string]any) // before the index is written
		after func(s shelf, im *image)
		kind  banger.Kind
		words []string
	}{
		"other bytes": {after: func(s shelf, im *image) {
			b := []byte(s[blobPath(layer.blob)])
			b[100] ^= 1
			s[blobPath(layer.blob)] = string(b)
		}, kind: banger.Invalid, words: []string{"layer 1/1", "other bytes"}},
		"short blob": {after: func(s shelf, im *image) { s[blobPath(layer.blob)] = "x" }, kind: banger.Invalid, words: []string{"1 bytes instead of"}},
		"long blob":  {after: func(s shelf, im *image) { s[blobPath(layer.blob)] += "x" }, kind: banger.Invalid, words: []string{"more than"}},
		"no blob":    {after: func(s shelf, im *image) { delete(s, blobPath(layer.blob)) }, kind: banger.Invalid, words: []string{"layer 1/1"}},
		"other manifest": {after: func(s shelf, im *image) {
			for n := range s {
				if strings.Contains(s[n], "schemaVersion") && n != indexFile {
					s[n] = strings.Replace(s[n], `"size":`, `"size" `, 1)
				}
			}
		}, kind: banger.Invalid, words: []string{"other bytes"}},
		"traversal": {bend: func(_ shelf, _ *image, d map[string]any) { d["digest"] = "sha256:../../../../etc/passwd" }, kind: banger.Invalid, words: []string{"digest"}},
		"manifest bomb": {bend: func(s shelf, _ *image, d map[string]any) {
			b := bytes.Repeat([]byte(" "), maxManifest+1)
			s.blob(b)
			d["digest"], d["size"] = digestOf(b), len(b)
		}, kind: banger.Invalid, words: []string{fmt.Sprint(maxManifest + 1)}},
		"index bomb":  {after: func(s shelf, _ *image) { s[indexFile] = strings.Repeat(" ", maxManifest+1) }, kind: banger.Invalid, words: []string{"it may have"}},
		"index loop":  {bend: nil, after: func(s shelf, _ *image) { s[indexFile] = `{"schemaVersion":2,"manifests":[]}` }, kind: banger.Invalid, words: []string{"lists no image"}},
		"not json":    {after: func(s shelf, _ *image) { s[indexFile] = "{" }, kind: banger.Invalid, words: []string{"index.json"}},
		"config bomb": {bend: func(s shelf, im *image, d map[string]any) { d["size"] = 5 << 20 }, kind: banger.Invalid, words: []string{"5242880"}},
		"link out": {after: func(s shelf, _ *image) {
			delete(s, blobPath(layer.blob))
			s[blobPath(layer.blob)] = "->../../../../../../../../../../../../etc/passwd"
		}, kind: banger.Unavailable, words: []string{"layer 1/1"}},
		"link loop": {after: func(s shelf, _ *image) { s[blobPath(layer.blob)] = "->" + filepath.Base(blobPath(layer.blob)) }, words: []string{"layer 1/1"}},
	} {
		t.Run(name, func(t *testing.T) {
			s, im := shelf{}, newImage(layer)
			d := s.add(t, im, nil)
			if c.bend != nil {
				c.bend(s, im, d)
			}
			s.index(t, d)
			if c.after != nil {
				c.after(s, im)
			}
			for how, a := range s.both(t) {
				got, err := a.Resolve(t.Context(), "", Options{})
				if err == nil {
					_, err = readLayer(t.Context(), got.Layers[0])
				}
				if err == nil {
					t.Fatalf("%s: no error", how)
				}
				for _, w := range c.words {
					if !strings.Contains(err.Error(), w) {
						t.Errorf("%s: %q does not say %q", how, err, w)
					}
				}
				// A directory's links are the system's business, with errors of its own.
				if c.kind == banger.Invalid && !banger.IsKind(err, c.kind) {
					t.Errorf("%s: %v is not %s", how, err, c.kind)
				}
			}
		})
	}
}

// The files that say what an archive holds may be links; what is outside of it
// is never read by them (CVE-2026-48749 and the like).
func TestHostileArchiveLinks(t *testing.T) {
	t.Parallel()
	layout := func() shelf {
		s := shelf{}
		return s.index(t, s.add(t, newImage(gzLayer("a", 10_000)), named("x")))
	}
	dock := func() shelf { return docker(t, map[string]*image{"x:1": newImage(gzLayer("a", 10_000))}) }
	for name, c := range map[string]struct {
		make func() shelf
		file func(name string) bool
	}{
		"oci-layout": {layout, func(n string) bool { return n == layoutFile }},
		"index":      {layout, func(n string) bool { return n == indexFile }},
		"blobs":      {layout, func(n string) bool { return strings.HasPrefix(n, "blobs/") }},
		"manifest":   {dock, func(n string) bool { return n == manifestFile }},
		"config":     {dock, func(n string) bool { return strings.HasSuffix(n, ".json") && n != manifestFile }},
		"layer":      {dock, func(n string) bool { return strings.HasSuffix(n, "layer.tar") }},
	} {
		t.Run(name, func(t *testing.T) {
			// Outside is the same archive, whole: it must not make this one work.
			outside := c.make().dir(t)
			for how, target := range map[string]func(dir, n string) string{
				"absolute": func(_, n string) string { return filepath.Join(outside, n) },
				"relative": func(dir, n string) string {
					to, err := filepath.Rel(filepath.Dir(filepath.Join(dir, n)), filepath.Join(outside, n))
					if err != nil {
						t.Fatal(err)
					}
					return to
				},
			} {
				dir := c.make().dir(t)
				s := c.make()
				for n := range s {
					if !c.file(n) {
						continue
					}
					s[n] = "->" + target(dir, n)
					if err := errors.Join(os.Remove(filepath.Join(dir, n)), os.Symlink(target(dir, n), filepath.Join(dir, n))); err != nil {
						t.Fatal(err)
					}
				}
				b := s.tar(t)
				for kind, open := range map[string]func() (*Archive, error){
					"dir": func() (*Archive, error) { return OpenDir(dir) },
					"tar": func() (*Archive, error) { return OpenTar(t.Context(), bytes.NewReader(b), int64(len(b))) },
				} {
					if err := readWhole(t, open); err == nil {
						t.Errorf("%s, %s: it was read from outside", kind, how)
					}
				}
			}
		})
	}
}

// readWhole reads the one image of an archive.
func readWhole(t *testing.T, open func() (*Archive, error)) error {
	a, err := open()
	if err != nil {
		return err
	}
	defer a.Close()
	im, err := a.Resolve(t.Context(), "", Options{})
	if err != nil {
		return err
	}
	for _, l := range im.Layers {
		if _, err := readLayer(t.Context(), l); err != nil {
			return err
		}
	}
	return nil
}

// What an archive calls an image becomes a name only where it can be one.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	fresh := func() *image { return newImage(gzLayer("a", 100)) }
	for _, name := range []string{"../../x", "..", "/etc/passwd", "a/../../b:1", "-x", ".x", "a\x00b", "a\nb", "a b", strings.Repeat("x", 300), ""} {
		layout := func(more map[string]any) []byte {
			s := shelf{}
			return s.index(t, s.add(t, fresh(), more)).tar(t)
		}
		for what, b := range map[string][]byte{
			"layout": layout(named(name)), "docker": docker(t, map[string]*image{name: fresh()}).tar(t),
			"containerd": layout(map[string]any{"annotations": map[string]string{nameAnnotation: name}}),
		} {
			a, err := openTar(t, b)
			if err != nil {
				t.Fatal(err)
			}
			got, err := a.Resolve(t.Context(), "", Options{})
			if err != nil {
				t.Errorf("%s, %.20q: %v", what, name, err)
				continue
			}
			if d := got.DefaultName(); d != "" && (!objectName().MatchString(d) || strings.ContainsAny(d, "/\x00\n ") || strings.HasPrefix(d, ".") || strings.HasPrefix(d, "-")) {
				t.Errorf("%s: %.20q becomes %q", what, name, d)
			}
			if _, err := a.Resolve(t.Context(), "none", Options{}); err == nil || strings.ContainsAny(err.Error(), "\x00\n") {
				t.Errorf("%s, %.20q: the choice is %q", what, name, err)
			}
		}
	}
}

// An index that lists itself by a digest cannot be made; one that leads on is
// read to a depth of two.
func TestIndexInIndex(t *testing.T) {
	t.Parallel()
	s := shelf{}
	d := s.add(t, newImage(gzLayer("a", 10)), nil)
	for range 3 {
		d = s.blob(mustJSON(t, map[string]any{"schemaVersion": 2, "mediaType": types.OCIImageIndex, "manifests": []any{d}}))
		d["mediaType"] = types.OCIImageIndex
	}
	a, err := openTar(t, s.index(t, d).tar(t))
	if err != nil {
		t.Fatal(err)
	}
	_, err = a.Resolve(t.Context(), "", Options{})
	wantErr(t, err, banger.Unsupported, "an index inside an index")
}

func TestHostileDockerArchives(t *testing.T) {
	t.Parallel()
	plain := tarOf("a", 10_000)
	manifest := func(s shelf, text string) { s[manifestFile] = text }
	path := func(s shelf, end string) string {
		for n := range s {
			if n != manifestFile && strings.HasSuffix(n, end) {
				return n
			}
		}
		return ""
	}
	for name, c := range map[string]struct {
		bend  func(s shelf)
		words []string
	}{
		"other layer":  {func(s shelf) { s[path(s, "layer.tar")] = string(tarOf("b", 10_000)) }, []string{"unpacks to", "its config says"}},
		"other config": {func(s shelf) { s[path(s, ".json")] += " " }, []string{"other bytes"}},
		"no layer":     {func(s shelf) { delete(s, path(s, "layer.tar")) }, []string{"lacks the layer"}},
		"layer counts": {func(s shelf) {
			manifest(s, strings.Replace(s[manifestFile], `"Layers":[`, `"Layers":["`+path(s, "layer.tar")+`",`, 1))
		}, []string{"2 layers in the manifest, 1"}},
		"128 layers": {func(s shelf) {
			manifest(s, strings.Replace(s[manifestFile], `"Layers":[`, `"Layers":[`+strings.Repeat(`"x",`, 127), 1))
		}, []string{"128 layers"}},
		"climbs out": {func(s shelf) {
			manifest(s, strings.Replace(s[manifestFile], path(s, "layer.tar"), "../../../../../../../../etc/passwd", 1))
		}, []string{"names the path"}},
		"config bomb": {func(s shelf) { s[path(s, ".json")] = strings.Repeat(" ", maxConfig+1) }, []string{"it may have"}},
		"layer is dir": {func(s shelf) {
			s["d/e"] = ""
			manifest(s, strings.Replace(s[manifestFile], path(s, "layer.tar"), "d", 1))
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := docker(t, map[string]*image{"x:1": newImage(layerBlob{types.DockerLayer, plain, plain, ""})})
			c.bend(s)
			for how, a := range s.both(t) {
				got, err := a.Resolve(t.Context(), "", Options{})
				if err == nil {
					_, err = readLayer(t.Context(), got.Layers[0])
				}
				if !banger.IsKind(err, banger.Invalid) {
					t.Fatalf("%s: %v is not invalid", how, err)
				}
				for _, w := range c.words {
					if !strings.Contains(err.Error(), w) {
						t.Errorf("%s: %q does not say %q", how, err, w)
					}
				}
			}
		})
	}
}

func TestHostileTars(t *testing.T) {
	t.Parallel()
	s := docker(t, map[string]*image{"x:1": newImage(gzLayer("a", 10_000))})
	whole := s.tar(t)
	entry := func(h *tar.Header) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		_ = w.Flush()
		return b.Bytes()
	}
	many := bytes.Repeat(entry(&tar.Header{Name: "x", Typeflag: tar.TypeReg}), maxArchiveEntries+1)
	twice := append(entry(&tar.Header{Name: manifestFile, Typeflag: tar.TypeReg}), whole...)
	for name, c := range map[string]struct {
		tar  []byte
		word string
	}{
		"truncated in a file": {whole[:len(whole)/2], "truncated"},
		"truncated header":    {whole[:300], "truncated"},
		"garbage":             {bytes.Repeat([]byte("garbage "), 1000), "damaged"},
		"climbs out":          {entry(&tar.Header{Name: "../../etc/passwd", Typeflag: tar.TypeReg}), "names the path"},
		"entries":             {many, "more than 50000 entries"},
		"manifest twice":      {twice, "manifest.json twice"},
		"size":                {entry(&tar.Header{Name: "x", Typeflag: tar.TypeReg, Size: 1 << 40}), "truncated"},
	} {
		if _, err := openTar(t, c.tar); !banger.IsKind(err, banger.Invalid) || !strings.Contains(fmt.Sprint(err), c.word) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := OpenTar(ctx, bytes.NewReader(whole), int64(len(whole))); !banger.IsKind(err, banger.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

// A FIFO in a directory is not waited for.
func TestArchiveFIFO(t *testing.T) {
	t.Parallel()
	s := docker(t, map[string]*image{"x:1": newImage(gzLayer("a", 100))})
	dir := s.dir(t)
	for n := range s {
		if strings.HasSuffix(n, "layer.tar") {
			if err := os.Remove(filepath.Join(dir, n)); err != nil {
				t.Fatal(err)
			}
			if err := syscall.Mkfifo(filepath.Join(dir, n), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	a, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	_, err = a.Resolve(t.Context(), "", Options{})
	wantErr(t, err, banger.Invalid, "not a regular file")
}

func TestUnpack(t *testing.T) {
	t.Parallel()
	plain := tarOf("a", 100_000)
	read := func(b []byte) ([]byte, bool, error) {
		u, err := Unpack(bytes.NewReader(b))
		if err != nil {
			return nil, false, err
		}
		defer u.Close()
		out, err := io.ReadAll(u)
		return out, u.Packed, err
	}
	for name, b := range map[string][]byte{"plain": plain, "gzip": gz(plain), "gzip twice": append(gz(plain[:5000]), gz(plain[5000:])...),
		"zstd": zst(t, plain), "xz": xzOf(t, "xz", plain), "bzip2": xzOf(t, "bzip2", plain)} {
		if out, packed, err := read(b); err != nil || !bytes.Equal(out, plain) || packed != (name != "plain") {
			t.Errorf("%s: %d bytes, packed %v, %v", name, len(out), packed, err)
		}
		if name == "plain" {
			continue
		}
		if _, _, err := read(b[:len(b)/2]); !banger.IsKind(err, banger.Invalid) {
			t.Errorf("half of %s: %v", name, err)
		}
		bent := bytes.Clone(b)
		bent[len(bent)/2] ^= 0xff
		if _, _, err := read(bent); !banger.IsKind(err, banger.Invalid) {
			t.Errorf("damaged %s: %v", name, err)
		}
	}
	if out, _, err := read(nil); err != nil || len(out) != 0 {
		t.Errorf("nothing: %d bytes, %v", len(out), err)
	}
	_, _, err := read(wideZstd(t))
	wantErr(t, err, banger.Unsupported, "MiB")
}
