package daemon

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"banger"
)

// A catalog's bundle is what banger image save writes, or a root file system;
// only the one whose digest the catalog has counts.
func TestImageBundles(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	catalog := func(sources string) {
		text := fmt.Sprintf(`{"version":1,"entries":[{"name":"thing","arch":["x86_64","aarch64"],"description":"d","sources":[%s]}]}`, sources)
		h.must(os.WriteFile(h.base+"/i.json", []byte(text), 0o600))
	}
	bundle := func(file string, sum []byte) string {
		return fmt.Sprintf(`{"bundle":{"url":%q,"sha256":"%x","arch":%q}}`, file, sum, hostArch())
	}
	put := func(file string, plain []byte) (source string) {
		b := gzipped(t, plain)
		h.must(os.WriteFile(filepath.Join(h.base, file), b, 0o600))
		sum := sha256.Sum256(b)
		return bundle(file, sum[:])
	}
	state := func(want string) {
		t.Helper()
		all, err := h.client.ImageCatalog(t.Context())
		h.must(err)
		for _, o := range all.Offers {
			if o.Name == "thing" && o.State != want {
				t.Errorf("it is %s, want %s", o.State, want)
			}
		}
	}
	h.config("[[image.catalog]]\nname = \"acme\"\nurl = %q\n", h.base+"/i.json")
	h.open()
	h.must(os.WriteFile(h.base+"/root.tar", oneFileTar(t, "one"), 0o600))
	_, err := h.client.ImageImport(t.Context(), banger.ImageImportRequest{Path: h.base + "/root.tar", Name: "one"}, nil)
	h.must(err)
	_, err = h.client.ImageSave(t.Context(), banger.ImageSaveRequest{Name: "one", Path: h.base + "/oci.tar"}, nil)
	h.must(err)
	saved, err := os.ReadFile(h.base + "/oci.tar")
	h.must(err)

	other := `{"bundle":{"url":"other","sha256":"` + fmt.Sprintf("%064d", 1) + `","arch":"s390x"}},`
	catalog(other + put("saved.tar.gz", saved))
	state("available")
	im, err := h.client.ImagePull(t.Context(), banger.ImagePullRequest{Ref: "thing"}, nil)
	if err != nil || im.Source != "pull:file://"+h.base+"/saved.tar.gz" || im.Catalog != "acme" || im.Digest == "" || len(im.Layers) != 1 {
		t.Fatalf("got %+v, %v", im, err)
	}
	state("pulled")
	again, err := h.client.ImagePull(t.Context(), banger.ImagePullRequest{Ref: "thing"}, nil)
	if err != nil || again.CreatedAt != im.CreatedAt {
		t.Errorf("again: %+v, %v", again, err)
	}

	catalog(put("root.tar.gz", oneFileTar(t, "two")))
	state("outdated")
	_, err = h.client.ImagePull(t.Context(), banger.ImagePullRequest{Ref: "thing"}, nil)
	wantKind(t, err, banger.Exists, "thing")
	im, err = h.client.ImagePull(t.Context(), banger.ImagePullRequest{Ref: "thing", Force: true}, nil)
	if err != nil || im.Digest != "" || im.Bundle == again.Bundle {
		t.Fatalf("got %+v, %v", im, err)
	}
	state("pulled")

	// What is wrong leaves the old one and nothing else; what is not there is passed over.
	for name, c := range map[string]struct {
		source string
		kind   banger.Kind
		word   string
	}{
		"another one":  {bundle("root.tar.gz", make([]byte, 32)), banger.Invalid, "is not the file that was asked for"},
		"no image":     {put("text.gz", []byte("text")), banger.Unsupported, "it is no tar"},
		"half of one":  {put("half.gz", oneFileTar(t, "three")[:700]), banger.Invalid, "cut short"},
		"a bomb":       {put("bomb.gz", append(oneFileTar(t, "four"), make([]byte, 200<<20)...)), banger.Invalid, "unpacks to more than it may"},
		"not there":    {bundle("none.tar", make([]byte, 32)), banger.NotFound, "there is no file"},
		"other arch":   {other[:len(other)-1], banger.Unsupported, "no source for " + hostArch()},
		"not a server": {`{"bundle":{"url":"https://127.0.0.1:1/x","sha256":"` + fmt.Sprintf("%064d", 1) + `","arch":"` + hostArch() + `"}}`, banger.Unavailable, "127.0.0.1:1"},
	} {
		catalog(c.source)
		_, err := h.client.ImagePull(t.Context(), banger.ImagePullRequest{Ref: "thing", Force: true}, nil)
		if !banger.IsKind(err, c.kind) {
			t.Errorf("%s: %v, want %s", name, err, c.kind)
			continue
		}
		wantKind(t, err, c.kind, c.word)
		if now, err := h.client.ImageShow(t.Context(), "thing"); err != nil || now.Bundle != im.Bundle {
			t.Errorf("%s: the old one is %+v, %v", name, now, err)
		}
	}
	if left, _ := filepath.Glob(h.layout.Images() + "/.tmp-*"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	h.nothingHalf("kernel")
	catalog(`{"bundle":{"url":"https://127.0.0.1:1/x","sha256":"` + fmt.Sprintf("%064d", 1) + `","arch":"` + hostArch() + `"}},{"scratch":true}`)
	if im, err = h.client.ImagePull(t.Context(), banger.ImagePullRequest{Ref: "thing", Force: true}, nil); err != nil || im.Source != "scratch" {
		t.Errorf("passed over: %+v, %v", im, err)
	}
}
