package imagecat

import (
	"net/url"
	"strings"
	"testing"

	"banger"
)

var sum = strings.Repeat("0a", 32)

func bundleCatalog(t *testing.T, ref string) *Catalog {
	t.Helper()
	c, err := ParseCatalog([]byte(`{"version":1,"entries":[{"name":"a","arch":["x86_64","aarch64"],"description":"d","sources":[
		{"bundle":{"url":"` + ref + `","sha256":"` + sum + `","size_bytes":7,"arch":"x86_64"}},
		{"oci":"example.org/a@sha256:` + sum + `"}]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestBundleURLs(t *testing.T) {
	for _, tt := range []struct{ base, ref, want string }{
		{"https://example.org/images/catalog.json", "a.tar.zst", "https://example.org/images/a.tar.zst"},
		{"https://example.org/images/catalog.json", "https://cdn.example.org/a.tar.zst", "https://cdn.example.org/a.tar.zst"},
		{"file:///srv/catalog.json", "a.tar.zst", "file:///srv/a.tar.zst"},
		{"https://example.org/catalog.json", "file:///etc/shadow", ""},
		{"https://example.org/catalog.json", "ftp://example.org/a", ""},
	} {
		base, err := url.Parse(tt.base)
		if err != nil {
			t.Fatal(err)
		}
		c := bundleCatalog(t, tt.ref)
		err = c.Resolve(base)
		if tt.want == "" {
			if !banger.IsKind(err, banger.Invalid) {
				t.Errorf("%s: %v", tt.ref, err)
			}
			continue
		}
		p := c.Entries[0].Sources[0].Bundle.Pinned()
		if err != nil || p.URL != tt.want || p.From != tt.base || p.SHA256 != sum || p.Size != 7 || p.Max == 0 {
			t.Errorf("%s: %+v, %v", tt.ref, p, err)
		}
	}
}

func TestBundleOfOneArchitecture(t *testing.T) {
	e := bundleCatalog(t, "a.tar").Entries[0]
	for arch, want := range map[string]int{"x86_64": 2, "aarch64": 1} {
		if s, err := e.Known(arch); err != nil || len(s) != want {
			t.Errorf("%s: %v, %v", arch, s, err)
		}
	}
	for _, tt := range []struct {
		arch, digest string
		want         bool
	}{
		{"x86_64", "sha256:" + sum, false},
		{"x86_64", "sha256:" + strings.Repeat("0b", 32), true},
		{"x86_64", "", false},
		{"aarch64", "sha256:" + strings.Repeat("0b", 32), false},
	} {
		if got := e.Outdated(tt.arch, tt.digest); got != tt.want {
			t.Errorf("%+v: %v", tt, got)
		}
	}
}

func TestBundleRefused(t *testing.T) {
	const good = `{"url":"a.tar","sha256":"SUM","size_bytes":7,"arch":"x86_64"}`
	for name, bundle := range map[string]string{
		"no url":     strings.Replace(good, "a.tar", "", 1),
		"no text":    strings.Replace(good, "a.tar", `\u0007`, 1),
		"digest":     strings.Replace(good, "SUM", "SUM0", 1),
		"no digest":  strings.Replace(good, "SUM", "", 1),
		"size":       strings.Replace(good, "7", "-7", 1),
		"large":      strings.Replace(good, "7", "99999999999999", 1),
		"no arch":    strings.Replace(good, "x86_64", "", 1),
		"other kind": good + `,"oci":"x"`,
	} {
		doc := `{"version":1,"entries":[{"name":"a","arch":["x86_64"],"description":"d","sources":[{"bundle":` + strings.ReplaceAll(bundle, "SUM", sum) + `}]}]}`
		if c, err := ParseCatalog([]byte(doc)); !banger.IsKind(err, banger.Invalid) {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
}
