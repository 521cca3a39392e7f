package oci

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"banger"
)

// shelf is an archive under construction: its files by name. A value that
// begins with -> is a symbolic link.
type shelf map[string]string

func (s shelf) blob(b []byte) map[string]any {
	s["blobs/sha256/"+strings.TrimPrefix(digestOf(b), "sha256:")] = string(b)
	return map[string]any{"digest": digestOf(b), "size": len(b)}
}

// add puts an image's blobs into a layout and gives its descriptor.
func (s shelf) add(t testing.TB, im *image, more map[string]any) map[string]any {
	t.Helper()
	for _, l := range im.layers {
		s.blob(l.blob)
	}
	if im.manifest["config"] == nil {
		d := s.blob(mustJSON(t, im.config))
		d["mediaType"] = types.OCIConfigJSON
		im.manifest["config"] = d
	}
	d := s.blob(mustJSON(t, im.manifest))
	d["mediaType"] = types.OCIManifestSchema1
	maps.Copy(d, more)
	return d
}

func (s shelf) index(t testing.TB, entries ...map[string]any) shelf {
	t.Helper()
	s[layoutFile] = `{"imageLayoutVersion":"1.0.0"}`
	s[indexFile] = string(mustJSON(t, map[string]any{"schemaVersion": 2, "manifests": entries}))
	return s
}

func named(name string) map[string]any {
	return map[string]any{"annotations": map[string]string{refAnnotation: name}}
}

// docker makes a docker-archive of images.
func docker(t testing.TB, images map[string]*image) shelf {
	t.Helper()
	s := shelf{}
	var list []map[string]any
	for _, tag := range slices.Sorted(maps.Keys(images)) {
		im := images[tag]
		config := mustJSON(t, im.config)
		id := strings.TrimPrefix(digestOf(config), "sha256:")
		s[id+".json"] = string(config)
		var layers []string
		for i, l := range im.layers {
			layers = append(layers, fmt.Sprintf("%s-%d/layer.tar", id, i))
			s[layers[i]] = string(l.blob)
		}
		list = append(list, map[string]any{"Config": id + ".json", "RepoTags": []string{tag}, "Layers": layers})
	}
	s[manifestFile] = string(mustJSON(t, list))
	return s
}

func (s shelf) tar(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(s)) {
		h := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(s[name])), Typeflag: tar.TypeReg}
		if to, ok := strings.CutPrefix(s[name], "->"); ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, to, 0
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			_, _ = w.Write([]byte(s[name]))
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func (s shelf) dir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range s {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if to, ok := strings.CutPrefix(text, "->"); ok {
			if err := os.Symlink(to, path); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func openTar(t *testing.T, b []byte) (*Archive, error) {
	t.Helper()
	a, err := OpenTar(t.Context(), bytes.NewReader(b), int64(len(b)))
	if err == nil {
		t.Cleanup(func() { _ = a.Close() })
	}
	return a, err
}

// both opens the archive as a tar and as a directory.
func (s shelf) both(t *testing.T) map[string]*Archive {
	t.Helper()
	a, err := openTar(t, s.tar(t))
	if err != nil {
		t.Fatal(err)
	}
	d, err := OpenDir(s.dir(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return map[string]*Archive{"tar": a, "dir": d}
}

func wantLayers(t *testing.T, im *Image, layers []layerBlob) {
	t.Helper()
	if len(im.Layers) != len(layers) {
		t.Fatalf("%d layers, want %d", len(im.Layers), len(layers))
	}
	for i, l := range im.Layers {
		b, err := readLayer(t.Context(), l)
		if err != nil || !bytes.Equal(b, layers[i].plain) {
			t.Errorf("%s: %d bytes, %v", l.Name, len(b), err)
		}
	}
}

func TestLayout(t *testing.T) {
	t.Parallel()
	plain := tarOf("c", 70_000)
	im := newImage(gzLayer("a", 300_000), layerBlob{types.OCILayerZStd, tarOf("b", 9000), zst(t, tarOf("b", 9000)), ""},
		layerBlob{types.OCIUncompressedLayer, plain, plain, ""})
	s := shelf{}
	d := s.add(t, im, named("some/thing:1"))
	for how, a := range s.index(t, d).both(t) {
		var last banger.Progress
		got, err := a.Resolve(t.Context(), "", Options{Progress: func(p banger.Progress) { last = p }})
		if err != nil {
			t.Fatalf("%s: %v", how, err)
		}
		if a.Format != "oci-layout" || got.Digest != d["digest"] || got.Named != got.Digest || got.Ref != "some/thing:1" ||
			got.Config.WorkingDir != "/srv" || digestOf(got.RawManifest) != got.Digest || !json.Valid(got.RawConfig) {
			t.Errorf("%s: %s %+v", how, a.Format, got)
		}
		wantLayers(t, got, im.layers)
		if last.Done != last.Total || last.Total == 0 {
			t.Errorf("%s: progress ends with %+v", how, last)
		}
		wantLayers(t, got, im.layers) // they can be read again
	}
}

func TestDockerArchive(t *testing.T) {
	t.Parallel()
	plain := tarOf("c", 70_000)
	one := newImage(layerBlob{types.DockerLayer, plain, plain, ""}, gzLayer("a", 3000))
	s := docker(t, map[string]*image{"debian:bookworm": one})
	// A layer that another image had first is a link to that one's.
	for name, text := range s {
		if strings.HasSuffix(name, "-1/layer.tar") {
			s["other/layer.tar"], s[name] = text, "->../other/layer.tar"
		}
	}
	for how, a := range s.both(t) {
		for _, ref := range []string{"", "debian:bookworm", "docker.io/library/debian:bookworm"} {
			got, err := a.Resolve(t.Context(), ref, Options{})
			if err != nil {
				t.Fatalf("%s: %q: %v", how, ref, err)
			}
			if a.Format != "docker-archive" || got.Digest != "" || got.Ref != "debian:bookworm" || got.Config.User != "1:2" {
				t.Errorf("%s: %s %+v", how, a.Format, got)
			}
			wantLayers(t, got, one.layers)
		}
	}
}

// What Docker saves since version 25 is a layout and a docker-archive at once.
func TestBothFormats(t *testing.T) {
	t.Parallel()
	im := newImage(gzLayer("a", 3000))
	s := docker(t, map[string]*image{"x:1": im})
	s.index(t, s.add(t, im, map[string]any{"annotations": map[string]string{refAnnotation: "1", nameAnnotation: "docker.io/library/x:1"}}))
	for how, a := range s.both(t) {
		for _, ref := range []string{"1", "x:1", "docker.io/library/x:1"} {
			got, err := a.Resolve(t.Context(), ref, Options{})
			if err != nil || a.Format != "oci-layout" || got.Ref != "docker.io/library/x:1" {
				t.Errorf("%s: %q: %s %+v %v", how, ref, a.Format, got, err)
			}
		}
	}
}

func TestArchiveChoice(t *testing.T) {
	t.Parallel()
	one, two := newImage(gzLayer("a", 3000)), newImage(gzLayer("b", 3000))
	s := shelf{}
	first, second := s.add(t, one, named("one")), s.add(t, two, named("two"))
	layout := s.index(t, first, second, s.add(t, one, named("uno")))
	dock := docker(t, map[string]*image{"x:one": one, "x:two": two})
	for what, c := range map[string]struct {
		shelf shelf
		ref   string
		kind  banger.Kind // empty: layer "b"
		words []string
	}{
		"layout, none":     {layout, "", banger.Invalid, []string{"several images: one, two, uno"}},
		"layout, unknown":  {layout, "three", banger.NotFound, []string{`no image "three"`, "one, two"}},
		"layout, tag":      {layout, "two", "", nil},
		"layout, digest":   {layout, second["digest"].(string), "", nil},
		"docker, none":     {dock, "", banger.Invalid, []string{"several images: x:one, x:two"}},
		"docker, unknown":  {dock, "x:three", banger.NotFound, []string{`no image "x:three"`, "x:one, x:two"}},
		"docker, tag":      {dock, "x:two", "", nil},
		"docker, digest":   {dock, digestOf(mustJSON(t, two.config)), "", nil},
		"same image twice": {shelf{}.with(s).index(t, second, s.add(t, two, named("due"))), "", "", nil},
	} {
		a, err := openTar(t, c.shelf.tar(t))
		if err != nil {
			t.Fatal(err)
		}
		got, err := a.Resolve(t.Context(), c.ref, Options{})
		if c.kind != "" {
			wantErr(t, err, c.kind, c.words...)
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		wantLayers(t, got, two.layers)
	}
}

func (s shelf) with(other shelf) shelf { maps.Copy(s, other); return s }

func TestArchivePlatforms(t *testing.T) {
	t.Parallel()
	here, there := newImage(gzLayer("a", 3000)), newImage(gzLayer("b", 3000))
	other := "arm64"
	if runtime.GOARCH == other {
		other = "amd64"
	}
	there.config["architecture"] = other
	on := func(arch string) map[string]any {
		return map[string]any{"platform": map[string]string{"os": "linux", "architecture": arch}}
	}
	uname := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[other]
	s := shelf{}
	list := []map[string]any{s.add(t, there, on(other)), s.add(t, here, on(runtime.GOARCH)), s.add(t, newImage(gzLayer("c", 9)), on("unknown"))}
	list[2]["platform"] = map[string]string{"os": "unknown", "architecture": "unknown"}
	nested := s.blob(mustJSON(t, map[string]any{"schemaVersion": 2, "mediaType": types.OCIImageIndex, "manifests": list}))
	nested["mediaType"] = types.OCIImageIndex
	twice := s.blob(mustJSON(t, map[string]any{"schemaVersion": 2, "mediaType": types.OCIImageIndex, "manifests": []any{nested}}))
	for how, s := range map[string]shelf{"flat": shelf{}.with(s).index(t, list...), "nested": shelf{}.with(s).index(t, nested)} {
		a, err := openTar(t, s.tar(t))
		if err != nil {
			t.Fatal(err)
		}
		for arch, want := range map[string]*image{"": here, uname: there} {
			got, err := a.Resolve(t.Context(), "", Options{Arch: arch})
			if err != nil {
				t.Errorf("%s: %q: %v", how, arch, err)
				continue
			}
			wantLayers(t, got, want.layers)
			if wantNamed := map[string]any{"flat": got.Digest, "nested": nested["digest"]}[how]; got.Named != wantNamed {
				t.Errorf("%s: named %s, want %s", how, got.Named, wantNamed)
			}
		}
		_, err = a.Resolve(t.Context(), "", Options{Arch: "riscv64"})
		wantErr(t, err, banger.Unsupported, "linux/riscv64", "linux/"+other)
	}
	a, err := openTar(t, shelf{}.with(s).index(t, twice).tar(t))
	if err != nil {
		t.Fatal(err)
	}
	_, err = a.Resolve(t.Context(), "", Options{})
	wantErr(t, err, banger.Unsupported, "an index inside an index")
}

// A tar of a root file system, or a directory of one, is no archive.
func TestNoArchive(t *testing.T) {
	t.Parallel()
	for _, s := range []shelf{{"bin/sh": "x"}, {manifestFile: "[]"}, {manifestFile: `[{"Config":"x"}]`}, {manifestFile: "\x00"}, {indexFile: "{}"}, {layoutFile: "{}"}} {
		if _, err := openTar(t, s.tar(t)); !errors.Is(err, ErrNoArchive) {
			t.Errorf("tar of %q: %v", s, err)
		}
		if _, err := OpenDir(s.dir(t)); !errors.Is(err, ErrNoArchive) {
			t.Errorf("directory of %q: %v", s, err)
		}
	}
}
