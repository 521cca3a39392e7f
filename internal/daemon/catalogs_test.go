package daemon

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"banger"
	"banger/internal/kernelcat"
	"banger/internal/state"
)

// shelf is a server of catalogs on loopback.
type shelf struct {
	t    *testing.T
	url  string
	down func()
	mu   sync.Mutex
	text map[string]string
	gets int
}

func newShelf(t *testing.T) *shelf {
	s := &shelf{t: t, text: map[string]string{}}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.gets++
		if text, ok := s.text[r.URL.Path]; ok {
			_, _ = w.Write([]byte(text))
			return
		}
		http.NotFound(w, r)
	}))
	t.Cleanup(srv.Close)
	s.url, s.down = srv.URL, srv.Close
	return s
}

func (s *shelf) put(path, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text[path] = text
}

func (s *shelf) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gets
}

// sign signs what is at the path as docs/kernel-catalog.md has it, and gives
// the key's public half.
func (s *shelf) sign(path string) (key string) {
	s.t.Helper()
	dir := s.t.TempDir()
	file := filepath.Join(dir, "catalog.json")
	if err := os.WriteFile(file, []byte(s.text[path]), 0o600); err != nil {
		s.t.Fatal(err)
	}
	for _, args := range [][]string{{"-q", "-t", "ed25519", "-N", "", "-C", "", "-f", dir + "/key"}, {"-Y", "sign", "-q", "-n", "banger-catalog", "-f", dir + "/key", file}} {
		if out, err := exec.Command("ssh-keygen", args...).CombinedOutput(); err != nil {
			s.t.Fatalf("ssh-keygen: %v: %s; run: apt-get install -y --no-install-recommends openssh-client", err, out)
		}
	}
	sig, err := os.ReadFile(file + ".sig")
	if err != nil {
		s.t.Fatal(err)
	}
	s.put(path+".sig", string(sig))
	pub, err := os.ReadFile(dir + "/key.pub")
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.TrimSpace(string(pub))
}

// kernelsNamed is a catalog of kernels whose sources nobody knows: what a pull
// finds shows in its error.
func kernelsNamed(names ...string) string {
	var entries []string
	for _, n := range names {
		entries = append(entries, fmt.Sprintf(`{"name":%q,"arch":"x86_64","kernel_version":"6.1.0-1","description":"d","sources":[{"url":"later://%s"}]}`, n, n))
	}
	return `{"version":1,"entries":[` + strings.Join(entries, ",") + `]}`
}

func (h *host) config(format string, args ...any) {
	h.t.Helper()
	h.must(os.WriteFile(h.layout.Config, fmt.Appendf(nil, format, args...), 0o600))
}

// wantPull wants a pull to fail so.
func (h *host) wantPull(name string, kind banger.Kind, words ...string) {
	h.t.Helper()
	_, err := h.client.KernelPull(h.t.Context(), banger.KernelPullRequest{Name: name}, nil)
	wantKind(h.t, err, kind, words...)
}

// offers is what there is, as NAME@CATALOG=STATE; of the built-in catalog only
// the first, for it grows.
func (h *host) offers() (string, []banger.CatalogProblem) {
	h.t.Helper()
	all, err := h.client.KernelCatalog(h.t.Context())
	h.must(err)
	var list []string
	for i, o := range all.Offers {
		if i > 0 && o.Catalog == "builtin" {
			continue
		}
		list = append(list, o.Name+"@"+o.Catalog+"="+o.State)
	}
	return strings.Join(list, " "), all.Problems
}

func TestKernelCatalogs(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	s := newShelf(t)
	s.put("/k.json", kernelsNamed("debian-6.1", "acme-6.6", "twin"))
	key := s.sign("/k.json")
	file := h.base + "/local.json"
	h.must(os.WriteFile(file, []byte(kernelsNamed("twin", "mine")), 0o600))
	h.open()
	if got, problems := h.offers(); got != "debian-6.1@builtin=available" || len(problems) > 0 {
		t.Errorf("without configuration: %s, %v", got, problems)
	}
	h.wantPull("acme-6.6", banger.NotFound, `no kernel named "acme-6.6" in the catalog`)

	// The configuration counts from the next call on.
	h.config("[[kernel.catalog]]\nname = \"acme\"\nurl = %q\nkey = %q\n[[kernel.catalog]]\nurl = %q\n[[kernel.catalog]]\nname = \"down\"\nurl = \"https://example.org/k.json\"\n", s.url+"/k.json", key, file)
	got, problems := h.offers()
	if want := "debian-6.1@builtin=available acme/debian-6.1@acme=available acme-6.6@acme=available acme/twin@acme=available mine@" + file + "=available"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if len(problems) != 2 || problems[0].Catalog != "down" || !strings.Contains(problems[0].Hint, h.layout.Config+":7 write") ||
		problems[1].Catalog != file || !strings.Contains(problems[1].Message, `"twin" cannot be asked for`) {
		t.Errorf("got the problems %+v", problems)
	}
	for _, name := range []string{"acme-6.6", "acme/acme-6.6", "acme/debian-6.1", "acme/twin", "mine"} {
		h.wantPull(name, banger.Unsupported, "later://")
	}
	h.wantPull("twin", banger.Invalid, "several catalogs", "acme/twin")
	h.wantPull("acme/acme-6.7", banger.Unavailable, "did you mean acme/acme-6.6?", "catalog down could not be read")
	h.wantPull("../x", banger.Invalid)
	h.wantPull("a/b/c", banger.Invalid)

	// Another catalog's kernel of the same name is not the one that is offered.
	h.addKernel("acme-6.6")
	h.addKernel("debian-6.1")
	path := filepath.Join(h.layout.Kernels(), "acme-6.6", state.ManifestFile)
	k := banger.Kernel{Name: "acme-6.6", Arch: hostArch(), SHA256: strings.Repeat("5a", 32), KernelVersion: "6.1.0-1"}
	for catalog, want := range map[string]string{"": "available", "other": "available", "acme": "pulled"} {
		k.Catalog = catalog
		h.must(state.WriteRecord(path, k))
		if got, _ := h.offers(); !strings.Contains(got, "acme-6.6@acme="+want) || !strings.Contains(got, "debian-6.1@builtin=pulled") ||
			!strings.Contains(got, "acme/debian-6.1@acme=available") {
			t.Errorf("pulled from %q: %s", catalog, got)
		}
	}
	k.Catalog, k.KernelVersion = "acme", "6.1.0-0"
	h.must(state.WriteRecord(path, k))
	if got, _ := h.offers(); !strings.Contains(got, "acme-6.6@acme=outdated") {
		t.Errorf("outdated: %s", got)
	}
	// By its full name too it is used as it is here.
	spec := testSpec("web")
	spec.Kernel = "acme/acme-6.6"
	rec, err := h.client.VMCreate(t.Context(), banger.VMCreateRequest{Spec: spec, NoStart: true}, nil)
	if err != nil || rec.Spec.Kernel != "acme-6.6" {
		t.Errorf("got the kernel %q, %v", rec.Spec.Kernel, err)
	}
	h.remove("web")
	h.must(h.client.KernelDelete(t.Context(), banger.NameRequest{Name: "acme-6.6"}))
	h.must(h.client.KernelDelete(t.Context(), banger.NameRequest{Name: "debian-6.1"}))
}

// As large as catalogs may be, they come through.
func TestLargeCatalogs(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	var names []string
	for i := range 6000 {
		names = append(names, fmt.Sprint("k", i))
	}
	text := strings.ReplaceAll(kernelsNamed(names...), `"d"`, `"`+strings.Repeat("d", 500)+`"`)
	for _, c := range []string{"a", "b"} {
		h.must(os.WriteFile(h.base+"/"+c+".json", []byte(text), 0o600))
	}
	h.config("kernel.catalog = [{name = \"a\", url = %q}, {name = \"b\", url = %q}]\n", h.base+"/a.json", h.base+"/b.json")
	h.open()
	own, err := kernelcat.Builtin()
	h.must(err)
	all, err := h.client.KernelCatalog(t.Context())
	if err != nil || len(all.Offers) != len(own.Entries)+2*len(names) || len(all.Problems) > 0 {
		t.Errorf("got %d offers, %v, %v", len(all.Offers), all.Problems, err)
	}
}

// A name is looked for in copies first; what is not in them is asked for once.
func TestKernelCatalogCopies(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	s := newShelf(t)
	s.put("/k.json", kernelsNamed("one"))
	h.config("[[kernel.catalog]]\nname = \"acme\"\nurl = %q\nkey = %q\n", s.url+"/k.json", s.sign("/k.json"))
	h.open()
	asks := func(want int, f func()) {
		t.Helper()
		before := s.count()
		f()
		if n := s.count() - before; n != want {
			t.Errorf("the server was asked %d times, want %d", n, want)
		}
	}
	one := func() { t.Helper(); h.wantPull("one", banger.Unsupported, "later://one") }
	asks(2, one) // the catalog and its signature
	asks(0, one)
	asks(2, func() { h.offers() })
	asks(2, func() { h.wantPull("onee", banger.NotFound, "did you mean one?") })
	asks(0, func() {
		_, err := h.client.VMCreate(t.Context(), banger.VMCreateRequest{Spec: testSpec("web"), NoStart: true}, nil)
		h.must(err)
		h.remove("web")
	})
	copies, _ := filepath.Glob(h.layout.Catalogs() + "/kernel-*.json")
	if len(copies) != 1 {
		t.Fatalf("copies: %v", copies)
	}
	old := time.Now().Add(-2 * time.Hour)
	h.must(os.Chtimes(copies[0], old, old))
	asks(2, one)

	// Without the server the copy is used, with a word.
	s.down()
	h.must(os.Chtimes(copies[0], old, old))
	var said []string
	_, err := h.client.KernelPull(t.Context(), banger.KernelPullRequest{Name: "one"}, func(p banger.Progress) { said = append(said, p.Step) })
	wantKind(t, err, banger.Unsupported, "later://one")
	if words := strings.Join(said, "\n"); !strings.Contains(words, "using the copy that was kept of catalog acme: ") {
		t.Errorf("it says %q", words)
	}
	got, problems := h.offers()
	if got != "debian-6.1@builtin=available one@acme=available" || len(problems) != 1 || !problems[0].Cached {
		t.Errorf("offline: %s, %+v", got, problems)
	}
	// What a crash left half written goes with the next start; the copy stays.
	h.must(os.WriteFile(h.layout.Catalogs()+"/.tmp-1", []byte("half"), 0o600))
	h.close()
	h.open()
	if left, _ := os.ReadDir(h.layout.Catalogs()); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
	if got, _ := h.offers(); !strings.Contains(got, "one@acme") {
		t.Errorf("after a new start: %s", got)
	}
	// The copy of a catalog that the configuration has no more goes too.
	h.config("")
	if got, problems := h.offers(); got != "debian-6.1@builtin=available" || len(problems) > 0 {
		t.Errorf("without it: %s, %+v", got, problems)
	}
	if left, _ := os.ReadDir(h.layout.Catalogs()); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// What is wrong in the configuration is an error of the calls that need it,
// until it is right again; all else goes on.
func TestWrongConfiguration(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.config("[[kernel.catalog]]\nurl = \"/a\"\nkye = \"x\"\n")
	h.open()
	if !strings.Contains(h.log.String(), "config.toml:3") {
		t.Error("the log does not say it")
	}
	wrong := func(err error) {
		t.Helper()
		wantKind(t, err, banger.Invalid, h.layout.Config+`:3: unknown key "kye"`, "did you mean key?")
	}
	_, err := h.client.KernelCatalog(t.Context())
	wrong(err)
	_, err = h.client.ImageCatalog(t.Context())
	wrong(err)
	_, err = h.client.KernelPull(t.Context(), banger.KernelPullRequest{Name: "some"}, nil)
	wrong(err)
	_, err = h.client.ImagePull(t.Context(), banger.ImagePullRequest{Ref: "some"}, nil)
	wrong(err)
	_, err = h.client.ImagePull(t.Context(), banger.ImagePullRequest{Ref: "some/thing"}, nil)
	wrong(err)
	info, err := h.client.SystemInfo(t.Context())
	h.must(err)
	if info.Config != h.layout.Config || info.ConfigError == nil || info.ConfigError.Hint != "did you mean key?" {
		t.Errorf("got %+v", info)
	}
	h.mustCreate("web", false)
	h.becomes("web", banger.Running)
	h.addImage("debian-bookworm") // of the built-in catalog: nothing else is asked
	_, err = h.client.ImagePull(t.Context(), banger.ImagePullRequest{Ref: "debian-bookworm"}, nil)
	wantKind(t, err, banger.Exists)
	reg := newRegistry(t, "one")
	_, err = h.client.ImagePull(t.Context(), banger.ImagePullRequest{Ref: reg.host + "/some/thing:1"}, nil)
	wrong(err) // it may say how the registry is to be asked

	h.config("[[kernel.catalog]]\nurl = \"https://example.org/k.json\"\nkey = \"nonsense\"\n")
	if info, err = h.client.SystemInfo(t.Context()); err != nil || info.ConfigError == nil || !strings.Contains(info.ConfigError.Msg, h.layout.Config+":1: catalog example.org") {
		t.Errorf("got %+v, %v", info.ConfigError, err)
	}
	h.config("")
	if info, err = h.client.SystemInfo(t.Context()); err != nil || info.ConfigError != nil {
		t.Errorf("got %+v, %v", info.ConfigError, err)
	}
	if _, err := h.client.KernelCatalog(t.Context()); err != nil {
		t.Error(err)
	}
	// A mirror has it under another name, and is asked instead.
	h.config("[[registry]]\nhost = \"registry.invalid\"\nmirrors = [%q]\n", reg.host+"/some")
	im, err := h.client.ImagePull(t.Context(), banger.ImagePullRequest{Ref: "registry.invalid/thing:1"}, nil)
	if err != nil || im.Source != "oci:registry.invalid/thing:1" || im.Config.User != "one" {
		t.Errorf("by a mirror: %+v, %v", im, err)
	}
	h.remove("web")
}

func TestImageCatalogs(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	s, reg := newShelf(t), newRegistry(t, "one")
	entry := func(name string) string {
		return fmt.Sprintf(`{"name":%q,"arch":["x86_64","aarch64"],"description":"d","sources":[{"later":1},{"oci":%q}]}`, name, reg.host+"/some/thing:1")
	}
	s.put("/i.json", `{"version":1,"serial":4,"entries":[`+entry("thing")+","+entry("debian-bookworm")+`]}`)
	key := s.sign("/i.json")
	h.config("[[image.catalog]]\nname = \"acme\"\nurl = %q\nkey = %q\n", s.url+"/i.json", key)
	h.open()
	states := func() string {
		t.Helper()
		all, err := h.client.ImageCatalog(t.Context())
		h.must(err)
		var list []string
		for _, o := range all.Offers {
			if o.Catalog == "acme" || o.Name == "debian-bookworm" {
				list = append(list, o.Name+"@"+o.Catalog+"="+o.State+fmt.Sprint(len(o.Sources)))
			}
		}
		return strings.Join(append(list, fmt.Sprint(len(all.Problems))), " ")
	}
	if got, want := states(), "debian-bookworm@builtin=available2 thing@acme=available1 acme/debian-bookworm@acme=available1 0"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	im, err := h.client.ImagePull(t.Context(), banger.ImagePullRequest{Ref: "thing"}, nil)
	if err != nil || im.Name != "thing" || im.Catalog != "acme" || !strings.HasPrefix(im.Source, "oci:"+reg.host) {
		t.Errorf("got %+v, %v", im, err)
	}
	again, err := h.client.ImagePull(t.Context(), banger.ImagePullRequest{Ref: "acme/thing"}, nil)
	if err != nil || again.CreatedAt != im.CreatedAt {
		t.Errorf("again: %+v, %v", again, err)
	}
	if got := states(); !strings.Contains(got, "thing@acme=pulled1") || !strings.Contains(got, "debian-bookworm@builtin=available") {
		t.Errorf("got %s", got)
	}
	// A VM of it, by either name, needs nobody any more.
	s.down()
	for _, name := range []string{"thing", "acme/thing"} {
		spec := testSpec("web")
		spec.Image = name
		rec, err := h.client.VMCreate(t.Context(), banger.VMCreateRequest{Spec: spec, NoStart: true}, nil)
		if err != nil || rec.Spec.Image != "thing" {
			t.Errorf("%s: got %+v, %v", name, rec.Spec, err)
		}
		h.remove("web")
	}
	// A catalog that is named is asked, and no registry in its place.
	_, err = h.client.ImagePull(t.Context(), banger.ImagePullRequest{Ref: "acme/thinng"}, nil)
	wantKind(t, err, banger.NotFound, `no image named "acme/thinng" in the catalog`, "did you mean acme/thing?")
	_, err = h.client.ImagePull(t.Context(), banger.ImagePullRequest{Ref: "acme/zzzzzzzzzzzz"}, nil)
	wantKind(t, err, banger.NotFound, "banger image ls --available")
	_, err = h.client.VMCreate(t.Context(), banger.VMCreateRequest{Spec: banger.VMSpec{Image: "imagge"}}, nil)
	wantKind(t, err, banger.NotFound, `no image named "imagge" in the catalog`, "did you mean image?")
	_, err = h.client.VMCreate(t.Context(), banger.VMCreateRequest{Spec: banger.VMSpec{Image: "alpinelinux"}}, nil)
	wantKind(t, err, banger.NotFound, "banger image pull docker.io/library/alpinelinux")
	copies, _ := filepath.Glob(h.layout.Catalogs() + "/*")
	for _, c := range copies {
		h.must(os.Remove(c))
	}
	_, err = h.client.ImagePull(t.Context(), banger.ImagePullRequest{Ref: "alpinelinux"}, nil)
	wantKind(t, err, banger.Unavailable, "catalog acme could not be read")
}
