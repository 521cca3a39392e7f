package oci

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"banger"
)

const someDigest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestDefaultName(t *testing.T) {
	for ref, want := range map[string]string{
		"debian":                            "debian-latest",
		"debian:bookworm":                   "debian-bookworm",
		"docker.io/library/debian:bookworm": "debian-bookworm",
		"127.0.0.1:5000/team/app:1.2":       "app-1.2",
		"[::1]:5000/team/app:1.2":           "app-1.2",
		"localhost/app":                     "app-latest",
		"ghcr.io/a/b/c__d:V1_x":             "c__d-V1_x",
		"quay.io/a/app@" + someDigest:       "app-0123456789ab",
		"quay.io/a/app:1.2@" + someDigest:   "app-0123456789ab",
	} {
		if got, err := DefaultName(ref); got != want || err != nil {
			t.Errorf("DefaultName(%q) = %q, %v, want %q", ref, got, err, want)
		}
	}
	for _, ref := range []string{
		"", " ", ":", "@", "a:", "a@", "Debian", "a/../b", "a//b", "/a", "a/", "-a", "a:-t", "a:.t", "a b", "a\x00",
		"https://quay.io/a", "docker://debian", "oci:docker.io/library/debian:bookworm",
		"a@sha256:../../x", "a@sha256:", "a@sha256:" + strings.Repeat("g", 64), "a@md5:d41d8cd98f00b204e9800998ecf8427e",
		"a@sha512:" + strings.Repeat("0", 128), "a@" + strings.ToUpper(someDigest), "host:port/a", "user@host/a",
		strings.Repeat("a", 1000), "a:" + strings.Repeat("t", 129), "a:" + strings.Repeat("t", 127),
	} {
		got, err := DefaultName(ref)
		if !banger.IsKind(err, banger.Invalid) {
			t.Errorf("DefaultName(%q) = %q, %v", ref, got, err)
		}
	}
}

func TestParseFull(t *testing.T) {
	for ref, want := range map[string]string{
		"debian":                    "docker.io/library/debian:latest",
		"me/app:1":                  "docker.io/me/app:1",
		"index.docker.io/me/app:1":  "docker.io/me/app:1",
		"127.0.0.1:5000/a":          "127.0.0.1:5000/a:latest",
		"quay.io/a:1@" + someDigest: "quay.io/a@" + someDigest,
	} {
		if r, err := parse(ref); err != nil || r.full != want {
			t.Errorf("parse(%q) = %q, %v, want %q", ref, r.full, err, want)
		}
	}
}

func TestPlainHTTP(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "localhost:5000": true, "reg.localhost:5000": true, "127.0.0.1:5000": true, "127.1.2.3": true,
		"[::1]:5000": true, "docker.io": false, "10.0.0.1:5000": false, "192.168.1.1": false, "localhost.evil.org": false,
		"notlocalhost:5000": false, "127.0.0.1.evil.org": false, "169.254.169.254": false,
	} {
		if got := plainHTTP(host); got != want {
			t.Errorf("plainHTTP(%q) = %v", host, got)
		}
	}
}

func FuzzDefaultName(f *testing.F) {
	for _, s := range []string{"debian", "docker.io/library/debian:bookworm", "127.0.0.1:5000/team/app:1.2", "a@" + someDigest,
		"[::1]:5/a", "a/../b", "a@sha256:../../x", "localhost/a:b@" + someDigest, "a__b--c.d:_x"} {
		f.Add(s)
	}
	grammar := regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
	f.Fuzz(func(t *testing.T, ref string) {
		name, err := DefaultName(ref)
		if err != nil {
			if !banger.IsKind(err, banger.Invalid) {
				t.Fatalf("DefaultName(%q): error of another kind: %v", ref, err)
			}
			return
		}
		if !grammar.MatchString(name) || filepath.Base(name) != name {
			t.Fatalf("DefaultName(%q) = %q", ref, name)
		}
		r, err := parse(ref)
		if err != nil {
			t.Fatalf("parse(%q): %v", ref, err)
		}
		again, err := parse(r.full)
		if err != nil || again.full != r.full {
			t.Fatalf("%q is %q, which is %q, %v", ref, r.full, again.full, err)
		}
	})
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"config":{"digest":"` + someDigest + `","size":1},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"` + someDigest + `","size":1}]}`))
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"digest":"` + someDigest + `","size":1,"platform":{"os":"linux","architecture":"amd64"}}]}`))
	want, err := platformOf("x86_64")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := parseManifest(raw, "")
		if err != nil {
			return
		}
		if !m.index {
			for _, l := range append(m.Layers, m.Config) {
				if !digestGrammar().MatchString(l.Digest) || l.Size < 0 {
					t.Fatalf("took the descriptor %+v", l)
				}
			}
			return
		}
		if d, err := m.choose(want); err == nil && !digestGrammar().MatchString(d.Digest) {
			t.Fatalf("chose %+v", d)
		}
	})
}
