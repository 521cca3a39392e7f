package daemon

import (
	"context"
	"io"

	"banger"
	"banger/internal/fetch"
	"banger/internal/oci"
)

// takeBundle makes an image of a file on a server, whose digest shows only
// after its last byte whether any of it counts.
func (d *Daemon) takeBundle(ctx context.Context, stage string, im *banger.Image, of fetch.Pinned, o oci.Options) error {
	body, err := of.Open(ctx, fetch.Client{Policy: fetch.Policy{AllowPrivate: o.AllowPrivate}})
	if err != nil {
		return fetch.Explain(ctx, "get "+fetch.Redacted(of.URL), err)
	}
	defer body.Close()
	src := &importSource{bound: body.Bound}
	defer src.close()
	told := &downloading{body: body, step: "download " + of.Name(), tell: o.Progress}
	err = d.openStream(ctx, src, told, nil, banger.ImageImportRequest{Platform: o.Arch}, quiet)
	if err == nil {
		err = src.fill(ctx, stage, im, quiet)
	}
	if err != nil {
		return fetch.Explain(ctx, "unpack "+fetch.Redacted(of.URL), err)
	}
	im.Bundle = "sha256:" + of.SHA256
	if err := body.Verify(); err != nil {
		return fetch.Explain(ctx, "get "+fetch.Redacted(of.URL), err)
	}
	return nil
}

// quiet is the progress of what is done while something slower is told of.
func quiet(banger.Progress) {}

// downloading tells how far a download is.
type downloading struct {
	body *fetch.PinnedBody
	step string
	tell progress
	told int64
}

func (t *downloading) Read(p []byte) (int, error) {
	const tellEvery = 1 << 20
	n, err := t.body.Read(p)
	if done := t.body.Offset(); done-t.told >= tellEvery || err == io.EOF {
		t.told = done
		t.tell(banger.Progress{Step: t.step, Done: done, Total: max(done, t.body.Size())})
	}
	return n, err
}
