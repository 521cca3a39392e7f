package fetch

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"banger"
)

// TestRedirects starts at a server on the internet and goes where it sends to.
func TestRedirects(t *testing.T) {
	b := content(1000)
	for name, c := range map[string]struct {
		to     string
		policy Policy
		words  string // "": it succeeds
		dialed string // must not be
	}{
		"the same host":                  {to: "/ok"},
		"another host":                   {to: "https://cdn.example.com/ok"},
		"to http":                        {to: "http://plain.example.com/ok", words: "redirects to plain HTTP", dialed: "plain.example.com:80"},
		"to http, allowed":               {to: "http://plain.example.com/ok", policy: Policy{AllowHTTP: true}, words: "redirects to plain HTTP", dialed: "plain.example.com:80"},
		"to http on loopback":            {to: "http://127.0.0.1:1/", words: "redirects to plain HTTP", dialed: "127.0.0.1:1"},
		"private address":                {to: "https://10.0.0.1/", words: "nearer", dialed: "10.0.0.1:443"},
		"private, other form":            {to: "https://[::ffff:192.168.0.1]/", words: "nearer", dialed: "[::ffff:192.168.0.1]:443"},
		"private name":                   {to: "https://private.example.com/ok", words: "nearer"},
		"private name, allowed":          {to: "https://private.example.com/ok", policy: Policy{AllowPrivate: true}},
		"loopback address":               {to: "https://127.0.0.1:1/", words: "nearer", dialed: "127.0.0.1:1"},
		"localhost":                      {to: "https://localhost:1/", words: "nearer", dialed: "localhost:1"},
		"loopback name":                  {to: "https://local.example.com/ok", words: "nearer"},
		"loopback name, private allowed": {to: "https://local.example.com/ok", policy: Policy{AllowPrivate: true}, words: "nearer"},
		"metadata":                       {to: "https://169.254.169.254/latest", policy: Policy{AllowPrivate: true}, words: "nearer", dialed: "169.254.169.254:443"},
		"metadata name":                  {to: "https://meta.example.com/ok", policy: Policy{AllowPrivate: true}, words: "nearer"},
		"a file":                         {to: "file:///etc/passwd", words: "a file URL"},
		"in a circle":                    {to: "/start", words: "more than 5 redirects"},
		"five times":                     {to: "/hop5"},
		"six times":                      {to: "/hop6", words: "more than 5 redirects"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			serve := func(rw http.ResponseWriter, r *http.Request) {
				var n int
				switch _, err := fmt.Sscanf(r.URL.Path, "/hop%d", &n); {
				case r.URL.Path == "/start":
					rw.Header().Set("Location", c.to)
					rw.WriteHeader(http.StatusFound)
				case err == nil && n > 2:
					redirect(fmt.Sprintf("/hop%d", n-1))(rw, r)
				case err == nil:
					redirect("/ok")(rw, r)
				default:
					file(b)(rw, r)
				}
			}
			for host, ip := range map[string]string{"files": publicIP, "cdn": public2IP, "private": privateIP, "local": "127.0.0.1", "meta": metaIP} {
				w.host(host+".example.com:443", ip, serve)
			}
			w.host("plain.example.com:80", publicIP, serve)
			got, err := read(t, w.client(c.policy), "https://files.example.com/start", Options{})
			if c.words != "" {
				wantErr(t, err, banger.Unavailable, "get https://files.example.com/start: ", c.words)
			} else if err != nil || !bytes.Equal(got, b) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if c.dialed != "" && slices.Contains(w.dials, c.dialed) {
				t.Errorf("%s was dialled", c.dialed)
			}
		})
	}
}

// TestPlainHTTP asks for plain URLs.
func TestPlainHTTP(t *testing.T) {
	w := newWorld(t)
	w.host("files.example.com:80", publicIP, file(content(10)))
	_, err := w.client(Policy{}).Open(t.Context(), "http://files.example.com/x", Options{})
	wantErr(t, err, banger.Unavailable, "plain HTTP to files.example.com")
	if hint := banger.AsError(err).Hint; !strings.Contains(hint, "https") {
		t.Errorf("hint %q", hint)
	}
	if len(w.dials) > 0 {
		t.Errorf("dialled %v", w.dials)
	}
	if _, err := read(t, w.client(Policy{AllowHTTP: true}), "http://files.example.com/x", Options{}); err != nil {
		t.Error(err)
	}
	// On this machine nobody listens in, and a server there may send elsewhere on it.
	to := serve(t, file(content(10)))
	if _, err := read(t, patientless(), serve(t, redirect(to.URL)).URL, Options{}); err != nil {
		t.Error(err)
	}
	_, err = read(t, patientless(), serve(t, redirect("http://169.254.169.254/")).URL, Options{})
	wantErr(t, err, banger.Unavailable, "169.254.169.254")
	_, err = read(t, patientless(), serve(t, redirect("https://169.254.169.254/")).URL, Options{})
	wantErr(t, err, banger.Unavailable, "nearer")
}

// TestRebinding lets names change their address after a first request.
func TestRebinding(t *testing.T) {
	b := content(1000)
	for name, c := range map[string]struct{ at, then, words string }{
		"to loopback":  {publicIP, "127.0.0.1", "nearer"},
		"to private":   {publicIP, privateIP, "nearer"},
		"to metadata":  {privateIP, metaIP, "nearer"},
		"elsewhere":    {publicIP, public2IP, ""},
		"farther away": {privateIP, publicIP, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			reached := false
			w.host("files.example.com:443", c.then, func(rw http.ResponseWriter, r *http.Request) {
				reached = true
				file(b)(rw, r)
			})
			later := w.names["files.example.com:443"]
			w.host("files.example.com:443", c.at, cut(b, 500))
			w.after["files.example.com:443"] = []string{later}
			got, err := read(t, w.client(Policy{}), "https://files.example.com/x", Options{})
			if c.words == "" {
				if err != nil || !bytes.Equal(got, b) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
				return
			}
			wantErr(t, err, banger.Unavailable, c.words)
			if reached {
				t.Error("the nearer place was asked")
			}
		})
	}
}

// TestOrigin reads files that a document from somewhere else names.
func TestOrigin(t *testing.T) {
	w := newWorld(t)
	for host, ip := range map[string]string{"files": publicIP, "private": privateIP, "meta": metaIP} {
		w.host(host+".example.com:443", ip, file(content(10)))
	}
	local := serve(t, file(content(10)))
	for _, c := range []struct {
		url, origin string
		policy      Policy
		ok          bool
	}{
		{"https://private.example.com/", "", Policy{}, true}, // the user asked for it
		{"https://private.example.com/", "https://catalog.example.com/", Policy{}, false},
		{"https://private.example.com/", "https://catalog.example.com/", Policy{AllowPrivate: true}, true},
		{"https://private.example.com/", "https://private.example.com/index.json", Policy{}, true},
		{"https://private.example.com/", "https://10.1.2.3/", Policy{}, true},
		{"https://private.example.com/", local.URL, Policy{}, true},
		{"https://files.example.com/", "https://catalog.example.com/", Policy{}, true},
		{"https://meta.example.com/", "https://169.254.1.1/", Policy{AllowPrivate: true}, false}, // nobody sends there
		{local.URL, "https://catalog.example.com/", Policy{AllowPrivate: true}, false},
		{local.URL, "https://10.1.2.3/", Policy{}, false},
		{local.URL, "http://localhost:1/", Policy{}, true},
	} {
		_, err := read(t, w.client(c.policy), c.url, Options{Origin: c.origin})
		if c.ok != (err == nil) || !c.ok && !banger.IsKind(err, banger.Unavailable) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// TestCredentials follows them through redirects.
func TestCredentials(t *testing.T) {
	var seen http.Header
	other := serve(t, func(w http.ResponseWriter, r *http.Request) {
		seen = r.Header.Clone()
		file(nil)(w, r)
	})
	hops := http.NewServeMux()
	hops.HandleFunc("/direct", func(w http.ResponseWriter, r *http.Request) { seen = r.Header.Clone() })
	hops.Handle("/same", redirect("/direct"))
	hops.Handle("/other", redirect(other.URL+"/x"))
	srv := httptest.NewServer(hops)
	defer srv.Close()
	hops.Handle("/absolute", redirect(srv.URL+"/direct"))
	// One that sends back to where the login is for.
	away := httptest.NewServer(redirect(srv.URL + "/direct"))
	defer away.Close()
	hops.Handle("/back", redirect(away.URL))
	login := strings.Replace(srv.URL, "http://", "http://me:pw@", 1)
	for _, c := range []struct {
		path string
		kept bool
	}{{"/direct", true}, {"/same", true}, {"/absolute", true}, {"/other?signature=secret", false}, {"/back", false}} {
		seen = nil
		o := Options{Header: http.Header{"Private-Token": {"t"}, "Accept": {"application/json"}, "Cookie": {"a=b"}}}
		if _, err := read(t, patientless(), login+c.path, o); err != nil {
			t.Fatal(err)
		}
		user, pass, ok := (&http.Request{Header: seen}).BasicAuth()
		kept := ok && user == "me" && pass == "pw" && seen.Get("Private-Token") == "t" && seen.Get("Cookie") == "a=b"
		gone := seen.Get("Authorization") == "" && seen.Get("Private-Token") == "" && seen.Get("Cookie") == ""
		if c.kept && !kept || !c.kept && !gone {
			t.Errorf("%s: %v", c.path, seen)
		}
		if seen.Get("Accept") != "application/json" || seen.Get("User-Agent") != "banger" || seen.Get("Referer") != "" {
			t.Errorf("%s: %v", c.path, seen)
		}
	}
	o := Options{Header: http.Header{"Authorization": {"Bearer x"}}}
	if _, err := read(t, patientless(), login+"/direct", o); err != nil || seen.Get("Authorization") != "Bearer x" {
		t.Errorf("%v, %v", seen, err)
	}
	// An error shows neither a login nor where a redirect led to.
	hops.Handle("/broken", redirect("http://127.0.0.1:1/?signature=secret"))
	_, err := read(t, patientless(), login+"/broken", Options{})
	wantErr(t, err, banger.Unavailable, "get "+srv.URL+"/broken: ", "refused")
	if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "pw") {
		t.Errorf("a secret is in %q", err)
	}
}

// TestProxy goes through a proxy on this machine, which is where many are.
func TestProxy(t *testing.T) {
	b := content(1000)
	w := newWorld(t)
	w.host("files.example.com:443", publicIP, redirect("https://10.0.0.1/"))
	w.host("cdn.example.com:443", publicIP, file(b))
	var tunnels []string
	proxy := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		tunnels = append(tunnels, r.Method+" "+r.Host)
		to, err := net.Dial("tcp", w.names[r.Host])
		if err != nil {
			rw.WriteHeader(http.StatusBadGateway)
			return
		}
		defer to.Close()
		rw.WriteHeader(http.StatusOK)
		conn, _, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		go func() {
			_, _ = io.Copy(to, conn)
			to.Close()
		}()
		_, _ = io.Copy(conn, to)
	}))
	defer proxy.Close()
	at, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	c := w.client(Policy{})
	c.hooks.proxy = http.ProxyURL(at)
	got, err := read(t, c, "https://cdn.example.com/", Options{})
	if err != nil || !bytes.Equal(got, b) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	_, err = read(t, c, "https://files.example.com/", Options{})
	wantErr(t, err, banger.Unavailable, "nearer")
	if fmt.Sprint(tunnels) != "[CONNECT cdn.example.com:443 CONNECT files.example.com:443]" || len(w.dials) > 0 {
		t.Errorf("tunnels %v, dialled %v", tunnels, w.dials)
	}
	for in, want := range map[string]string{"http": "h:80", "https": "h:443", "socks5": "h:1080"} {
		if got := withPort("h", in); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}
