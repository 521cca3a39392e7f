package daemon

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"banger"
	"banger/internal/state"
)

// names of the files of a tar, and the contents of the small ones.
func tarFiles(t *testing.T, r io.Reader) map[string]string {
	t.Helper()
	files := map[string]string{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = string(b)
	}
}

func (h *host) pullImage(ref, name string) banger.Image {
	h.t.Helper()
	im, err := h.client.ImagePull(h.t.Context(), banger.ImagePullRequest{Ref: ref, Name: name}, nil)
	h.must(err)
	return im
}

// saveImage saves to a pipe, as the command does without a file.
func (h *host) saveImage(r banger.ImageSaveRequest) (banger.ImagePushed, map[string]string, error) {
	h.t.Helper()
	out, in, err := os.Pipe()
	h.must(err)
	defer out.Close()
	fd := int(in.Fd())
	r.FD = &fd
	got := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(out)
		got <- b
	}()
	done, err := h.client.ImageSave(h.t.Context(), r, nil)
	_ = in.Close()
	b := <-got
	if err != nil {
		return done, nil, err
	}
	return done, tarFiles(h.t, bytes.NewReader(b)), nil
}

// An image goes out as it came while its layers are cached, and as one layer
// after that; to a file, to a pipe, and to a registry.
func TestImageSaveAndPush(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	reg := newRegistry(t, "one")
	im := h.pullImage(reg.host+"/some/thing:1", "one")
	shown, err := h.client.ImageShow(t.Context(), "one")
	if err != nil || len(shown.Layers) != 1 || shown.Cached != 1 || shown.Named != im.Digest || len(shown.UsedBy) > 0 ||
		shown.Rootfs != h.d.images.Path("one", state.RootfsFile) {
		t.Errorf("shown %+v, %v", shown, err)
	}
	done, files, err := h.saveImage(banger.ImageSaveRequest{Name: "one"})
	if err != nil || done.Digest != im.Digest || !done.Reused || !strings.Contains(files["index.json"], im.Digest) {
		t.Errorf("saved %+v, %v: %.300v", done, err, files["index.json"])
	}
	path := filepath.Join(h.base, "one.tar")
	if _, err := h.client.ImageSave(t.Context(), banger.ImageSaveRequest{Name: "one", Path: path}, nil); err != nil {
		t.Error(err)
	}
	h.must(os.RemoveAll(h.layout.Blobs()))
	done, files, err = h.saveImage(banger.ImageSaveRequest{Name: "one"})
	if err != nil || done.Digest == im.Digest || done.Reused || !strings.Contains(files["index.json"], done.Digest) {
		t.Errorf("saved without the cache: %+v, %v", done, err)
	}
	again, _, err := h.saveImage(banger.ImageSaveRequest{Name: "one", Compression: "none"})
	h.must(err)
	twice, plain, err := h.saveImage(banger.ImageSaveRequest{Name: "one", Compression: "none"})
	if err != nil || again.Digest != twice.Digest {
		t.Errorf("%s, then %s, %v", again.Digest, twice.Digest, err)
	}
	found := false
	for name, text := range plain {
		found = found || strings.HasPrefix(name, "blobs/") && strings.Contains(text, "this is one\n")
	}
	if !found {
		t.Error("the one file is not in the image")
	}
	pushed, err := h.client.ImagePush(t.Context(), banger.ImagePushRequest{Name: "one", Ref: reg.host + "/some/thing:2"}, nil)
	if err != nil || pushed.Digest != done.Digest || pushed.Ref != reg.host+"/some/thing:2" || pushed.Reused {
		t.Fatalf("pushed %+v, %v", pushed, err)
	}
	back := h.pullImage(pushed.Ref, "back")
	if back.Digest != pushed.Digest || back.Config.User != "one" {
		t.Errorf("pulled again: %+v", back)
	}
	if b, err := os.ReadFile(h.d.images.Path("back", state.RootfsFile)); err != nil || !bytes.Contains(b, []byte("this is one\n")) {
		t.Errorf("its root file system lacks the file: %v", err)
	}
	if left, _ := os.ReadDir(h.layout.Scratch()); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestImageSaveMistakes(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	file, err := os.Create(filepath.Join(h.base, "file"))
	h.must(err)
	defer file.Close()
	fd, none := int(file.Fd()), 9999
	for _, tt := range []struct {
		r    banger.ImageSaveRequest
		kind banger.Kind
		says string
	}{
		{banger.ImageSaveRequest{Name: "image"}, banger.Invalid, "either a path or a descriptor"},
		{banger.ImageSaveRequest{Name: "imgae", Path: h.base + "/x.tar"}, banger.NotFound, "did you mean image"},
		{banger.ImageSaveRequest{Name: "image", Path: h.base + "/x.tar"}, banger.Unsupported, "neither an ext4 nor an erofs"},
		{banger.ImageSaveRequest{Name: "image", FD: &fd, Path: "x"}, banger.Invalid, "either a path or a descriptor"},
	} {
		_, err := h.client.ImageSave(t.Context(), tt.r, nil)
		wantKind(t, err, tt.kind, tt.says)
	}
	reg := newRegistry(t, "one")
	h.pullImage(reg.host+"/some/thing:1", "one")
	for _, tt := range []struct {
		r    banger.ImageSaveRequest
		kind banger.Kind
		says string
	}{
		{banger.ImageSaveRequest{Name: "one", Path: "x.tar"}, banger.Invalid, "not an absolute path"},
		{banger.ImageSaveRequest{Name: "one", Path: h.base}, banger.Invalid, "not a regular file"},
		{banger.ImageSaveRequest{Name: "one", Path: h.base + "/none/x.tar"}, banger.NotFound, "there is no folder"},
		{banger.ImageSaveRequest{Name: "one", Path: h.base + "/x.tar", Compression: "lzma"}, banger.Invalid, "none of gzip"},
		{banger.ImageSaveRequest{Name: "one", FD: &fd}, banger.Invalid, "is not a pipe"},
		{banger.ImageSaveRequest{Name: "one", FD: &none}, banger.Invalid, "descriptor 9999"},
	} {
		_, err := h.client.ImageSave(t.Context(), tt.r, nil)
		wantKind(t, err, tt.kind, tt.says)
	}
	// A reader that goes away, and a caller that does.
	out, in, err := os.Pipe()
	h.must(err)
	defer in.Close()
	fd = int(in.Fd())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	failed := make(chan error, 1)
	go func() {
		_, err := h.client.ImageSave(ctx, banger.ImageSaveRequest{Name: "one", FD: &fd, Compression: "none"}, func(banger.Progress) {})
		failed <- err
	}()
	h.must(out.Close())
	wantKind(t, <-failed, banger.Canceled)
	_, err = h.client.ImagePush(t.Context(), banger.ImagePushRequest{Name: "one", Ref: "Some/Thing"}, nil)
	wantKind(t, err, banger.Invalid, "lower case")
	if left, _ := filepath.Glob(h.base + "/*.tar"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if left, _ := filepath.Glob(h.base + "/.tmp-*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// Two names of one image share the files, and go one by one.
func TestImageTag(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	reg := newRegistry(t, "one")
	im := h.pullImage(reg.host+"/some/thing:1", "one")
	tag := func(r banger.ImageTagRequest) (banger.Image, error) { return h.client.ImageTag(t.Context(), r) }
	two, err := tag(banger.ImageTagRequest{Name: "one", New: "two"})
	if err != nil || two.Name != "two" || two.Digest != im.Digest {
		t.Fatalf("%+v, %v", two, err)
	}
	a, err := os.Stat(h.d.images.Path("one", state.RootfsFile))
	h.must(err)
	b, err := os.Stat(h.d.images.Path("two", state.RootfsFile))
	h.must(err)
	if !os.SameFile(a, b) {
		t.Error("the two do not share the file")
	}
	for _, tt := range []struct {
		r    banger.ImageTagRequest
		kind banger.Kind
		says string
	}{
		{banger.ImageTagRequest{Name: "one", New: "two"}, banger.Exists, "banger image tag --force one two"},
		{banger.ImageTagRequest{Name: "one", New: "one", Force: true}, banger.Invalid, "that name already"},
		{banger.ImageTagRequest{Name: "none", New: "three"}, banger.NotFound, "no image named"},
		{banger.ImageTagRequest{Name: "one", New: "../x"}, banger.Invalid, "bad image name"},
	} {
		_, err := tag(tt.r)
		wantKind(t, err, tt.kind, tt.says)
	}
	steps, err := h.client.ImageHistory(t.Context(), "two")
	if err != nil || len(steps) != 1 || steps[0].Layer != im.Layers[0].DiffID || steps[0].Size != im.Layers[0].Size {
		t.Errorf("history %+v, %v", steps, err)
	}
	if steps, err := h.client.ImageHistory(t.Context(), "image"); err != nil || len(steps) != 1 {
		t.Errorf("history of one without layers %+v, %v", steps, err)
	}
	h.must(h.client.ImageDelete(t.Context(), banger.NameRequest{Name: "one"}))
	if done, files, err := h.saveImage(banger.ImageSaveRequest{Name: "two"}); err != nil || !done.Reused || len(files) == 0 {
		t.Errorf("%+v, %v", done, err)
	}
	h.mustCreate("web", true)
	_, err = tag(banger.ImageTagRequest{Name: "two", New: "image", Force: true})
	wantKind(t, err, banger.Conflict, `image "image" is used by vm web`)
	h.remove("web")
	if _, err := tag(banger.ImageTagRequest{Name: "two", New: "image", Force: true}); err != nil {
		t.Error(err)
	}
	h.must(h.client.ImageDelete(t.Context(), banger.NameRequest{Name: "two"}))
	h.clean()
}

// What is made for another machine is refused where it does not fit, and does
// not take the place of what fits.
func TestImagePlatform(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	reg := newRegistry(t, "one")
	ref := reg.host + "/some/thing:1"
	other := map[string]string{"x86_64": "linux/arm64", "aarch64": "linux/amd64"}[hostArch()]
	pull := func(r banger.ImagePullRequest) error {
		_, err := h.client.ImagePull(t.Context(), r, nil)
		return err
	}
	wantKind(t, pull(banger.ImagePullRequest{Ref: ref, Platform: other}), banger.Unsupported, "the image is made for", other)
	wantKind(t, pull(banger.ImagePullRequest{Ref: ref, Platform: "amd64"}), banger.Unsupported, `platform "amd64"`, "linux/amd64")
	wantKind(t, pull(banger.ImagePullRequest{Ref: "scratch", Platform: other}), banger.Unsupported, "cannot be made for")
	reg.arch = strings.TrimPrefix(other, "linux/")
	reg.serve("foreign")
	h.must(pull(banger.ImagePullRequest{Ref: ref, Name: "foreign", Platform: other}))
	h.must(pull(banger.ImagePullRequest{Ref: ref, Name: "foreign", Platform: other}))
	wantKind(t, pull(banger.ImagePullRequest{Ref: ref, Name: "foreign"}), banger.Exists)
	spec := testSpec("web")
	spec.Image = "foreign"
	_, err := h.client.VMCreate(t.Context(), banger.VMCreateRequest{Spec: spec}, nil)
	wantKind(t, err, banger.Unsupported, `image "foreign" is made for`)
	h.must(h.client.ImageDelete(t.Context(), banger.NameRequest{Name: "foreign"}))
	h.clean()
}

// Whoever pulls the same at the same time, under one name or several: a layer
// comes once, and all succeed.
func TestImagePullTwice(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	reg := newRegistry(t, "one")
	var all sync.WaitGroup
	for _, name := range []string{"a", "a", "b", "b", "c"} {
		all.Go(func() {
			im, err := h.client.ImagePull(t.Context(), banger.ImagePullRequest{Ref: reg.host + "/some/thing:1", Name: name}, nil)
			if err != nil || im.Name != name || len(im.Layers) != 1 {
				t.Errorf("%s: %+v, %v", name, im, err)
			}
		})
	}
	all.Wait()
	im, err := h.client.ImageShow(t.Context(), "a")
	h.must(err)
	reg.mu.Lock()
	defer reg.mu.Unlock()
	if n := reg.gets[im.Layers[0].Digest]; n != 1 {
		t.Errorf("the layer was loaded %d times", n)
	}
}

// A disk that fills up while an image is made, in whatever way, is told of and has
// its space back: what fits comes after it. First the images have no room, then
// the layers and what is spooled.
func TestImageDiskFull(t *testing.T) {
	for name, options := range map[string][]string{"images": {"size=4m", "size=64m"}, "cache": {"size=64m", "size=4m"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := smallHost(t, options...)
			reg := newRegistry(t, "small")
			large := make([]byte, 12<<20)
			_, _ = rand.NewChaCha8([32]byte{1}).Read(large)
			archive := func(data string) []byte { // of Docker, which has to be read here and there
				return dockerArchive(t, oneFileTar(t, data))
			}
			pull := func(more int) error {
				reg.more = more
				reg.serve("large")
				_, err := h.client.ImagePull(t.Context(), banger.ImagePullRequest{Ref: reg.host + "/some/thing:1", Name: "new"}, nil)
				return err
			}
			pipe := func(b []byte) error {
				_, err := h.importPipe(banger.ImageImportRequest{Name: "new"}, b)
				return err
			}
			build := func(data string) error {
				_, _, err := h.build(banger.ImageBuildRequest{Name: "new", Context: h.context(map[string]string{"a": data, "Dockerfile": "FROM scratch\nCOPY a /"})})
				return err
			}
			for what, do := range map[string]struct{ large, small func() error }{
				"pull":   {func() error { return pull(len(large)) }, func() error { return pull(0) }},
				"import": {func() error { return pipe(archive(string(large))) }, func() error { return pipe(archive("small")) }},
				"build":  {func() error { return build(string(large)) }, func() error { return build("small") }},
			} {
				err := do.large()
				wantKind(t, err, banger.Exhausted, "no space left")
				if banger.AsError(err).Hint == "" {
					t.Errorf("%s: no hint: %v", what, err)
				}
				for _, dir := range []string{h.layout.Images(), h.layout.Scratch(), h.layout.Blobs() + "/sha256"} {
					left, _ := filepath.Glob(h.seen(dir) + "/*")
					hidden, _ := filepath.Glob(h.seen(dir) + "/.*")
					if strings.HasSuffix(dir, "sha256") && name == "images" {
						left = nil // layers that are whole stay for the next try
					}
					if left = append(left, hidden...); len(left) > 0 {
						t.Errorf("%s left %v", what, left)
					}
				}
				if err := do.small(); err != nil {
					t.Errorf("%s of what fits: %v", what, err)
				}
				h.must(h.client.ImageDelete(t.Context(), banger.NameRequest{Name: "new"}))
				_, err = h.client.ImagePrune(t.Context(), banger.ImagePruneRequest{})
				h.must(err)
			}
		})
	}
}

// dockerArchive is what "docker save" writes of an image with one layer.
func dockerArchive(t *testing.T, layer []byte) []byte {
	t.Helper()
	arch := map[string]string{"x86_64": "amd64", "aarch64": "arm64"}[hostArch()]
	config := fmt.Sprintf(`{"os":"linux","architecture":%q,"config":{},"rootfs":{"type":"layers","diff_ids":["sha256:%x"]}}`, arch, sha256.Sum256(layer))
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range [][2]string{{"manifest.json", `[{"Config":"config.json","RepoTags":["x:1"],"Layers":["layer.tar"]}]`}, {"config.json", config}, {"layer.tar", string(layer)}} {
		if err := w.WriteHeader(&tar.Header{Name: f[0], Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(f[1]))}); err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write([]byte(f[1]))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
