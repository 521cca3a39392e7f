package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"banger"
)

// download is the body of a blob. A connection that breaks or stalls in the
// middle is made anew and goes on at the same byte, at most tries times in all.
type download struct {
	ctx    context.Context
	client *client
	layer  *Layer
	off    int64
	try    int
	body   io.ReadCloser // nil between connections
}

// open makes a connection that goes on at d.off.
func (d *download) open() error {
	for {
		d.try++
		err := d.connect()
		if err == nil {
			return nil
		}
		if err := d.again(err); err != nil {
			return err
		}
	}
}

// again waits for the next try, or returns the error if there is none.
func (d *download) again(err error) error {
	if !transient(d.ctx, err) {
		return err
	}
	if d.try >= tries {
		return fmt.Errorf("%w (tried %d times, %d of %d bytes read)", err, d.try, d.off, d.layer.Size)
	}
	return d.client.pause(d.ctx, d.try)
}

func (d *download) connect() error {
	resp, err := d.client.request(d.ctx, "blobs", d.layer.Digest, nil, d.off)
	if err != nil {
		return err
	}
	if err := d.position(resp); err != nil {
		resp.Body.Close()
		return err
	}
	d.body = resp.Body
	return nil
}

// position checks the answer and brings its body to d.off.
func (d *download) position(resp *http.Response) error {
	if resp.StatusCode == http.StatusPartialContent {
		if got := resp.Header.Get("Content-Range"); !strings.HasPrefix(got, fmt.Sprintf("bytes %d-", d.off)) {
			return banger.Errorf(banger.Invalid, "the registry sent the range %q, asked for was byte %d", got, d.off)
		}
		return nil
	}
	if n := resp.ContentLength; n >= 0 && n != d.layer.Size {
		return wrongBytes(n, "", d.layer.Size, "")
	}
	_, err := io.CopyN(io.Discard, resp.Body, d.off) // a registry without ranges starts over
	return err
}

func (d *download) Read(p []byte) (int, error) {
	for {
		if d.body == nil {
			if err := d.open(); err != nil {
				return 0, err
			}
		}
		n, err := d.body.Read(p)
		d.off += int64(n)
		if err == nil {
			return n, nil
		}
		if errors.Is(err, io.EOF) && d.off >= d.layer.Size {
			return n, io.EOF
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		d.body.Close()
		d.body = nil
		if err := d.again(err); err != nil {
			return n, err
		}
		if n > 0 {
			return n, nil
		}
	}
}

func (d *download) Close() error {
	if d.body == nil {
		return nil
	}
	return d.body.Close()
}
