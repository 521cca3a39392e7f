package oci

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"banger"
	"banger/internal/fetch"
)

// connectTimeout bounds ping and login together, whatever the registry does
// with the two: go-containerregistry drains the ping's body without a limit.
const connectTimeout = 30 * time.Second

// client reads one repository.
type client struct {
	ref    reference
	named  reference // by the user; of a mirror not the same as ref
	guard  *fetch.Guard
	http   *http.Client
	cache  string // blob directory, may be empty
	flight *Flight
	retry  fetch.Retry
	meter  *meter
}

// connect finds out how the registry wants to be spoken to and logs in.
func connect(ctx context.Context, ref, named reference, o Options) (*client, error) {
	auth, err := authn.Resolve(ctx, authn.DefaultKeychain, ref.Context())
	if err != nil {
		return nil, loginError(ref, err)
	}
	g := newGuard(ref, o)
	c := &client{
		ref: ref, named: named, guard: g, cache: o.Cache, flight: o.Flight, retry: fetch.Retry{Pause: o.backoff},
		meter: &meter{step: "pull " + ref.short, report: o.Progress},
	}
	tctx, cancel := context.WithTimeoutCause(ctx, connectTimeout, fetch.ErrStalled)
	defer cancel()
	var rt http.RoundTripper
	err = c.retry.Do(tctx, func() (err error) {
		rt, err = transport.NewWithContext(tctx, ref.Context().Registry, auth,
			transport.NewUserAgent(g, "banger"), []string{ref.Scope(transport.PullScope)})
		return status(err, nil)
	})
	if err != nil {
		g.CloseIdleConnections()
		doing := "reach registry " + ref.registry()
		var answer *transport.Error
		if errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound {
			return nil, banger.Errorf(banger.Unavailable, "%s: it does not speak the registry protocol (%s)", doing, says(answer)).
				WithHint("check the registry's name")
		}
		return nil, c.explain(ctx, doing, err)
	}
	c.http = &http.Client{Transport: rt, CheckRedirect: g.CheckRedirect}
	return c, nil
}

// newGuard lets requests for the reference go where they may. A mirror was
// chosen by the user, whoever named what it mirrors.
func newGuard(ref reference, o Options) *fetch.Guard {
	host := ref.Context().RegistryStr()
	p := fetch.Policy{AllowPrivate: o.AllowPrivate}
	if ref.insecure {
		p.AllowHTTP, p.AnyCert = true, host
	}
	if ref.mirror {
		return fetch.NewGuard(host, p, o.Stall)
	}
	return fetch.NewGuard(cmp.Or(o.Origin, host), p, o.Stall)
}

func loginError(ref reference, err error) error {
	return banger.Errorf(banger.Invalid, "read the login for %s: %w", ref.registry(), err).
		WithHint("%s", loginPlaces)
}

// request asks for a manifest or a blob. The answer's status is 200, or 206 if
// the header asks for a range.
func (c *client) request(ctx context.Context, kind, id string, header http.Header) (*http.Response, error) {
	return c.requestBy(ctx, http.MethodGet, kind, id, header)
}

func (c *client) requestBy(ctx context.Context, method, kind, id string, header http.Header) (*http.Response, error) {
	repo := c.ref.Context()
	u := url.URL{Scheme: repo.Scheme(), Host: repo.RegistryStr(), Path: "/v2/" + repo.RepositoryStr() + "/" + kind + "/" + id}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header = header
	ok := []int{http.StatusOK}
	if header.Get("Range") != "" {
		ok = append(ok, http.StatusPartialContent)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if err := transport.CheckError(resp, ok...); err != nil {
		resp.Body.Close()
		return nil, status(err, resp.Header)
	}
	return resp, nil
}

// document reads a whole manifest or config of at most limit bytes and returns
// its media type and its digest.
func (c *client) document(ctx context.Context, kind, id string, accept []string, limit int64) (body []byte, mediaType, digest string, err error) {
	err = c.retry.Do(ctx, func() error {
		header := http.Header{}
		if len(accept) > 0 {
			header.Set("Accept", strings.Join(accept, ","))
		}
		resp, err := c.request(ctx, kind, id, header)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		mediaType, _, _ = strings.Cut(resp.Header.Get("Content-Type"), ";")
		var b bytes.Buffer
		if _, err := io.Copy(&b, io.LimitReader(resp.Body, limit+1)); err != nil {
			return err
		}
		if int64(b.Len()) > limit {
			return banger.Errorf(banger.Invalid, "longer than the %d bytes it may have", limit)
		}
		body = b.Bytes()
		return nil
	})
	if err != nil {
		return nil, "", "", err
	}
	sum := sha256.Sum256(body)
	return body, strings.TrimSpace(mediaType), "sha256:" + hex.EncodeToString(sum[:]), nil
}

// config reads the config blob.
func (c *client) config(ctx context.Context, d descriptor) ([]byte, error) {
	what := fmt.Sprintf("read config %s of %s", shortDigest(d.Digest), c.ref.full)
	body, _, digest, err := c.document(ctx, "blobs", d.Digest, nil, d.Size)
	if err == nil && (digest != d.Digest || int64(len(body)) != d.Size) {
		err = wrongBytes(c, int64(len(body)), digest, d.Size, d.Digest)
	}
	if err != nil {
		return nil, c.explain(ctx, what, err)
	}
	return body, nil
}

// who implements store.
func (c *client) who() string { return "the registry" }

// wrongBytes is the error for content that is not what its digest says.
func wrongBytes(from store, size int64, digest string, wantSize int64, want string) error {
	if size != wantSize {
		return banger.Errorf(banger.Invalid, "%s sent %d bytes instead of %d", from.who(), size, wantSize)
	}
	return banger.Errorf(banger.Invalid, "%s sent other bytes: their digest is %s, asked for was %s", from.who(), shortDigest(digest), shortDigest(want))
}
