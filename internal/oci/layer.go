package oci

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"os"

	"github.com/klauspost/compress/zstd"

	"banger"
	"banger/internal/fetch"
)

// blob reads a layer as transferred. io.EOF means that size and digest were
// right and the blob is in the cache.
type blob struct {
	ctx     context.Context
	layer   *Layer
	src     io.ReadCloser
	tee     *cacheFile // nil if src is the cache, or there is none
	sum     hash.Hash
	read    int64
	stopped bool
	err     error
}

func (l *Layer) openBlob(ctx context.Context) (*blob, error) {
	src, tee, err := l.store.open(ctx, l)
	if err != nil {
		return nil, err
	}
	return &blob{ctx: ctx, layer: l, src: src, tee: tee, sum: sha256.New()}, nil
}

// open implements store: the blob comes from the cache, or is asked for and
// then cached. A blob that another pull of this process is getting is waited for.
func (c *client) open(ctx context.Context, l *Layer) (src io.ReadCloser, tee *cacheFile, err error) {
	land, err := c.flight.take(ctx, l.Digest)
	if err != nil {
		return nil, nil, c.explain(ctx, "wait for another pull of the same layer", err)
	}
	defer func() {
		if tee == nil {
			land()
		} else {
			tee.land = land // when it is in the cache, or will not be
		}
	}()
	if src, err = openCached(ctx, c.cache, l); err == nil {
		return src, nil, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, c.explain(ctx, "read cached blob", err)
	}
	d, err := l.download(ctx, c)
	if err != nil {
		return nil, nil, c.explain(ctx, "pull "+c.ref.full, err)
	}
	if tee, err = createCached(c.cache, l.Digest); err != nil {
		d.Close()
		return nil, nil, err
	}
	return d, tee, nil
}

// download asks the registry for the blob. Its digest settles what the bytes
// are, whatever each of the hosts that a registry sends to calls them.
func (l *Layer) download(ctx context.Context, c *client) (*fetch.Body, error) {
	ask := func(ctx context.Context, header http.Header) (*http.Response, error) {
		return c.request(ctx, "blobs", l.Digest, header)
	}
	return fetch.Resume(ctx, ask, fetch.Options{Size: l.Size, Immutable: true}, c.retry)
}

func (b *blob) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if b.ctx.Err() != nil {
		return 0, b.fail(context.Cause(b.ctx))
	}
	n, err := b.src.Read(p)
	b.read += int64(n)
	b.sum.Write(p[:n])
	b.layer.meter.add(int64(n))
	switch {
	case b.read > b.layer.Size:
		return n, b.fail(banger.Errorf(banger.Invalid, "%s sends more than %d bytes", b.layer.store.who(), b.layer.Size))
	case err != nil && err != io.EOF:
		return n, b.fail(err)
	}
	if werr := b.tee.write(p[:n]); werr != nil {
		return n, b.fail(werr)
	}
	if err == nil {
		return n, nil
	}
	if sum := sumOf(b.sum); b.layer.Digest != "" && sum != b.layer.Digest || b.read != b.layer.Size {
		return n, b.fail(wrongBytes(b.layer.store, b.read, sum, b.layer.Size, cmp.Or(b.layer.Digest, b.layer.DiffID)))
	}
	tee := b.tee
	b.tee = nil
	if err := tee.commit(); err != nil {
		return n, b.fail(err)
	}
	b.err = io.EOF
	return n, io.EOF
}

// fail ends the blob at once, so that a consumer that forgets Close after an
// error leaves nothing behind.
func (b *blob) fail(err error) error {
	b.err = errGivenUp
	if context.Cause(b.ctx) != errGivenUp {
		b.err = b.layer.store.explain(b.ctx, b.layer.Name, err)
	}
	_ = b.stop() // the first error is the one that counts
	return b.err
}

// stop releases what the blob holds. It is idempotent.
func (b *blob) stop() error {
	if b.stopped {
		return nil
	}
	b.stopped = true
	if b.err != io.EOF {
		b.layer.meter.add(-b.read)
	}
	return errors.Join(b.src.Close(), b.tee.abort())
}

// errGivenUp is what a blob ends with whose layer is not read on.
var errGivenUp = errors.New("given up")

// layerReader is what Layer.Open returns. Three goroutines work for it, so that a
// large layer that is alone does not wait for one core: one gets, hashes and
// caches the blob, one unpacks it, and the caller hashes and uses what comes out.
type layerReader struct {
	layer  *Layer
	blob   *blob // not this goroutine's before ahead is closed
	giveUp context.CancelCauseFunc
	ahead  *ahead        // of blob
	in     *bufio.Reader // of ahead
	out    io.Reader     // uncompressed; nil before the first Read
	close  func()        // ends what unpacks, if there is such
	sum    hash.Hash
	read   int64
	err    error
}

func newLayerReader(l Layer, b *blob, giveUp context.CancelCauseFunc) *layerReader {
	a := readAhead(b)
	return &layerReader{layer: &l, blob: b, giveUp: giveUp, ahead: a, in: bufio.NewReaderSize(a, aheadSize), sum: sha256.New()}
}

func (r *layerReader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if r.out == nil {
		if err := r.sniff(); err != nil {
			return 0, r.finish(err)
		}
	}
	n, err := r.out.Read(p)
	r.sum.Write(p[:n])
	if r.read += int64(n); r.read > maxUncompressed {
		return n, r.finish(malformed("the layer unpacks to more than %d GiB", maxUncompressed>>30))
	}
	if err != nil {
		err = r.finish(err)
	}
	return n, err
}

// sniff finds the compression by the first bytes. The media type is not asked:
// registries are full of layers with a wrong one.
func (r *layerReader) sniff() error {
	magic, err := r.in.Peek(peekSize)
	if err != nil && err != io.EOF {
		return err
	}
	switch kind := compressionOf(magic); kind {
	case plain:
		r.out = r.in
		return nil
	case gzipped, zstandard:
		out, done, err := unpack(kind, r.in, true)
		if err != nil {
			return err
		}
		a := readAhead(out)
		r.out, r.close = a, func() {
			a.Close()
			if done != nil {
				done()
			}
		}
		return nil
	}
	return banger.Errorf(banger.Unsupported, "compressed with xz or bzip2; OCI layers use gzip or zstd")
}

// finish ends the reader: with io.EOF if err is that and everything was right,
// else with an error. What is left of the blob after the compressed data is
// read too, for only its end tells whether the digest was right, and a digest
// that was wrong explains a decompressor's complaint.
func (r *layerReader) finish(err error) error {
	var own *banger.Error
	if !errors.As(err, &own) {
		r.stopUnpacking() // which reads r.in too
		if _, berr := io.Copy(io.Discard, r.in); berr != nil {
			err = berr
		}
	}
	_ = r.release() // err is the one that counts
	switch {
	case r.blob.err != nil && r.blob.err != io.EOF && r.blob.err != errGivenUp:
		err = r.blob.err
	case err == io.EOF:
		if got := sumOf(r.sum); got != r.layer.DiffID {
			err = malformed("%s unpacks to %s, its config says %s", r.layer.Name, shortDigest(got), shortDigest(r.layer.DiffID))
		}
	case errors.As(err, &own):
		err = fmt.Errorf("%s: %w", r.layer.Name, err)
	case errors.Is(err, zstd.ErrWindowSizeExceeded):
		err = banger.Errorf(banger.Unsupported, "%s: its zstd window is larger than %d MiB", r.layer.Name, maxZstdWindow>>20)
	default:
		err = malformed("%s: damaged compression: %w", r.layer.Name, err)
	}
	r.err = err
	return err
}

// stopUnpacking ends the goroutine that unpacks.
func (r *layerReader) stopUnpacking() {
	if r.close != nil {
		r.close()
		r.close = nil
	}
}

// release ends the goroutines, and then the blob. It is idempotent.
func (r *layerReader) release() error {
	r.giveUp(errGivenUp) // a Read that waits for the registry
	r.stopUnpacking()
	r.ahead.Close()
	return r.blob.stop()
}

// Close gives the layer up if it was not read to the end. It is idempotent.
func (r *layerReader) Close() error {
	if r.err == nil {
		r.err = fmt.Errorf("read %s: %w", r.layer.Name, os.ErrClosed)
	}
	return r.release()
}
