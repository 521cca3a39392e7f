package oci

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"banger"
)

// login gives banger a password, or a refresh token, for the registry.
func (f *fixture) login(fields string) {
	f.t.Helper()
	cfg := fmt.Sprintf(`{"auths":{%q:{%s}}}`, f.host, fields)
	if err := os.WriteFile(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"), []byte(cfg), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// thief is a server that the registry does not belong to. It keeps all that is
// said to it, and hands out a token to anybody.
type thief struct {
	url   string
	other func(w http.ResponseWriter, r *http.Request) // answers, if set

	mu    sync.Mutex
	heard []string
}

func newThief(t *testing.T) *thief {
	th := &thief{}
	th.url = newServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		th.mu.Lock()
		th.heard = append(th.heard, fmt.Sprint(r.Method, " ", r.URL, " ", r.Header, " ", r.PostForm))
		th.mu.Unlock()
		if th.other != nil {
			th.other(w, r)
			return
		}
		_, _ = w.Write([]byte(`{"token":"stolen"}`))
	}))
	return th
}

// wantNothing wants no secret to have come to the thief.
func (th *thief) wantNothing(t *testing.T, secrets ...string) {
	t.Helper()
	th.mu.Lock()
	defer th.mu.Unlock()
	for _, s := range secrets {
		if all := strings.Join(th.heard, "\n"); strings.Contains(all, s) {
			t.Errorf("it got %q: %s", s, all)
		}
	}
}

// basic is me:pw, as headers and files of logins have it.
const basic = "bWU6cHc="

// TestTokens asks for tokens where the registry says, and nowhere else
// (CVE-2020-15157). Format: distribution-spec, "token authentication".
func TestTokens(t *testing.T) {
	for name, c := range map[string]struct {
		login string // default: a password
		realm string // SELF is the registry
		token http.HandlerFunc
		kind  banger.Kind // empty: it works
		words []string
	}{
		"of the registry":   {realm: "SELF/token"},
		"a refresh token":   {realm: "SELF/token", login: `"identitytoken":"refresh"`},
		"link-local":        {realm: "http://169.254.169.254/token", kind: banger.Unavailable, words: []string{"169.254.169.254"}},
		"link-local, https": {realm: "https://169.254.169.254/token", kind: banger.Unavailable, words: []string{"169.254.169.254"}},
		"plain HTTP":        {realm: "http://192.0.2.1/token", kind: banger.Unavailable, words: []string{"plain HTTP to 192.0.2.1"}},
		"a file":            {realm: "file:///etc/passwd", kind: banger.Unavailable, words: []string{"scheme"}},
		"redirected to link-local": {realm: "SELF/token", kind: banger.Unavailable, words: []string{"169.254.169.254"},
			token: func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, "http://169.254.169.254/latest", http.StatusTemporaryRedirect)
			}},
		"refused": {realm: "SELF/token", kind: banger.Unavailable, words: []string{"wants a login"},
			token: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }},
		"no token": {realm: "SELF/token", kind: banger.Unavailable, words: []string{"token"},
			token: func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{}`)) }},
		"endless": {realm: "SELF/token", kind: banger.Unavailable,
			token: func(w http.ResponseWriter, r *http.Request) {
				for r.Context().Err() == nil {
					if _, err := w.Write([]byte(strings.Repeat(" ", 64<<10))); err != nil {
						return
					}
				}
			}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.push("x", newImage(gzLayer("a", 1000)))
			f.login(c.login)
			if c.login == "" {
				f.login(`"auth":"` + basic + `"`)
			}
			f.guarded(strings.Replace(c.realm, "SELF", f.srv.URL, 1), c.token)
			_, err := Resolve(t.Context(), f.ref("x"), f.options())
			if c.kind == "" && err != nil {
				t.Fatal(err)
			}
			if c.kind != "" {
				wantErr(t, err, c.kind, c.words...)
			}
		})
	}
}

// guarded makes the registry want a token that the realm gives to whoever logs
// in; token, which may be nil, answers in its place.
func (f *fixture) guarded(realm string, token http.HandlerFunc) {
	f.front = func(w http.ResponseWriter, r *http.Request) bool {
		switch user, pass, _ := r.BasicAuth(); {
		case r.URL.Path == "/token" && token != nil:
			token(w, r)
		case r.URL.Path == "/token" && (user == "me" && pass == "pw" || r.FormValue("refresh_token") == "refresh"):
			_, _ = w.Write([]byte(`{"token":"good","access_token":"good"}`))
		case r.Header.Get("Authorization") == "Bearer good":
			return false
		default:
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="x"`, realm))
			w.WriteHeader(http.StatusUnauthorized)
		}
		return true
	}
}

// A realm that redirects to somebody else gives nothing away, whatever the login is.
func TestTokenRedirected(t *testing.T) {
	for _, code := range []int{http.StatusFound, http.StatusTemporaryRedirect} {
		for kind, login := range map[string]string{"password": `"auth":"` + basic + `"`, "refresh token": `"identitytoken":"refresh"`} {
			t.Run(fmt.Sprint(kind, " ", code), func(t *testing.T) {
				f := newFixture(t)
				f.push("x", newImage(gzLayer("a", 1000)))
				f.login(login)
				th := newThief(t)
				f.guarded(f.srv.URL+"/token", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, th.url+"/token", code) })
				_, err := Resolve(t.Context(), f.ref("x"), f.options())
				wantErr(t, err, banger.Unavailable)
				th.wantNothing(t, basic, "refresh")
			})
		}
	}
}

// A server that a layer is redirected to asks for a login of its own, at the
// registry's place for tokens, at its own, or plainly: it gets neither.
func TestLayerRedirectedToLogin(t *testing.T) {
	for name, challenge := range map[string]string{
		"basic": `Basic realm="x"`, "its own realm": `Bearer realm="THIEF/token",service="x",scope="repository:team/app:pull"`,
		"the registry's realm": `Bearer realm="SELF/token",service="x"`,
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			im := newImage(gzLayer("a", 50_000))
			f.push("x", im)
			f.login(`"auth":"` + basic + `"`)
			th := newThief(t)
			challenge := strings.NewReplacer("THIEF", th.url, "SELF", f.srv.URL).Replace(challenge)
			th.other = func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/token" {
					_, _ = w.Write([]byte(`{"token":"stolen"}`))
					return
				}
				w.Header().Set("WWW-Authenticate", challenge)
				w.WriteHeader(http.StatusUnauthorized)
			}
			f.guarded(f.srv.URL+"/token", nil)
			l := f.resolve("x", f.options()).Layers[0]
			guard := f.front
			f.front = func(w http.ResponseWriter, r *http.Request) bool {
				if r.Header.Get("Authorization") == "Bearer good" && strings.Contains(r.URL.Path, l.Digest) {
					http.Redirect(w, r, th.url+"/blob", http.StatusTemporaryRedirect)
					return true
				}
				return guard(w, r)
			}
			_, err := readLayer(t.Context(), l)
			wantErr(t, err, banger.Unavailable)
			if len(th.heard) == 0 {
				t.Error("it was not asked")
			}
			th.wantNothing(t, basic, "good", "refresh")
		})
	}
}

// URLs of a layer's descriptor are not asked, whether the registry has it or not.
func TestForeignURLs(t *testing.T) {
	for _, gone := range []bool{false, true} {
		f := newFixture(t)
		im := newImage(gzLayer("a", 1000))
		th := newThief(t)
		th.other = func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(im.layers[0].blob) }
		im.manifest["layers"].([]map[string]any)[0]["urls"] = []string{th.url + "/layer"}
		f.push("x", im)
		l := f.resolve("x", f.options()).Layers[0]
		if gone {
			f.answer(l.Digest, http.NotFound)
		}
		if _, err := readLayer(t.Context(), l); gone {
			wantErr(t, err, banger.NotFound)
		} else if err != nil {
			t.Error(err)
		}
		if len(th.heard) > 0 {
			t.Errorf("it was asked: %s", th.heard)
		}
	}
}
