package kernelcat

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"banger"
	"banger/internal/fetch"
)

// hasty is a client whose second try comes at once.
var hasty = fetch.Client{Retry: fetch.Retry{Pause: time.Nanosecond}}

// tarball is the source of a bundle that is served, with the digest of want.
func tarball(srv *httptest.Server, want []byte) tarballSource {
	return tarballSource{fetch.Pinned{URL: srv.URL + "/b.tar.zst", SHA256: sumOf(want)}}
}

// wantFailed checks that a pull failed as it should and left nothing.
func wantFailed(t *testing.T, name string, target tempTarget, err error, kind banger.Kind, says string) {
	t.Helper()
	if !banger.IsKind(err, kind) || !strings.Contains(err.Error(), says) {
		t.Errorf("%s: got %v, want kind %q and %q", name, err, kind, says)
	}
	target.empty(t, name)
}

// What comes is not what it should be.
func TestTarballContent(t *testing.T) {
	archive, kernel := goodBundle(t)
	good := zstdOf(t, archive)
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 0x40
	other := elf.EM_AARCH64
	if hostMachine(t) == other {
		other = elf.EM_X86_64
	}
	packed := func(entries ...entry) []byte { return zstdOf(t, tarOf(t, entries...)) }
	vmlinux := entry{"vmlinux", 0, string(kernel)}
	for _, tt := range []struct {
		name  string
		body  []byte
		of    []byte // whose digest is asked for; nil: that of body
		kind  banger.Kind
		says  string
		want  Want
		bytes int64 // that the catalog says; 0: nothing
	}{
		{name: "another bundle", body: packed(vmlinux), of: good, kind: banger.Invalid, says: "its sha256 is " + sumOf(packed(vmlinux)) + ", not " + sumOf(good)},
		{name: "more behind the bundle", body: append(bytes.Clone(good), zstdOf(t, []byte("x"))...), of: good, kind: banger.Invalid, says: "its sha256 is"},
		{name: "a flipped bit", body: flipped, of: good, kind: banger.Invalid, says: "unpack"},
		{name: "half of it", body: good[:len(good)/2], of: good, kind: banger.Invalid, says: "unexpected EOF"},
		{name: "half, which the catalog names", body: good[:len(good)/2], kind: banger.Invalid, says: "unexpected EOF"},
		{name: "half an archive", body: zstdOf(t, archive[:len(archive)/2]), kind: banger.Invalid, says: "unexpected EOF"},
		{name: "half of a gzip", body: gzipOf(t, archive)[:5000], kind: banger.Invalid, says: "unexpected EOF"},
		{name: "half of a tar", body: archive[:5000], kind: banger.Invalid, says: "unexpected EOF"},
		{name: "too few bytes", body: good, bytes: int64(len(good)) + 1, kind: banger.Invalid, says: "instead of"},
		{name: "too many bytes", body: good, bytes: int64(len(good)) - 1, kind: banger.Invalid, says: "instead of"},
		{name: "garbage behind zstd", body: append(bytes.Clone(good), "garbage"...), kind: banger.Invalid, says: "unpack"},
		{name: "a login page", body: []byte("<!DOCTYPE html><title>Welcome</title>"), of: good, kind: banger.Invalid, says: `begins with "<!DOCTYPE html>`},
		{name: "nothing", body: []byte{}, kind: banger.Invalid, says: "no archive"},
		{name: "xz", body: []byte("\xfd7zXZ\x00" + strings.Repeat("x", 500)), kind: banger.Invalid, says: "neither tar nor packed with zstd or gzip"},
		{name: "no archive in zstd", body: zstdOf(t, bytes.Repeat([]byte("text"), 500)), kind: banger.Invalid, says: "invalid tar header"},
		{name: "nothing in zstd", body: zstdOf(t, nil), kind: banger.Invalid, says: "holds no kernel"},
		{name: "no vmlinux", body: packed(entry{"modules/a.ko", 0, "x"}, entry{"initrd.img", 0, "x"}), kind: banger.Invalid, says: "holds no kernel"},
		{name: "an empty vmlinux", body: packed(entry{"vmlinux", 0, ""}), kind: banger.Invalid, says: "holds no kernel"},
		{name: "text as vmlinux", body: packed(entry{"vmlinux", 0, "#!/bin/sh\n"}), kind: banger.Unsupported, says: "neither an x86 bzImage nor an ELF file"},
		{name: "half a vmlinux", body: packed(entry{"vmlinux", 0, string(kernel[:1000])}), kind: banger.Invalid, says: "corrupt ELF file"},
		{name: "a vmlinux for another machine", body: packed(entry{"vmlinux", 0, string(vmlinuxELF(other, true, 1000))}), kind: banger.Unsupported, says: "the kernel is for"},
		{name: "two kernels", body: packed(vmlinux, entry{"boot/vmlinuz-6.1", 0, "x"}), kind: banger.Invalid, says: "a kernel twice"},
		{name: "a vmlinux that the catalog does not mean", body: good, want: Want{SHA256: strings.Repeat("5a", 32)}, kind: banger.Invalid, says: "the catalog says 5a5a"},
		{name: "a version that the catalog does not mean", body: good, want: Want{KernelVersion: "6.12.10"}, kind: banger.Invalid, says: "kernel 6.12.9, not 6.12.10"},
		{name: "a vmlinux that the metadata do not mean", body: packed(entry{"metadata.json", 0, `{"vmlinux_sha256": "00"}`}, vmlinux), kind: banger.Invalid, says: "its metadata says"},
		{name: "metadata that are none", body: packed(vmlinux, entry{"metadata.json", 0, "[]"}), kind: banger.Invalid, says: "read metadata"},
		{name: "metadata without end", body: packed(vmlinux, entry{"metadata.json", 0, strings.Repeat(" ", maxMetadata+1)}), kind: banger.Invalid, says: "larger than"},
		{name: "a folder that is a file", body: packed(entry{"modules", 0, ""}, vmlinux, entry{"modules/a", 0, ""}, entry{"modules/a/b", 0, ""}), kind: banger.Invalid, says: "as a file and as a folder"},
	} {
		srv := serve(t, tt.body)
		if tt.of == nil {
			tt.of = tt.body
		}
		s := tarball(srv, tt.of)
		s.Size = tt.bytes
		target := newTarget(t)
		_, err := target.pull(t.Context(), s, tt.want, Options{client: hasty})
		wantFailed(t, tt.name, target, err, tt.kind, tt.says)
	}
}

// Every archive that TestHostileTar knows, in a bundle whose digest is right.
func TestTarballHostile(t *testing.T) {
	kernel := string(vmlinuxELF(hostMachine(t), true, 1000))
	for _, tt := range hostileTars() {
		outside := t.TempDir()
		target := newTarget(t)
		entries := append(tt.entries, entry{"metadata.json", 0, `{"kernel_version": "6.1"}`})
		if tt.kind == "" && !strings.Contains(tt.name, "kernel") { // else it would fail for want of a kernel
			entries = append(entries, entry{"vmlinux", 0, kernel})
		}
		body := zstdOf(t, tarOf(t, entries...))
		file := filepath.Join(outside, "b.tar.zst")
		if err := os.WriteFile(file, body, 0o600); err != nil {
			t.Fatal(err)
		}
		k, err := target.pull(t.Context(), tarballSource{fetch.Pinned{URL: "file://" + file, SHA256: sumOf(body)}}, Want{}, Options{})
		switch {
		case tt.kind != "":
			wantFailed(t, tt.name, target, err, tt.kind, "")
		case strings.Contains(tt.name, "kernel"):
			wantFailed(t, tt.name, target, err, banger.Invalid, "holds no kernel")
		case err != nil || k.KernelVersion != "6.1":
			t.Errorf("%s: %+v, %v", tt.name, k, err)
		}
		if got := tree(t, filepath.Dir(target.dir)) + tree(t, outside); strings.Contains(got, "evil") && !strings.HasPrefix(got, "out/modules/evil") {
			t.Errorf("%s: escaped: %s", tt.name, got)
		}
	}
}

// A small file that is large when it is unpacked.
func TestTarballBombs(t *testing.T) {
	header := func(name string, size int64) []byte {
		var b bytes.Buffer
		if err := tar.NewWriter(&b).WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Size: size}); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	// Frames of zstd can follow each other: packing one of many is enough.
	frames := func(first, more []byte, n int) []byte {
		return append(zstdOf(t, first), bytes.Repeat(zstdOf(t, more), n)...)
	}
	zeros := func(name string) []byte { return frames(header(name, 80<<20), make([]byte, 1<<20), 80) }
	// A file of one block that says that it has a TiB.
	holes := func(format string) []byte {
		dir := t.TempDir()
		f, err := os.Create(filepath.Join(dir, "vmlinux"))
		if err == nil {
			err = errors.Join(f.Truncate(1<<40), f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		archive, err := exec.Command("tar", "--sparse", "--format="+format, "-C", dir, "-c", "vmlinux").Output()
		if err != nil {
			t.Fatal(err)
		}
		return archive
	}
	var window bytes.Buffer
	z, err := zstd.NewWriter(&window, zstd.WithWindowSize(64<<20))
	if err == nil {
		_, err = z.Write(header("README", 0))
		err = errors.Join(err, z.Flush(), z.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, says string
		body       []byte
	}{
		{"a vmlinux of zeros", "unpacks to more than it may", zeros("vmlinux")},
		{"a file that is passed over", "unpacks to more than it may", zeros("README")},
		{"files without end", "more than 100000 files", frames(nil, bytes.Repeat(header("x", 0), 1000), maxEntries/1000+1)},
		{"holes as pax has them", "packed with holes", holes("pax")},
		{"holes as GNU tar has them", "packed with holes", holes("gnu")},
		{"a window for a large memory", "takes more than 32 MiB of memory", window.Bytes()},
	} {
		if len(tt.body) > 1<<20 {
			t.Fatalf("%s: %d bytes are no bomb", tt.name, len(tt.body))
		}
		target := newTarget(t)
		_, err := target.pull(t.Context(), tarball(serve(t, tt.body), tt.body), Want{}, Options{})
		wantFailed(t, tt.name, target, err, banger.Invalid, tt.says)
	}
}

// cutter is a server that ends the connection after so many bytes of each of
// its first answers.
type cutter struct {
	body   []byte
	cuts   []int
	ranges bool         // it can go on where it was cut
	asked  atomic.Value // the last Range
	n      atomic.Int32 // answers
}

func (c *cutter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i := int(c.n.Add(1)) - 1
	c.asked.Store(r.Header.Get("Range"))
	if !c.ranges {
		r.Header.Del("Range")
	}
	if i < len(c.cuts) {
		w = &cutWriter{w, c.cuts[i]}
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(c.body))
}

type cutWriter struct {
	http.ResponseWriter
	left int
}

func (c *cutWriter) Write(p []byte) (int, error) {
	if len(p) >= c.left {
		c.ResponseWriter.Write(p[:c.left])
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	c.left -= len(p)
	return c.ResponseWriter.Write(p)
}

// A download that is cut goes on at the same byte, and its digest is that of
// the whole; one that is cut too often is an error.
func TestTarballResumes(t *testing.T) {
	archive, kernel := goodBundle(t)
	packed := zstdOf(t, archive)
	cuts := []int{1, 100, 7000, 20_000}
	for _, ranges := range []bool{true, false} {
		c := &cutter{body: packed, cuts: cuts, ranges: ranges}
		srv := httptest.NewServer(c)
		defer srv.Close()
		k, err := newTarget(t).pull(t.Context(), tarball(srv, packed), Want{}, Options{client: hasty})
		if err != nil || k.SHA256 != sumOf(kernel) {
			t.Errorf("ranges %v: got %+v, %v", ranges, k, err)
		}
		if c.n.Load() != int32(len(cuts))+1 || c.asked.Load() == "" {
			t.Errorf("ranges %v: %d requests, the last for %q", ranges, c.n.Load(), c.asked.Load())
		}
	}
	c := &cutter{body: packed, cuts: []int{5000, 0, 0, 0, 0, 0}, ranges: true}
	srv := httptest.NewServer(c)
	defer srv.Close()
	target := newTarget(t)
	_, err := target.pull(t.Context(), tarball(srv, packed), Want{}, Options{client: hasty})
	wantFailed(t, "always cut", target, err, banger.Unavailable, "5000 of")
}

func TestTarballHTTPErrors(t *testing.T) {
	archive, _ := goodBundle(t)
	packed := zstdOf(t, archive)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var code int
		if _, err := fmt.Sscanf(r.URL.Path, "/%d", &code); err == nil {
			w.WriteHeader(code)
			return
		}
		switch to := r.URL.Query().Get("to"); {
		case r.URL.Path == "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case to == "":
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(packed))
		default:
			http.Redirect(w, r, to, http.StatusFound)
		}
	}))
	defer srv.Close()
	for _, tt := range []struct {
		path string
		from string
		kind banger.Kind // "": it works
		says string
	}{
		{path: "/404", kind: banger.NotFound, says: "404"},
		{path: "/410", kind: banger.NotFound, says: "410"},
		{path: "/403", kind: banger.Unavailable, says: "403"},
		{path: "/500", kind: banger.Unavailable, says: "500"},
		{path: "/503", kind: banger.Unavailable, says: "tried 3 times"},
		{path: "/204", kind: banger.Unavailable, says: "204"},
		{path: "/b?to=/c"},
		{path: "/b?to=/404", kind: banger.NotFound, says: "404"},
		{path: "/b?to=/b?to=/c"},
		{path: "/loop", kind: banger.Unavailable, says: "more than 5 redirects"},
		{path: "/b?to=http://example.org/b", kind: banger.Unavailable, says: "plain HTTP to example.org"},
		{path: "/b?to=http://10.0.0.1/b", kind: banger.Unavailable, says: "plain HTTP to 10.0.0.1"},
		{path: "/b?to=http://169.254.169.254/b", kind: banger.Unavailable, says: "169.254.169.254"},
		{path: "/b?to=https://169.254.169.254/b", kind: banger.Unavailable, says: "nearer to this machine"},
		{path: "/b?to=file:///etc/passwd", kind: banger.Unavailable, says: "a file URL"},
		// A catalog on the internet does not get to send banger to this machine.
		{path: "/b", from: "https://example.org/catalog.json", kind: banger.Unavailable, says: "nearer to this machine"},
		{path: "/b", from: "file:///srv/catalog.json"},
		{path: "/b", from: srv.URL + "/catalog.json"},
	} {
		s := tarballSource{fetch.Pinned{URL: srv.URL + tt.path, SHA256: sumOf(packed), From: tt.from}}
		target := newTarget(t)
		_, err := target.pull(t.Context(), s, Want{}, Options{client: hasty, AllowPrivate: true})
		if tt.kind == "" {
			if err != nil {
				t.Errorf("%s: %v", tt.path, err)
			}
			continue
		}
		wantFailed(t, tt.path, target, err, tt.kind, tt.says)
	}
	// Private addresses are for catalogs that the configuration trusts with them.
	s := tarballSource{fetch.Pinned{URL: "https://10.0.0.1/b", SHA256: sumOf(packed), From: "https://example.org/catalog.json"}}
	target := newTarget(t)
	_, err := target.pull(t.Context(), s, Want{}, Options{client: hasty})
	wantFailed(t, "private", target, err, banger.Unavailable, "nearer to this machine")
	srv.Close()
	target = newTarget(t)
	_, err = target.pull(t.Context(), s, Want{}, Options{client: hasty})
	wantFailed(t, "no server", target, err, banger.Unavailable, "")
}

// A pull that is given up in the middle of the body leaves nothing.
func TestTarballCancel(t *testing.T) {
	archive, _ := goodBundle(t)
	packed := zstdOf(t, archive)
	half := make(chan struct{}, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(packed)))
		w.Write(packed[:len(packed)/2])
		w.(http.Flusher).Flush()
		half <- struct{}{}
		<-r.Context().Done()
	}))
	defer srv.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		<-half
		cancel(errors.New("went away"))
	}()
	target := newTarget(t)
	_, err := target.pull(ctx, tarball(srv, packed), Want{}, Options{})
	wantFailed(t, "given up", target, err, banger.Canceled, "")
}

// The digest of one source says nothing about the next: what the first one
// left is gone when the second is asked.
func TestTarballThenAnother(t *testing.T) {
	archive, kernel := goodBundle(t)
	bad := zstdOf(t, append(tarOf(t, entry{"modules/left.ko", 0, "x"}, entry{"initrd.img", 0, "x"})[:2048], archive...))
	good := gzipOf(t, archive)
	e := CatEntry{Name: "k", TarballURL: serve(t, bad).URL + "/b.tar.zst", TarballSHA256: sumOf(good),
		Sources: []SourceRef{{URL: serve(t, good).URL + "/b.tar.zst", SHA256: sumOf(good), SizeBytes: int64(len(good))}}}
	sources, err := e.PullSources()
	if err != nil {
		t.Fatal(err)
	}
	target := newTarget(t)
	k, err := Pull(t.Context(), target.dir, e.Want(), sources, Options{TempDir: target.tmp, client: hasty})
	if err != nil || k.SHA256 != sumOf(kernel) || !strings.HasPrefix(k.Source, "pull:"+strings.TrimSuffix(e.Sources[0].URL, "/b.tar.zst")) {
		t.Errorf("got %+v, %v", k, err)
	}
	if got := tree(t, target.dir); strings.Contains(got, "left") || strings.Contains(got, "initrd") {
		t.Errorf("files %s", got)
	}
}
