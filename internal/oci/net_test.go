package oci

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"banger"
	"banger/internal/fetch"
)

func TestStatuses(t *testing.T) {
	for name, c := range map[string]struct {
		path   string
		status int
		kind   banger.Kind
		words  []string
		hint   string
		asked  int
	}{
		"unknown":  {"/manifests/", 404, banger.NotFound, []string{"does not have it", "team/app:x"}, "tag", 1},
		"refused":  {"/manifests/", 403, banger.Unavailable, []string{"wants a login"}, "podman login", 1},
		"limited":  {"/manifests/", 429, banger.Unavailable, []string{"rate"}, "wait", 3},
		"broken":   {"/manifests/", 500, banger.Unavailable, []string{"500"}, "", 3},
		"no /v2/":  {"/v2/", 404, banger.Unavailable, []string{"reach registry 127.0.0.1", "registry protocol"}, "name", -1},
		"login":    {"/v2/", 401, banger.Unavailable, []string{"wants a login"}, "podman login", -1},
		"escapes":  {"/manifests/", 418, banger.Unavailable, []string{"[31mred"}, "", 1},
		"no blobs": {"/blobs/", 404, banger.NotFound, []string{"read config"}, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.push("x", newImage(gzLayer("a", 1000)))
			f.answer(c.path, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, `{"errors":[{"code":"X","message":"\u001b[31mred"}]}`)
			})
			_, err := Resolve(t.Context(), f.ref("x"), f.options())
			wantErr(t, err, c.kind, c.words...)
			if hint := banger.AsError(err).Hint; !strings.Contains(hint, c.hint) {
				t.Errorf("hint %q does not say %q", hint, c.hint)
			}
			if strings.ContainsRune(err.Error(), 0x1b) {
				t.Errorf("an escape sequence of the registry is in %q", err)
			}
			if n := f.count("/manifests/"); c.asked > 0 && n != c.asked {
				t.Errorf("asked %d times, want %d", n, c.asked)
			}
		})
	}
}

func TestUnreachable(t *testing.T) {
	newFixture(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	_, err = Resolve(t.Context(), l.Addr().String()+"/app", Options{})
	wantErr(t, err, banger.Unavailable, "reach registry "+l.Addr().String()+": ", "refused")
	if banger.AsError(err).Hint == "" {
		t.Error("no hint")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Resolve(ctx, l.Addr().String()+"/app", Options{})
	wantErr(t, err, banger.Canceled)
}

// A catalog of somebody else's does not get to send banger nearer than itself.
func TestOrigin(t *testing.T) {
	f := newFixture(t)
	f.push("x", newImage(gzLayer("a", 1000)))
	o := f.options()
	o.Origin = "127.0.0.1:1"
	if _, err := Resolve(t.Context(), f.ref("x"), o); err != nil {
		t.Error(err)
	}
	asked := f.count("/")
	for _, private := range []bool{false, true} {
		o.Origin, o.AllowPrivate = "catalog.example", private
		_, err := Resolve(t.Context(), f.ref("x"), o)
		wantErr(t, err, banger.Unavailable, "catalog.example sends to 127.0.0.1")
	}
	if f.count("/") != asked {
		t.Error("the registry was asked")
	}
}

func TestExplain(t *testing.T) {
	ref, err := parse("10.0.0.5:5000/app")
	if err != nil {
		t.Fatal(err)
	}
	c := &client{ref: ref}
	refused := &fetch.Refusal{Why: "plain HTTP"}
	dial := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	for _, e := range []struct {
		err  error
		want string
	}{
		{errors.Join(http.ErrSchemeMismatch, refused), "reach it: plain HTTP"},
		{errors.Join(dial, refused), "refused\nplain HTTP"},
		{&net.OpError{Op: "dial", Net: "tcp", Err: refused}, "reach it: plain HTTP"},
		{&url.Error{Op: "Get", URL: "https://cdn.example/?signature=secret", Err: io.ErrUnexpectedEOF}, "reach it: unexpected EOF"},
		{errors.Join(&tls.CertificateVerificationError{Err: errors.New("unknown authority")}, refused), "unknown authority"},
	} {
		got := c.explain(t.Context(), "reach it", e.err)
		if !banger.IsKind(got, banger.Unavailable) || !strings.HasSuffix(got.Error(), e.want) {
			t.Errorf("%v is explained as %q, want %q", e.err, got, e.want)
		}
	}
}

func TestRedirects(t *testing.T) {
	f := newFixture(t)
	im := newImage(gzLayer("a", 50_000))
	f.push("x", im)
	l := f.resolve("x", f.options()).Layers[0]
	to := func(u string) {
		f.answer(l.Digest, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, u, http.StatusTemporaryRedirect) })
	}
	to("http://169.254.169.254/latest/meta-data/")
	_, err := readLayer(t.Context(), l)
	wantErr(t, err, banger.Unavailable, "169.254.169.254")
	to("https://169.254.169.254/")
	_, err = readLayer(t.Context(), l)
	wantErr(t, err, banger.Unavailable, "nearer")
	to("http://192.0.2.1/x")
	_, err = readLayer(t.Context(), l)
	wantErr(t, err, banger.Unavailable, "plain HTTP")
	to("file:///etc/passwd")
	_, err = readLayer(t.Context(), l)
	wantErr(t, err, banger.Unavailable)

	// Another host of the same reach is fine, but gets no credentials.
	var got http.Header
	other := newFixture(t)
	other.front = func(w http.ResponseWriter, r *http.Request) bool {
		got = r.Header.Clone()
		_, _ = w.Write(im.layers[0].blob)
		return true
	}
	to(other.srv.URL + "/blob?signature=secret")
	if _, err := readLayer(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	if got == nil || got.Get("Authorization") != "" {
		t.Errorf("headers %v", got)
	}
	other.srv.Close()
	f.resolve("x", f.options())
	fresh := f.resolve("x", f.options()).Layers[0]
	_, err = readLayer(t.Context(), fresh)
	wantErr(t, err, banger.Unavailable)
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("a signed URL is in %q", err)
	}
}

func TestLogin(t *testing.T) {
	f := newFixture(t)
	im := newImage(gzLayer("a", 50_000))
	f.push("x", im)
	f.front = func(w http.ResponseWriter, r *http.Request) bool {
		if user, pass, ok := r.BasicAuth(); ok && user == "me" && pass == "pw" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	f.wantRefused("x", banger.Unavailable, "wants a login")
	dir := os.Getenv("DOCKER_CONFIG")
	cfg := fmt.Sprintf(`{"auths":{%q:{"auth":"bWU6cHc="}}}`, f.host)
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(cfg), 0o600); err != nil {
		t.Fatal(err)
	}
	l := f.resolve("x", f.options()).Layers[0]
	if _, err := readLayer(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	var leaked string
	other := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		leaked = r.Header.Get("Authorization")
		_, _ = w.Write(im.layers[0].blob)
	})
	srv := newServer(t, other)
	f.front = func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, srv, http.StatusTemporaryRedirect)
		return strings.Contains(r.URL.Path, l.Digest)
	}
	fresh := l
	c := *l.store.(*client)
	c.cache = ""
	fresh.store = &c
	if _, err := readLayer(t.Context(), fresh); err != nil || leaked != "" {
		t.Errorf("redirected: %v, credentials %q", err, leaked)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.wantRefused("x", banger.Invalid, "read the login")
}
