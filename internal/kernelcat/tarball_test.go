package kernelcat

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"banger"
)

// host machine of the tests: kernels for it can be pulled.
func hostMachine(t testing.TB) elf.Machine {
	t.Helper()
	for m, arch := range machines {
		if arch == HostArch() {
			return m
		}
	}
	t.Fatalf("banger has no kernels for %s", HostArch())
	return 0
}

// goodBundle is an archive with a kernel and two modules, and the kernel.
func goodBundle(t testing.TB) (archive, kernel []byte) {
	t.Helper()
	random := make([]byte, 60_000) // else next to nothing is left when it is packed
	_, _ = rand.NewChaCha8([32]byte{}).Read(random)
	kernel = append(vmlinuxELF(hostMachine(t), true, 300_000), random...)
	return tarOf(t,
		entry{"metadata.json", 0, `{"name": "generic", "distro": "upstream", "kernel_version": "6.12.9", "args": ["quiet"]}`},
		entry{"config", 0, "CONFIG_VIRTIO_BLK=y\n"},
		entry{"vmlinux", 0, string(kernel)},
		entry{"modules/modules.dep", 0, ""},
		entry{"modules/modules.builtin", 0, "kernel/fs/ext4/ext4.ko\n"},
		entry{"modules/build", '2', "/usr/src/linux"},
	), kernel
}

func zstdOf(t testing.TB, b []byte, options ...zstd.EOption) []byte {
	t.Helper()
	z, err := zstd.NewWriter(nil, options...)
	if err != nil {
		t.Fatal(err)
	}
	return z.EncodeAll(b, nil)
}

func gzipOf(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, werr := z.Write(b)
	if err := z.Close(); err != nil || werr != nil {
		t.Fatal(err, werr)
	}
	return out.Bytes()
}

func sumOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// tempTarget is where a pull goes: the kernel's folder, and one for working files.
type tempTarget struct{ dir, tmp string }

func newTarget(t testing.TB) tempTarget {
	t.Helper()
	d := tempTarget{filepath.Join(t.TempDir(), "out"), t.TempDir()}
	if err := os.Mkdir(d.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d tempTarget) pull(ctx context.Context, s Source, w Want, o Options) (Entry, error) {
	w.Name = "k"
	o.TempDir = d.tmp
	return Pull(ctx, d.dir, w, []Source{s}, o)
}

// empty checks that a pull that failed has left nothing.
func (d tempTarget) empty(t *testing.T, name string) {
	t.Helper()
	for _, dir := range []string{d.dir, d.tmp} {
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%s: left in %s: %v, %v", name, filepath.Base(dir), left, err)
		}
	}
}

// serve is a server that has the one file at /b.tar.zst.
func serve(t *testing.T, body []byte) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/b.tar.zst" {
			http.NotFound(w, r)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
	}))
	t.Cleanup(srv.Close)
	return srv
}

func mustSource(t testing.TB, s string) Source {
	t.Helper()
	src, err := ParseSource(s)
	if err != nil {
		t.Fatal(err)
	}
	return src
}

func TestPullTarball(t *testing.T) {
	archive, kernel := goodBundle(t)
	for name, packed := range map[string][]byte{
		"tar": archive, "zstd": zstdOf(t, archive), "gzip": gzipOf(t, archive),
		"zstd in two frames": append(zstdOf(t, archive[:5000]), zstdOf(t, archive[5000:])...),
		"padded":             zstdOf(t, append(bytes.Clone(archive), make([]byte, 100_000)...)),
	} {
		srv := serve(t, packed)
		target := newTarget(t)
		var steps []string
		var last banger.Progress
		k, err := target.pull(t.Context(), mustSource(t, srv.URL+"/b.tar.zst#sha256="+sumOf(packed)), Want{}, Options{
			Progress: func(p banger.Progress) {
				if p.Total > 0 {
					last = p
				}
				steps = append(steps, p.Step)
			}})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		want := Entry{Name: "k", Distro: "upstream", KernelVersion: "6.12.9", Arch: HostArch(), SHA256: sumOf(kernel),
			Source: "pull:" + srv.URL + "/b.tar.zst", Digest: "sha256:" + sumOf(packed), Size: int64(len(kernel)) + 23}
		if k.Name != want.Name || k.Distro != want.Distro || k.KernelVersion != want.KernelVersion || k.Arch != want.Arch || k.SHA256 != want.SHA256 ||
			k.Source != want.Source || k.Digest != want.Digest || k.Size != want.Size || k.Features["ext4"] != "builtin" || strings.Join(k.Args, " ") != "quiet" {
			t.Errorf("%s:\n got %+v\nwant %+v", name, k, want)
		}
		if got := tree(t, target.dir); got != "modules/build modules/modules.builtin modules/modules.dep vmlinux" {
			t.Errorf("%s: files %s", name, got)
		}
		if b, err := os.ReadFile(filepath.Join(target.dir, "vmlinux")); err != nil || !bytes.Equal(b, kernel) {
			t.Errorf("%s: other bytes in vmlinux, %v", name, err)
		}
		if last.Done != int64(len(packed)) || last.Total != last.Done || steps[0] != "download b.tar.zst" {
			t.Errorf("%s: progress ends with %+v, began with %q", name, last, steps[0])
		}
	}
}

// What a file of this host holds is taken as if it came from a server.
func TestPullTarballFile(t *testing.T) {
	archive, kernel := goodBundle(t)
	packed := zstdOf(t, archive)
	file := filepath.Join(t.TempDir(), "generic 6.12.tar.zst")
	if err := os.WriteFile(file, packed, 0o600); err != nil {
		t.Fatal(err)
	}
	u := url.URL{Scheme: "file", Path: file, Fragment: "sha256=" + strings.ToUpper(sumOf(packed))}
	s := mustSource(t, u.String())
	k, err := newTarget(t).pull(t.Context(), s, Want{SHA256: sumOf(kernel)}, Options{})
	if err != nil || k.SHA256 != sumOf(kernel) {
		t.Errorf("got %+v, %v", k, err)
	}
	if s.DefaultName() != "generic-6.12" {
		t.Errorf("name %q", s.DefaultName())
	}
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := os.Mkdir(fifo, 0o755); err != nil {
		t.Fatal(err)
	}
	for path, kind := range map[string]banger.Kind{fifo: banger.Invalid, file + ".none": banger.NotFound, file + "/x": banger.Unavailable} {
		u.Path = path
		target := newTarget(t)
		if _, err := target.pull(t.Context(), mustSource(t, u.String()), Want{}, Options{}); !banger.IsKind(err, kind) {
			t.Errorf("%s: %v, want %s", path, err, kind)
		}
		target.empty(t, path)
	}
}

func TestParseTarball(t *testing.T) {
	sum := strings.Repeat("5a", 32)
	for in, name := range map[string]string{
		"https://example.org/k/generic-6.12.tar.zst#sha256=" + sum: "generic-6.12",
		"https://example.org/generic.tgz?sig=1#sha256=" + sum:      "generic",
		"https://example.org/#sha256=" + sum:                       "-",
		"file:///srv/x.tar#sha256=" + sum:                          "x",
	} {
		s, err := ParseSource(in)
		if err != nil || s.DefaultName() != strings.Trim(name, "-") {
			t.Errorf("%s: %v, %v", in, s, err)
		}
	}
	for in, hint := range map[string]string{
		"https://example.org/k.tar.zst":                          "https://example.org/k.tar.zst#sha256=HEX",
		"https://u:p@example.org/k.tar.zst":                      "https://example.org/k.tar.zst#sha256=HEX",
		"https://example.org/k.tar.zst#sha256=12":                "#sha256=HEX",
		"https://example.org/k.tar.zst#" + sum:                   "#sha256=HEX",
		"https:///k.tar.zst#sha256=" + sum:                       "https://HOST",
		"file://server/k.tar.zst#sha256=" + sum:                  "file:///PATH",
		"ftp://example.org/k.tar.zst#sha256=" + sum:              "https://HOST",
		"https://example.org/k.tar.zst\x1b#sha256=" + sum:        "",
		"https://example.org/%zz#sha256=" + sum:                  "",
		"https://user:pass word@example.org/k.tar#sha256=" + sum: "",
	} {
		_, err := ParseSource(in)
		if e := banger.AsError(err); err == nil || e.Kind != banger.Invalid || !strings.Contains(e.Hint, hint) || strings.Contains(e.Msg+e.Hint, "u:p@") {
			t.Errorf("%s: %v, hint %q", in, err, e.Hint)
		}
	}
}

func TestResolve(t *testing.T) {
	sum := strings.Repeat("5a", 32)
	catalog := func(ref, more string) *Catalog {
		c, err := ParseCatalog([]byte(`{"version": 1, "entries": [{"name": "k", "tarball_url": "` + ref + `", "tarball_sha256": "` + sum + `",
			"sources": [{"url": "deb://linux-image"}, {"url": "` + more + `", "sha256": "` + sum + `"}]}]}`))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for _, tt := range []struct{ base, ref, want string }{
		{"https://example.org/kernels/catalog.json", "x.tar.zst", "https://example.org/kernels/x.tar.zst"},
		{"https://example.org/kernels/catalog.json?token=1", "../x.tar.zst", "https://example.org/x.tar.zst"},
		{"https://example.org/kernels/catalog.json", "//files.example.org/x.tar.zst", "https://files.example.org/x.tar.zst"},
		{"https://example.org/catalog.json", "https://other.example/x.tar.zst", "https://other.example/x.tar.zst"},
		{"file:///srv/kernels/catalog.json", "dist/x.tar.zst", "file:///srv/kernels/dist/x.tar.zst"},
		{"file:///srv/kernels/catalog.json", "file:///x.tar.zst", "file:///x.tar.zst"},
		{"file:///srv/kernels/catalog.json", "https://example.org/x.tar.zst", "https://example.org/x.tar.zst"},
	} {
		base, err := url.Parse(tt.base)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []*Catalog{catalog(tt.ref, "oci://x"), catalog("https://example.org/first", tt.ref)} {
			if err := c.Resolve(base); err != nil {
				t.Errorf("%+v: %v", tt, err)
				continue
			}
			sources, err := c.Entries[0].PullSources()
			if err != nil || len(sources) != 3 {
				t.Fatalf("%+v: %v, %v", tt, sources, err)
			}
			got := sources[0].(tarballSource)
			if last, ok := sources[2].(tarballSource); ok {
				got = last
			}
			if got.URL != tt.want || got.From != tt.base || sources[1].String() != "deb://linux-image" {
				t.Errorf("%+v: got %+v", tt, sources)
			}
		}
	}
	base := &url.URL{Scheme: "https", Host: "example.org", Path: "/catalog.json"}
	for _, ref := range []string{"file:///etc/shadow", "FILE:///etc/shadow", "%zz", "https://[/x"} {
		if err := catalog(ref, "x").Resolve(base); !banger.IsKind(err, banger.Invalid) {
			t.Errorf("%s: %v", ref, err)
		}
		if err := catalog("x", ref).Resolve(base); !banger.IsKind(err, banger.Invalid) {
			t.Errorf("%s further: %v", ref, err)
		}
	}
	// The built-in catalog has no URL that anything could be relative to.
	if s, err := (CatEntry{Name: "k", TarballURL: "x.tar", TarballSHA256: sum}).PullSources(); !banger.IsKind(err, banger.Unsupported) {
		t.Errorf("relative to nothing: %v, %v", s, err)
	}
}
