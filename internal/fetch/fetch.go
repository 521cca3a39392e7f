// Package fetch is the one way banger gets a file over HTTP: only from where it may, resumed after a cut, and never a mix of two versions.
package fetch

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"

	"banger"
)

// userAgent is how banger names itself to servers.
const userAgent = "banger"

// Client gets files by their URLs. The zero value is ready for the internet. It
// holds no connections: each file has its own.
type Client struct {
	Policy Policy
	Retry  Retry
	// Stall is how long a server may send nothing in the middle of an answer,
	// default 30 s.
	Stall time.Duration

	hooks hooks
}

// Options says what is known of one file, and how to ask for it. The zero
// value knows nothing.
type Options struct {
	// Size is the length of the file in bytes where it is known beforehand;
	// another one is an error. 0: unknown.
	Size int64
	// Max is how many bytes the file may have. 0: any number.
	Max int64
	// Header is sent with each request. Nothing of it but what describes the
	// request follows a redirect to another host.
	Header http.Header
	// Origin is the URL of the document that names this file, where that is
	// not the user or the configuration: the host of that document may then
	// not send banger nearer than itself. Empty: the file's own URL.
	Origin string
	// Immutable is set where a digest settles what the bytes are. Answers with
	// other entity tags or dates are then taken too: mirrors behind one name
	// rarely agree on them.
	Immutable bool
}

// Open asks for the file at an http or https URL and streams it. A login in the
// URL (https://USER:PASSWORD@HOST/) is sent to that host alone. The body is
// bound to ctx. Wherever an error shows the URL, it is Redacted.
//
// Errors, of Open and of reading: Invalid for a malformed URL, a file of
// another length and wrong ranges; NotFound for the statuses 404 and 410;
// Unavailable for other statuses, for where banger does not go (see Policy), for
// a server that cannot be reached, breaks off or stalls too often, and for a
// file that changes while it is read; Canceled if ctx ended.
func (c Client) Open(ctx context.Context, rawURL string, o Options) (*Body, error) {
	b, doing, err := c.open(ctx, rawURL, o)
	if err != nil {
		return nil, Explain(ctx, doing, err)
	}
	return b, nil
}

// open is Open with bare errors, and what it was doing.
func (c Client) open(ctx context.Context, rawURL string, o Options) (b *Body, doing string, err error) {
	doing = "get " + Redacted(rawURL)
	u, err := parse(rawURL)
	if err != nil {
		return nil, doing, err
	}
	origin := u
	if o.Origin != "" {
		if origin, err = parse(o.Origin); err != nil {
			return nil, doing, err
		}
	}
	g := newGuard(origin.Host, c.Policy, c.Stall, c.hooks)
	b, err = Resume(ctx, requester(g, u), o, c.Retry)
	if err != nil {
		g.CloseIdleConnections()
		return nil, doing, err
	}
	b.explain = func(err error) error { return Explain(ctx, doing, err) }
	b.release = g.CloseIdleConnections
	return b, doing, nil
}

// requester makes requests for one URL.
func requester(g *Guard, u *url.URL) Request {
	client := &http.Client{Transport: g, CheckRedirect: g.CheckRedirect}
	login := u.User
	plain := *u
	plain.User = nil
	return func(ctx context.Context, h http.Header) (*http.Response, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, plain.String(), nil)
		if err != nil {
			return nil, err
		}
		req.Header = h
		h.Set("User-Agent", userAgent)
		h.Set("Accept-Encoding", "identity")
		if login != nil && h.Get("Authorization") == "" {
			password, _ := login.Password()
			req.SetBasicAuth(login.Username(), password)
		}
		resp, err := client.Do(req)
		if err != nil {
			return nil, bare(err)
		}
		if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent {
			resp.Body.Close() // its text is the server's, for nobody to act on
			return nil, &StatusError{Code: resp.StatusCode, Header: resp.Header}
		}
		return resp, nil
	}
}

// Get reads a whole document of at most limit bytes. Errors are those of Open.
func (c Client) Get(ctx context.Context, rawURL string, limit int64) ([]byte, error) {
	body, _, _, err := c.GetIfChanged(ctx, rawURL, "", limit)
	return body, err
}

// GetIfChanged reads a whole document of at most limit bytes, unless it still
// is the version of the entity tag etag, which an earlier call returned: then
// notModified is true and there is no body. The returned tag is "" where the
// server gives none. Errors are those of Open.
func (c Client) GetIfChanged(ctx context.Context, rawURL, etag string, limit int64) (body []byte, newETag string, notModified bool, err error) {
	o := Options{Max: limit}
	if etag != "" {
		o.Header = http.Header{"If-None-Match": {etag}}
	}
	b, doing, err := c.open(ctx, rawURL, o)
	if s := statusOf(err); s != nil && s.Code == http.StatusNotModified && etag != "" {
		return nil, etag, true, nil
	}
	if err != nil {
		return nil, "", false, Explain(ctx, doing, err)
	}
	body, err = io.ReadAll(b)
	if err := errors.Join(err, b.Close()); err != nil {
		return nil, "", false, err
	}
	return body, b.ETag(), false, nil
}

// Redacted is a URL without what may be secret in it: the login and the query,
// which may hold a signature. It is what a record or an error may show.
func Redacted(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil {
		return "an unreadable URL"
	}
	u.User, u.Fragment, u.RawFragment = nil, "", ""
	if u.RawQuery != "" {
		u.RawQuery = "..."
	}
	return u.String()
}

func parse(rawURL string) (*url.URL, error) {
	u, err := url.Parse(rawURL)
	switch {
	case err != nil, u.Hostname() == "":
		return nil, banger.Errorf(banger.Invalid, "it is not a URL of the form https://HOST/PATH")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, banger.Errorf(banger.Invalid, "a URL of the scheme %q, not https", u.Scheme)
	}
	u.Fragment, u.RawFragment = "", ""
	return u, nil
}
