package fetch

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"banger"
)

func TestStatuses(t *testing.T) {
	for _, c := range []struct {
		code  int
		kind  banger.Kind
		words string
		hint  string
		asked int
	}{
		{404, banger.NotFound, "does not have it (404 Not Found)", "URL", 1},
		{410, banger.NotFound, "410 Gone", "URL", 1},
		{401, banger.Unavailable, "401 Unauthorized", "login", 1},
		{403, banger.Unavailable, "403 Forbidden", "login", 1},
		{418, banger.Unavailable, "418 I'm a teapot", "", 1},
		{304, banger.Unavailable, "304 Not Modified", "", 1},
		{204, banger.Unavailable, "204 No Content", "", 1},
		{501, banger.Unavailable, "501 Not Implemented", "", 1},
		{408, banger.Unavailable, "408", "later", 3},
		{429, banger.Unavailable, "limits the rate", "later", 3},
		{500, banger.Unavailable, "500 Internal Server Error (tried 3 times)", "later", 3},
		{504, banger.Unavailable, "504 Gateway Timeout", "later", 3},
		{599, banger.Unavailable, "599", "later", 3},
	} {
		srv := serve(t, status(c.code))
		_, err := read(t, patientless(), srv.URL+"/a?token=secret", Options{})
		wantErr(t, err, c.kind, "get "+srv.URL+"/a?...: ", c.words)
		if hint := banger.AsError(err).Hint; !strings.Contains(hint, c.hint) || c.hint == "" && hint != "" {
			t.Errorf("%d: hint %q does not say %q", c.code, hint, c.hint)
		}
		if n := len(srv.requests()); n != c.asked {
			t.Errorf("%d: asked %d times, want %d", c.code, n, c.asked)
		}
	}
}

// TestAsSent serves what a client that is too helpful would unpack.
func TestAsSent(t *testing.T) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write(content(1000))
	_ = z.Close()
	srv := serve(t, file(b.Bytes(), "Content-Encoding", "gzip"))
	got, err := read(t, patientless(), srv.URL, Options{})
	if err != nil || !bytes.Equal(got, b.Bytes()) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	// The same for who uses the guard alone.
	g := NewGuard(srv.Listener.Addr().String(), Policy{}, 0)
	defer g.CloseIdleConnections()
	resp, err := (&http.Client{Transport: g}).Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(got, b.Bytes()) {
		t.Errorf("through the guard: %d bytes, %v", len(got), err)
	}
}

func TestGet(t *testing.T) {
	b := content(1000)
	srv := serve(t, cut(b, 600, "ETag", `"1"`), file(b, "ETag", `"1"`))
	c := patientless()
	got, etag, same, err := c.GetIfChanged(t.Context(), srv.URL, "", 1000)
	if err != nil || !bytes.Equal(got, b) || etag != `"1"` || same {
		t.Fatalf("%d bytes, %s, %v, %v", len(got), etag, same, err)
	}
	got, etag, same, err = c.GetIfChanged(t.Context(), srv.URL, etag, 1000)
	if err != nil || got != nil || etag != `"1"` || !same {
		t.Errorf("again: %d bytes, %s, %v, %v", len(got), etag, same, err)
	}
	got, etag, same, err = c.GetIfChanged(t.Context(), srv.URL, `"0"`, 1000)
	if err != nil || !bytes.Equal(got, b) || etag != `"1"` || same {
		t.Errorf("another version: %d bytes, %s, %v, %v", len(got), etag, same, err)
	}
	_, err = c.Get(t.Context(), srv.URL, 999)
	wantErr(t, err, banger.Invalid, "longer than the 999 bytes")
	if got, err := c.Get(t.Context(), srv.URL, 1000); err != nil || !bytes.Equal(got, b) {
		t.Errorf("whole: %d bytes, %v", len(got), err)
	}
	// A tag is for the beginning of a document, not for its rest.
	srv = serve(t, cut(b, 600, "ETag", `"1"`), file(b, "ETag", `"1"`))
	if got, _, _, err := c.GetIfChanged(t.Context(), srv.URL, `"0"`, 1000); err != nil || !bytes.Equal(got, b) {
		t.Errorf("resumed: %d bytes, %v", len(got), err)
	}
	if asks := srv.requests(); asks[0].Get("If-None-Match") != `"0"` || asks[1].Get("If-None-Match") != "" {
		t.Errorf("asked with %v", asks)
	}
	_, _, same, err = c.GetIfChanged(t.Context(), serve(t, status(304)).URL, "", 1000)
	wantErr(t, err, banger.Unavailable, "304")
	if same {
		t.Error("not modified since never")
	}
}

func TestURLs(t *testing.T) {
	for url, word := range map[string]string{
		"": "URL", "x": "URL", "https://": "URL", "https:///x": "URL", "https://a b/": "URL", "https://me:pw@%zz/": "URL",
		"file:///etc/passwd": `"file"`, "ftp://host/x": `"ftp"`, "http://\x00/": "URL", "HTTP//x": "URL",
	} {
		_, err := Client{}.Open(t.Context(), url, Options{})
		if word == `"file"` {
			word = "URL" // it has no host
		}
		wantErr(t, err, banger.Invalid, "get ", word)
		if strings.Contains(err.Error(), "pw") {
			t.Errorf("a password is in %q", err)
		}
	}
	_, err := Client{}.Open(t.Context(), "https://host/", Options{Origin: "nowhere"})
	wantErr(t, err, banger.Invalid, "URL")
	for url, want := range map[string]string{
		"https://host:1/a%20b":               "https://host:1/a%20b",
		"https://me:pw@host/a?signature=s#x": "https://host/a?...",
		"https://host/\u202egpj":             "https://host/%E2%80%AEgpj",
		"https://%1b/":                       "an unreadable URL",
		"https://user@host/?":                "https://host/?",
		"https://host/x#":                    "https://host/x",
	} {
		if got := Redacted(url); got != want {
			t.Errorf("Redacted(%q) = %q, want %q", url, got, want)
		}
	}
}

func TestUntrustedCertificate(t *testing.T) {
	w := newWorld(t)
	w.host("files.example.com:443", publicIP, file(nil))
	c := w.client(Policy{})
	c.hooks.roots = nil
	_, err := c.Open(t.Context(), "https://files.example.com/", Options{})
	wantErr(t, err, banger.Unavailable, "certificate")
	if hint := banger.AsError(err).Hint; !strings.Contains(hint, "update-ca-certificates") {
		t.Errorf("hint %q", hint)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for v, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, " 7 ": 7 * time.Second, "-7": 0, "soon": 0, "99999999999999": 0, "1.5": 0,
		"Fri, 02 Jan 2026 03:04:15 GMT": 10 * time.Second, "Fri, 02 Jan 2026 03:04:00 GMT": 0,
	} {
		err := &StatusError{Code: 503, Header: http.Header{"Retry-After": {v}}}
		if got := retryAfter(err, now); got != want {
			t.Errorf("%q is %s, want %s", v, got, want)
		}
	}
	if retryAfter(errors.New("x"), now) != 0 || retryAfter(&StatusError{Code: 503}, now) != 0 {
		t.Error("a pause that nobody asked for")
	}
}

func TestParseRange(t *testing.T) {
	for s, want := range map[string]byteRange{
		"bytes 0-0/1": {0, 0, 1}, "bytes 5-9/10": {5, 9, 10}, "bytes 5-9/*": {5, 9, -1}, "bytes */10": {-1, -1, 10},
	} {
		if got, ok := parseRange(s); !ok || got != want {
			t.Errorf("parseRange(%q) = %v, %v", s, got, ok)
		}
	}
	for _, s := range []string{"", "bytes", "bytes ", "5-9/10", "bytes=5-9/10", "bytes 5-9", "bytes 9-5/10", "bytes 5-10/10", "bytes 5/10", "bytes */*",
		"bytes -1-5/10", "bytes +1-5/10", "bytes 1-5/-10", "bytes 5-/10", "bytes -5/10", "bytes 5-9/10 ", "bytes 0-99999999999999999999/*", "lines 5-9/10"} {
		if got, ok := parseRange(s); ok {
			t.Errorf("parseRange(%q) = %v", s, got)
		}
	}
}

func TestVersion(t *testing.T) {
	const date, before, same = "Mon, 02 Jan 2006 15:04:05 GMT", "Mon, 02 Jan 2006 15:04:04 GMT", "Mon, 02 Jan 2006 15:04:05 GMT"
	of := func(etag, modified string) version {
		h := http.Header{"Date": {date}}
		h.Set("ETag", etag)
		h.Set("Last-Modified", modified)
		return versionOf(h)
	}
	for _, c := range []struct{ etag, modified, condition string }{
		{"", "", ""}, {`"1"`, before, `"1"`}, {`W/"1"`, before, ""}, {"", before, before},
		{"", same, ""}, // it may have changed twice within that second
		{"", "yesterday", ""},
	} {
		if got := of(c.etag, c.modified).condition(); got != c.condition {
			t.Errorf("condition of %+v is %q", c, got)
		}
	}
	for _, c := range []struct {
		a, b    version
		differs bool
	}{
		{of(`"1"`, before), of(`"1"`, same), false}, // the tag is the better word
		{of(`"1"`, before), of(`"2"`, before), true},
		{of(`W/"1"`, ""), of(`"1"`, ""), false},
		{of(`"1"`, ""), of("", before), false},
		{of("", before), of(`"1"`, same), true},
		{of("", ""), of("", ""), false},
	} {
		if c.a.differs(c.b) != c.differs || c.b.differs(c.a) != c.differs {
			t.Errorf("%+v and %+v: differ is not %v", c.a, c.b, c.differs)
		}
	}
}
