package oci

import (
	"context"
	"net/http"
	"strings"
)

// Named tells the digest that a reference names now, as Image.Named has it,
// with one request for its manifest and none for what that lists. A reference
// by digest needs no request at all. Errors are those of Resolve.
func Named(ctx context.Context, ref string, o Options) (string, error) {
	r, err := parse(ref)
	if err != nil {
		return "", err
	}
	if id := r.Identifier(); digestGrammar().MatchString(id) {
		return id, nil
	}
	return ask(ctx, ref, o, func(c *client) (string, error) {
		defer c.guard.CloseIdleConnections()
		return c.digestNow(ctx)
	})
}

func (c *client) digestNow(ctx context.Context) (digest string, err error) {
	header := http.Header{"Accept": {strings.Join(acceptManifests(), ",")}}
	err = c.retry.Do(ctx, func() error {
		resp, err := c.requestBy(ctx, http.MethodHead, "manifests", c.ref.Identifier(), header.Clone())
		if err != nil {
			return err
		}
		digest = resp.Header.Get("Docker-Content-Digest")
		return resp.Body.Close()
	})
	if err != nil {
		return "", c.explain(ctx, "read the manifest of "+c.ref.full, err)
	}
	if digestGrammar().MatchString(digest) {
		return digest, nil
	}
	// distribution-spec v1.1 asks for the header only where it is cheap to have.
	d, err := c.manifest(ctx, c.ref.Identifier(), -1)
	if err != nil {
		return "", err
	}
	return d.digest, nil
}
