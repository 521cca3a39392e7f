package oci

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger"
)

// Mirrors are asked first, in their order; what they lack or cannot give the
// registry gives, and the image is called by its own name in any case.
func TestMirrors(t *testing.T) {
	f := newFixture(t)
	own := f.push("x", newImage(gzLayer("a", 1000)))
	mirror := newFixture(t)
	o := f.options()
	o.Registries = []Registry{{Host: strings.ToUpper(f.host), Mirrors: []string{"127.0.0.1:1/hub", mirror.host}}}
	var news []string
	o.Progress = func(p banger.Progress) {
		if p.Notice {
			news = append(news, p.Step)
		}
	}
	im, err := Resolve(t.Context(), f.ref("x"), o)
	if err != nil || im.Digest != own || len(news) != 2 || !strings.HasPrefix(news[0], "mirror 127.0.0.1:1: ") {
		t.Fatalf("%+v, %v, told %q", im, err, news)
	}
	other := mirror.push("x", newImage(gzLayer("b", 1000)))
	asked := f.count("/")
	im, err = Resolve(t.Context(), f.ref("x"), o)
	if err != nil || im.Digest != other || im.Ref != f.ref("x") || f.count("/") != asked {
		t.Fatalf("%+v, %v; the registry was asked %d times", im, err, f.count("/")-asked)
	}
	if _, err := readLayer(t.Context(), im.Layers[0]); err != nil || f.count("/") != asked {
		t.Errorf("its layer: %v", err)
	}
	if named, err := Named(t.Context(), f.ref("x"), o); err != nil || named != other {
		t.Errorf("named %s, %v", named, err)
	}
	// A catalog may name what a mirror of the user's has, wherever that is.
	o.Origin = "catalog.example"
	if im, err = Resolve(t.Context(), f.ref("x"), o); err != nil || im.Digest != other {
		t.Errorf("by a catalog: %v", err)
	}
	o.Origin = ""
	// What is wrong with the image of a mirror is not made good elsewhere.
	mirror.front = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/manifests/") {
			return false
		}
		_, _ = w.Write([]byte("{}"))
		return true
	}
	_, err = Resolve(t.Context(), f.ref("x"), o)
	wantErr(t, err, banger.Invalid)
	o.Registries[0].Mirrors = []string{"not a host"}
	_, err = Resolve(t.Context(), f.ref("x"), o)
	wantErr(t, err, banger.Invalid, "mirror of "+f.host)
}

// Certificates of nobody, and plain HTTP, are taken where that is configured,
// and nowhere else.
func TestInsecure(t *testing.T) {
	f := newFixture(t)
	f.push("x", newImage(gzLayer("a", 1000)))
	tls := httptest.NewUnstartedServer(f.srv.Config.Handler)
	tls.Config.ErrorLog = f.srv.Config.ErrorLog
	tls.StartTLS()
	t.Cleanup(tls.Close)
	host := strings.TrimPrefix(tls.URL, "https://")
	ref := host + "/team/app:x"
	_, err := Resolve(t.Context(), ref, f.options())
	wantErr(t, err, banger.Unavailable)
	e, err := packed(t, t.TempDir(), tarOf("a", 1000), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Push(t.Context(), ref+"2", Options{}); !banger.IsKind(err, banger.Unavailable) {
		t.Errorf("push: %v", err)
	}
	o := f.options()
	o.Registries = []Registry{{Host: "other.example", Insecure: true}, {Host: host, Insecure: true}}
	im, err := Resolve(t.Context(), ref, o)
	if err != nil || im.Ref != ref {
		t.Fatal(err)
	}
	if _, err := readLayer(t.Context(), im.Layers[0]); err != nil {
		t.Error(err)
	}
	if _, err := e.Push(t.Context(), ref+"2", o); err != nil {
		t.Errorf("push: %v", err)
	}
	for name, insecure := range map[string]bool{"other.example/a:1": true, "OTHER.example/a:1": true, "other.example:5000/a:1": false, "x.other.example/a:1": false} {
		r, err := o.reference(name)
		if err != nil || r.insecure != insecure || (r.Context().Scheme() == "http") != insecure {
			t.Errorf("%s: insecure %v, %s, %v", name, r.insecure, r.Context().Scheme(), err)
		}
	}
}

// Credentials come from a helper too, which is asked for this registry alone.
func TestCredentialHelper(t *testing.T) {
	f := newFixture(t)
	f.push("x", newImage(gzLayer("a", 1000)))
	f.front = func(w http.ResponseWriter, r *http.Request) bool {
		if user, pass, ok := r.BasicAuth(); ok && user == "me" && pass == "secret" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	_, err := Resolve(t.Context(), f.ref("x"), f.options())
	wantErr(t, err, banger.Unavailable, "wants a login")
	hint := banger.AsError(err).Hint
	for _, place := range []string{"podman login " + f.host, "~/.docker/config.json", "$REGISTRY_AUTH_FILE", "daemon's environment"} {
		if !strings.Contains(hint, place) {
			t.Errorf("the hint %q lacks %q", hint, place)
		}
	}
	bin := t.TempDir()
	asked := filepath.Join(bin, "asked")
	script := fmt.Sprintf("#!/bin/sh\ncat >> %s\necho '{\"ServerURL\":\"x\",\"Username\":\"me\",\"Secret\":\"secret\"}'\n", asked)
	if err := os.WriteFile(filepath.Join(bin, "docker-credential-test"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	cfg := fmt.Sprintf(`{"credHelpers":{%q:"test"}}`, f.host)
	if err := os.WriteFile(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"), []byte(cfg), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Resolve(t.Context(), f.ref("x"), f.options()); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(asked); err != nil || string(b) != f.host {
		t.Errorf("the helper was asked for %q, %v", b, err)
	}
	if err := os.Remove(asked); err != nil {
		t.Fatal(err)
	}
	other := newFixtureBeside(t)
	if _, err := Resolve(t.Context(), other+"/team/app:x", f.options()); err == nil {
		t.Error("there is nothing")
	}
	if _, err := os.ReadFile(asked); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the helper was asked for another registry")
	}
}

// newFixtureBeside is a registry that has nothing, and leaves the environment alone.
func newFixtureBeside(t *testing.T) string {
	t.Helper()
	return strings.TrimPrefix(newServer(t, http.NotFoundHandler()), "http://")
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"debian", "docker.io/library/debian:bookworm", "localhost:5000/a/b@sha256:" + strings.Repeat("0", 64), "[::1]:5000/a",
		"a/../b", "A/b", "http://x/y", "x@sha256:0", "x:", ":x", "x y", "x\x00y", "\xff", strings.Repeat("a/", 300)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		full, err := FullRef(s)
		name, nerr := DefaultName(s)
		if err != nil {
			if !banger.IsKind(err, banger.Invalid) || nerr == nil {
				t.Fatalf("%q: %v, named %q, %v", s, err, name, nerr)
			}
			return
		}
		// The full form means the same, and a name is one of a folder.
		if again, err := FullRef(full); err != nil || again != full {
			t.Fatalf("%q is %q, which is %q, %v", s, full, again, err)
		}
		if nerr == nil && (!objectName().MatchString(name) || strings.ContainsAny(name, "/\x00")) {
			t.Fatalf("%q would be named %q", s, name)
		}
		if strings.ContainsAny(full, " \t\r\n\x00\\\"") || strings.Contains(full, "..") && !strings.Contains(s, "..") {
			t.Fatalf("%q is %q", s, full)
		}
	})
}
