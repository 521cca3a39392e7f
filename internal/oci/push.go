package oci

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	ggcr "github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"banger"
	"banger/internal/fetch"
)

// pushJobs is how many blobs are sent at the same time.
const pushJobs = 2

// uploadStall is how long a registry may take nothing of a blob. It is longer
// than that of a download: some write what they took before they take more.
const uploadStall = time.Minute

// Push puts the image into a registry under a tag and gives the reference in
// full. Blobs that the registry has are not sent again. The login is that of a
// pull; Registries, Stall and Progress of the options mean something. Errors are those of
// Resolve.
func (e *Export) Push(ctx context.Context, ref string, o Options) (full string, err error) {
	r, err := o.reference(ref)
	if err != nil {
		return "", err
	}
	if id := r.Identifier(); digestGrammar().MatchString(id) && id != e.Digest {
		return "", banger.Errorf(banger.Invalid, "push to %s: the digest of the image is %s", r.full, e.Digest).
			WithHint("push it to a tag: REPOSITORY:TAG")
	}
	auth, err := authn.Resolve(ctx, authn.DefaultKeychain, r.Context())
	if err != nil {
		return "", loginError(r, err)
	}
	m := &meter{step: "push " + r.short, report: o.Progress}
	for _, l := range e.files() {
		m.total += l.Size
	}
	g := newGuard(r, o)
	defer g.CloseIdleConnections()
	pctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	up := &upload{export: e, ctx: pctx, meter: m, stall: cmp.Or(o.Stall, uploadStall), giveUp: func() { cancel(fetch.ErrStalled) }}
	img, err := ggcr.CompressedToImage(up)
	if err == nil {
		err = remote.Write(r.Reference, img, remote.WithContext(pctx), remote.WithAuth(auth), remote.WithTransport(g),
			remote.WithUserAgent("banger"), remote.WithJobs(pushJobs))
	}
	if err != nil {
		if ctx.Err() == nil && errors.Is(context.Cause(pctx), fetch.ErrStalled) {
			err = banger.Errorf(banger.Unavailable, "the registry has taken nothing for %s", up.stall)
		}
		return "", (&client{ref: r, named: r, guard: g}).explain(ctx, "push "+r.full, err)
	}
	return r.full, nil
}

// upload is an Export as go-containerregistry wants an image.
type upload struct {
	export *Export
	ctx    context.Context
	meter  *meter
	stall  time.Duration
	giveUp func()
}

func (u *upload) RawConfigFile() ([]byte, error)      { return u.export.raw, nil }
func (u *upload) RawManifest() ([]byte, error)        { return u.export.manifest, nil }
func (u *upload) MediaType() (types.MediaType, error) { return u.export.manifestType(), nil }

func (u *upload) LayerByDigest(h v1.Hash) (ggcr.CompressedLayer, error) {
	for _, l := range u.export.layers {
		if l.Digest == h.String() {
			return uploadLayer{l, u}, nil
		}
	}
	return nil, fmt.Errorf("no layer %s", h)
}

type uploadLayer struct {
	layer exportLayer
	up    *upload
}

func (l uploadLayer) Digest() (v1.Hash, error)            { return v1.NewHash(l.layer.Digest) }
func (l uploadLayer) Size() (int64, error)                { return l.layer.Size, nil }
func (l uploadLayer) MediaType() (types.MediaType, error) { return l.layer.MediaType, nil }

// Compressed gives the blob, and ends the whole upload when nobody takes it.
func (l uploadLayer) Compressed() (io.ReadCloser, error) {
	return &uploadReader{r: l.layer.open(l.up.ctx), up: l.up, timer: time.AfterFunc(l.up.stall, l.up.giveUp)}, nil
}

type uploadReader struct {
	r     io.Reader
	up    *upload
	timer *time.Timer
}

func (u *uploadReader) Read(p []byte) (int, error) {
	n, err := u.r.Read(p)
	u.up.meter.add(int64(n))
	if err != nil {
		u.timer.Stop()
	} else {
		u.timer.Reset(u.up.stall)
	}
	return n, err
}

func (u *uploadReader) Close() error {
	u.timer.Stop()
	return nil
}
