package daemon

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"banger"
	"banger/internal/dockerfile"
	"banger/internal/rootfs"
	"banger/internal/state"
)

// addTree adds an image with real files: as of lines, see putTree.
func (h *host) addTree(name string, lines ...string) { h.addTreeAs("", name, lines...) }

// addTreeAs is addTree with a kind of file system.
func (h *host) addTreeAs(fs, name string, lines ...string) {
	h.t.Helper()
	dir := filepath.Join(h.layout.Images(), name)
	h.must(os.MkdirAll(dir, 0o700))
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, line := range lines {
		f := append(strings.SplitN(line, " ", 2), "")
		hdr := &tar.Header{Name: f[0], Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(f[1]))}
		if target, ok := strings.CutPrefix(f[1], "-> "); ok {
			hdr.Typeflag, hdr.Linkname, hdr.Size = tar.TypeSymlink, target, 0
		}
		if strings.HasSuffix(f[0], "/") {
			hdr.Typeflag, hdr.Mode = tar.TypeDir, 0o755
		}
		h.must(w.WriteHeader(hdr))
		if hdr.Typeflag == tar.TypeReg {
			_, err := w.Write([]byte(f[1]))
			h.must(err)
		}
	}
	h.must(w.Close())
	_, err := rootfs.Build(h.t.Context(), filepath.Join(dir, state.RootfsFile), []rootfs.Layer{{Open: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(&b), nil
	}}}, rootfs.Options{FS: fs})
	h.must(err)
	h.must(state.WriteRecord(filepath.Join(dir, state.ManifestFile),
		banger.Image{Name: name, Arch: hostArch(), Source: "test", FS: fs, Config: banger.ImageConfig{Env: []string{"PATH=/bin"}}}))
}

// tree lists the files of an image as addTree takes them, with owner and mode.
func (h *host) tree(name string) (lines []string) {
	h.t.Helper()
	tree, err := openRootfs(filepath.Join(h.layout.Images(), name, state.RootfsFile))
	h.must(err)
	defer tree.close()
	top, err := tree.Lookup("")
	h.must(err)
	h.must(tree.Walk(h.t.Context(), top, func(name string, f *rootfs.TreeFile) error {
		line := fmt.Sprintf("%s %d:%d %o", f.Header.Name, f.Header.Uid, f.Header.Gid, f.Header.Mode)
		switch f.Header.Typeflag {
		case tar.TypeReg:
			var b strings.Builder
			if err := f.Copy(&b); err != nil {
				return err
			}
			line += " " + b.String()
		case tar.TypeSymlink, tar.TypeLink:
			line += " -> " + f.Header.Linkname
		}
		lines = append(lines, line)
		return nil
	}))
	return lines
}

// context makes a build context: NAME DATA.
func (h *host) context(files map[string]string) string {
	h.t.Helper()
	dir, err := os.MkdirTemp(h.base, "context-")
	h.must(err)
	for name, data := range files {
		path := filepath.Join(dir, name)
		h.must(os.MkdirAll(filepath.Dir(path), 0o755))
		if target, ok := strings.CutPrefix(data, "-> "); ok {
			h.must(os.Symlink(target, path))
			continue
		}
		h.must(os.WriteFile(path, []byte(data), 0o644))
	}
	return dir
}

// built is what a build said.
type built struct {
	mu    sync.Mutex
	lines []string
}

func (b *built) show(p banger.Progress) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p.Output || p.Notice {
		b.lines = append(b.lines, p.Step)
	}
}

func (b *built) text() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.lines, "\n")
}

func (h *host) build(r banger.ImageBuildRequest) (banger.Image, string, error) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 2*patience)
	defer cancel()
	var said built
	im, err := h.client.ImageBuild(ctx, r, said.show)
	return im, said.text(), err
}

func (h *host) mustBuild(r banger.ImageBuildRequest) (banger.Image, string) {
	h.t.Helper()
	im, said, err := h.build(r)
	h.must(err)
	return im, said
}

// packed is a tar.gz of lines as addTree takes them.
func packed(t *testing.T, names ...string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, n := range names {
		if err := w.WriteHeader(&tar.Header{Name: n, Typeflag: tar.TypeReg, Mode: 0o640, Size: 1, Uid: 3, Gid: 4}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// Files go where Docker puts them, without a machine, whatever file systems they
// come from and go to.
func TestBuildFiles(t *testing.T) {
	t.Parallel()
	for _, fs := range []string{"", rootfs.FSErofs} {
		t.Run("fs="+fs, func(t *testing.T) { testBuildFiles(t, fs) })
	}
}

func testBuildFiles(t *testing.T, fs string) {
	t.Parallel()
	h := newHost(t)
	h.addTreeAs(fs, "base", "usr/bin/", "bin -> usr/bin", "etc/passwd me:x:7:8::/:/bin/sh\n", "etc/group us:x:9:\n", "old/ ", "old/a 1")
	h.addTreeAs(fs, "other", "lib/x 1", "lib/y -> x", "lib/sub/z 2")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "fetched") }))
	defer server.Close()
	h.open()
	dir := h.context(map[string]string{
		"a": "A", "dir/b": "B", "dir/l": "-> b", "bin/tool": "T", "x.tgz": packed(t, "bin/from-tar", "../out"), ".dockerignore": "dir/hidden", "dir/hidden": "no",
		"Dockerfile": `FROM base AS first
COPY a /made/dir/
FROM base
WORKDIR /work
COPY a copied
COPY --chown=me:us --chmod=600 dir /into
COPY bin /bin
COPY --from=first /made/dir/a /bin/
COPY --from=other /lib/ lib
COPY <<one <<two /docs/
1
one
2
two
ADD x.tgz /
ADD ` + server.URL + `/path/name?x=y /got/
COPY a old/a
USER me
WORKDIR mine`,
	})
	im, said := h.mustBuild(banger.ImageBuildRequest{Name: "new", Context: dir, FS: fs})
	want := []string{
		"bin 0:0 777 -> usr/bin", "docs/ 0:0 755", "docs/one 0:0 644 1\n", "docs/two 0:0 644 2\n",
		"etc/ 0:0 755", "etc/group 0:0 644 us:x:9:\n", "etc/passwd 0:0 644 me:x:7:8::/:/bin/sh\n",
		"got/ 0:0 755", "got/name 0:0 600 fetched", "into/ 7:9 755", "into/b 7:9 600 B", "into/l 7:9 777 -> b",
		"old/ 0:0 755", "old/a 0:0 644 1", "out 3:4 640 x",
		"usr/ 0:0 755", "usr/bin/ 0:0 755", "usr/bin/a 0:0 644 A", "usr/bin/from-tar 3:4 640 x", "usr/bin/tool 0:0 644 T",
		"work/ 0:0 755", "work/copied 0:0 644 A", "work/lib/ 0:0 755", "work/lib/sub/ 0:0 755", "work/lib/sub/z 0:0 644 2",
		"work/lib/x 0:0 644 1", "work/lib/y 0:0 777 -> x", "work/mine/ 7:8 755", "work/old/ 0:0 755", "work/old/a 0:0 644 A",
	}
	if got := h.tree("new"); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if im.FS != fs || im.Config.User != "me" || im.Config.WorkingDir != "/work/mine" || im.Built == nil || im.Built.Base != "base" || len(im.Layers) == 0 {
		t.Errorf("%+v", im)
	}
	if !strings.Contains(said, "[stage-1 3/13] COPY a copied\n") {
		t.Errorf("it said %s", said)
	}
}

// A step is made again when what it hangs on has changed, or its layer is lost;
// else it comes from the cache, and the whole image is not made again.
func TestBuildCache(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	dir := h.context(map[string]string{"a": "A", "b": "B", "Dockerfile": "FROM scratch\nCOPY a /\nENV X=1\nCOPY b /\nCMD x"})
	r := banger.ImageBuildRequest{Name: "new", Context: dir}
	steps := func(want ...string) {
		t.Helper()
		_, said := h.mustBuild(r)
		for _, w := range want {
			if !strings.Contains("\n"+said+"\n", "\n"+w+"\n") {
				t.Errorf("it said\n%s\nwant %q in it", said, w)
			}
		}
	}
	steps("[2/5] COPY a /", "[4/5] COPY b /")
	first, err := h.client.ImageShow(t.Context(), "new")
	h.must(err)
	steps("new is up to date: nothing that goes into it has changed")
	h.must(os.WriteFile(filepath.Join(dir, "b"), []byte("C"), 0o644))
	steps("[2/5] CACHED COPY a /", "[4/5] COPY b /")
	again, err := h.client.ImageShow(t.Context(), "new")
	h.must(err)
	if again.Layers[0] != first.Layers[0] || again.Layers[1] == first.Layers[1] || again.Digest == first.Digest {
		t.Errorf("first %+v, then %+v", first.Layers, again.Layers)
	}
	r.NoCache = true
	steps("[2/5] COPY a /", "[4/5] COPY b /")
	r.NoCache = false
	h.must(os.Remove(filepath.Join(h.layout.Blobs(), "sha256", strings.TrimPrefix(first.Layers[0].Digest, "sha256:"))))
	h.must(os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\nCOPY a /\nENV X=1\nCOPY b /\nCMD y"), 0o644))
	steps("[2/5] COPY a /", "[4/5] COPY b /")
}

func TestBuildRefuses(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.addImage("foreign")
	h.must(state.WriteRecord(filepath.Join(h.layout.Images(), "foreign", state.ManifestFile), banger.Image{Name: "foreign", Arch: "s390x"}))
	h.open()
	dir := h.context(map[string]string{"a": "A", "out": "-> ../../../../etc/passwd", "Dockerfile": "FROM scratch\nCOPY a /"})
	for _, tt := range []struct {
		r    banger.ImageBuildRequest
		kind banger.Kind
		says string
	}{
		{banger.ImageBuildRequest{Name: "../x", Context: dir}, banger.Invalid, "name"},
		{banger.ImageBuildRequest{Name: "x", Context: "rel"}, banger.Invalid, "absolute"},
		{banger.ImageBuildRequest{Name: "x"}, banger.Invalid, "neither a Dockerfile nor"},
		{banger.ImageBuildRequest{Name: "x", Context: dir + "/none"}, banger.NotFound, "no folder"},
		{banger.ImageBuildRequest{Name: "x", Context: dir, File: dir + "/none"}, banger.NotFound, "no Dockerfile"},
		{banger.ImageBuildRequest{Name: "x", Context: dir, Kernel: "none"}, banger.NotFound, "banger kernel pull none"},
		{banger.ImageBuildRequest{Name: "x", Context: dir, Platform: "linux/s390x"}, banger.Unsupported, "s390x"},
		{banger.ImageBuildRequest{Name: "x", Context: dir, Text: "FROM scratch\nCOPY out /"}, banger.Invalid, "Dockerfile:2: source \"out\": \"out\" leads out"},
		{banger.ImageBuildRequest{Name: "x", Context: dir, Text: "FROM scratch\nCOPY none /"}, banger.NotFound, "Dockerfile:2: "},
		{banger.ImageBuildRequest{Name: "x", Text: "FROM scratch\nCOPY a /"}, banger.Invalid, "no build context"},
		{banger.ImageBuildRequest{Name: "x", Context: dir, Text: "FROM scratch\nCOPY a /x\nCOPY a /x/y"}, banger.Invalid, "Dockerfile:3: COPY a /x/y: \"a\": \"/x\" is no directory"},
		{banger.ImageBuildRequest{Name: "x", Context: dir, Text: "FROM scratch\nCOPY --chown=me a /"}, banger.Invalid, "not in the stage's /etc/passwd"},
		{banger.ImageBuildRequest{Name: "image", Context: dir}, banger.Exists, "no build made it"},
		{banger.ImageBuildRequest{Name: "x", Text: "FROM foreign"}, banger.Unsupported, `Dockerfile:1: image "foreign" is made for s390x`},
		{banger.ImageBuildRequest{Name: "x", FromImage: "image", Packages: []string{"-o"}}, banger.Invalid, "no name of a Debian package"},
	} {
		_, _, err := h.build(tt.r)
		wantKind(t, err, tt.kind, tt.says)
	}
	h.must(h.client.ImageDelete(t.Context(), banger.NameRequest{Name: "foreign"}))
	h.clean()
}

// A file that changes between its hash and its copy would put the wrong layer
// under a key.
func TestBuildChangingFile(t *testing.T) {
	t.Parallel()
	it := dockerfile.Item{Size: 3, Sum: "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"} // foo
	for text, ok := range map[string]bool{"foo": true, "foobar": true, "bar": false, "fo": false} {
		c := newChecked(strings.NewReader(text), it)
		if err := c.verify(); (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// The second of two builds of one name says that it waits, and then has nothing to do.
func TestBuildTwice(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	reached, goOn := make(chan bool, 2), make(chan bool)
	h.open(func(d *Daemon) {
		d.step = func(name string) {
			if name == "build: step made" {
				reached <- true
				<-goOn
			}
		}
	})
	r := banger.ImageBuildRequest{Name: "new", Context: h.context(map[string]string{"a": "A", "Dockerfile": "FROM scratch\nCOPY a /"})}
	var errs [2]error
	var said [2]built
	var both sync.WaitGroup
	both.Go(func() { _, errs[0] = h.client.ImageBuild(t.Context(), r, said[0].show) })
	<-reached
	waits := make(chan bool)
	both.Go(func() {
		_, errs[1] = h.client.ImageBuild(t.Context(), r, func(p banger.Progress) {
			said[1].show(p)
			if p.Notice {
				close(waits)
			}
		})
	})
	<-waits
	close(goOn)
	both.Wait()
	h.must(errors.Join(errs[:]...))
	if !strings.Contains(said[1].text(), "waiting for it") || !strings.Contains(said[1].text(), "up to date") {
		t.Errorf("the second one said %s", said[1].text())
	}
}

// A build that cannot run its steps says which, and leaves nothing but, if it is
// asked to, the machine.
func TestBuildFailingStep(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.addTree("image2", "bin/sh x")
	h.open()
	r := banger.ImageBuildRequest{Name: "new", Text: "FROM image2\n\nRUN true", Kernel: "kernel", Memory: 256 << 20, Disk: 1 << 30}
	_, said, err := h.build(r) // the guest of these tests has no banger-guest
	wantKind(t, err, banger.Invalid, "Dockerfile:3: RUN true: exit code 127")
	if !strings.Contains(said, "[2/2] RUN true") {
		t.Errorf("it said %s", said)
	}
	h.must(os.RemoveAll(filepath.Join(h.layout.Images(), "image2")))
	h.clean()

	h.addTree("image2", "bin/sh x")
	r.KeepOnError = true
	_, _, err = h.build(r)
	wantKind(t, err, banger.Invalid, "banger vm ssh build-")
	list, err := h.client.VMList(t.Context())
	h.must(err)
	if len(list) != 1 || list[0].State != banger.Running || list[0].Owner != nil {
		t.Fatalf("kept: %+v", list)
	}
	h.remove(list[0].ID)
	h.must(os.RemoveAll(filepath.Join(h.layout.Images(), "image2")))
	h.clean()
}

// Wherever a build is cut off, the next daemon leaves nothing of it.
func TestKillDuringBuild(t *testing.T) {
	for _, step := range []string{"build: step made", "build: vm added", "build: vm runs"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			if err := h.spawn(step); err != nil {
				t.Fatal(err)
			}
			h.addTree("image2", "bin/sh x")
			dir := h.context(map[string]string{"a": strings.Repeat("A", 100), "Dockerfile": "FROM image2\nCOPY a /\nRUN true"})
			if step != "build: step made" {
				h.must(os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM image2\nRUN true"), 0o644))
			}
			_, _, err := h.build(banger.ImageBuildRequest{Name: "new", Context: dir, Kernel: "kernel"})
			wantKind(t, err, banger.Unavailable)
			h.died()
			h.open()
			h.must(os.RemoveAll(filepath.Join(h.layout.Images(), "image2")))
			h.clean()
		})
	}
}

// What a machine of a build was booted from goes with it, and not before.
func TestTemporaryImage(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.addImage("build-123456")
	h.addImage("build-654321")
	for _, name := range []string{"build-123456", "build-654321"} {
		h.must(state.WriteRecord(filepath.Join(h.layout.Images(), name, state.ManifestFile), banger.Image{Name: name, Arch: hostArch(), Temporary: true}))
	}
	h.open()
	if h.d.images.Has("build-123456") {
		t.Error("what nobody uses outlives a start of the daemon")
	}
	h.close()
	h.addImage("build-654321")
	h.must(state.WriteRecord(filepath.Join(h.layout.Images(), "build-654321", state.ManifestFile),
		banger.Image{Name: "build-654321", Arch: hostArch()}))
	h.open()
	spec := testSpec("box")
	spec.Image = "build-654321"
	_, err := h.client.VMCreate(t.Context(), banger.VMCreateRequest{Spec: spec, NoStart: true}, nil)
	h.must(err)
	h.must(state.WriteRecord(filepath.Join(h.layout.Images(), "build-654321", state.ManifestFile),
		banger.Image{Name: "build-654321", Arch: hostArch(), Temporary: true}))
	h.close()
	h.open()
	if !h.d.images.Has("build-654321") {
		t.Error("the image of a VM is gone")
	}
	h.remove("box")
	h.clean()
}

// A caller that goes away ends its build.
func TestBuildCanceled(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	var leave context.CancelCauseFunc
	var at string
	h.open(func(d *Daemon) {
		d.step = func(name string) {
			if name == at {
				leave(errGone)
			}
		}
	})
	for _, at = range []string{"build: step made", "build: vm added", "build: vm runs"} {
		h.addTree("image2", "bin/sh x")
		dir := h.context(map[string]string{"a": at, "Dockerfile": "FROM image2\nCOPY a /\nRUN true"})
		var ctx context.Context
		ctx, leave = context.WithCancelCause(t.Context())
		_, err := h.d.imageBuild(ctx, banger.ImageBuildRequest{Name: "new", Context: dir, Kernel: "kernel"}, func(banger.Progress) {})
		leave(nil)
		if !errors.Is(err, errGone) {
			t.Errorf("%s: %v", at, err)
		}
		h.must(os.RemoveAll(filepath.Join(h.layout.Images(), "image2")))
		h.clean()
	}
}

// The output of a step is cut into lines without control bytes, however it comes.
func TestBuildOutput(t *testing.T) {
	t.Parallel()
	var got []string
	o := &buildOutput{say: func(line string) { got = append(got, line) }}
	s := o.stream()
	for _, part := range []string{"on", "e\r\ntwo\n  three\x1b[1m\n10%\r20%\r", "\nend", strings.Repeat("x", maxOutputLine+1)} {
		if _, err := s.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	s.end()
	want := []string{"one", "two", "  three[1m", "10%", "20%", "end" + strings.Repeat("x", maxOutputLine-3), "xxxx"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if tail := o.tail(); !strings.HasPrefix(tail, "one\n") {
		t.Errorf("tail %q", tail)
	}
}
