package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"strings"
	"sync/atomic"
	"syscall"

	"banger"
)

// Pinned is a file whose digest is known: one of a server, or one of this host
// by a file URL.
type Pinned struct {
	URL    string
	SHA256 string // hex
	Size   int64  // bytes; 0: not known
	Max    int64  // bytes that it may have; 0: any number
	// From is the URL of the document that names it, empty where that is the
	// user. The host of that document may not send banger nearer than itself,
	// unless it is this one: then the document is as good as the user.
	From string
}

// IsHexSHA256 reports whether s is what Pinned.SHA256 has to be.
func IsHexSHA256(s string) bool {
	return len(s) == 2*sha256.Size && strings.Trim(s, "0123456789abcdef") == ""
}

// ResolveURL makes a reference in a document absolute; base is the document's own
// URL. That a document of a server names a file of this host is an Invalid error.
func ResolveURL(base *url.URL, ref string) (*url.URL, error) {
	u, err := base.Parse(ref)
	switch {
	case err != nil:
		return nil, banger.Errorf(banger.Invalid, "%.200q is no URL", ref)
	case u.Scheme == "file" && base.Scheme != "file":
		return nil, banger.Errorf(banger.Invalid, "%.200q is a file of this host", ref)
	}
	return u, nil
}

// CheckPinnedURL says whether a URL can be that of a Pinned, as far as that
// shows without asking.
func CheckPinnedURL(u *url.URL) error {
	local := u.Scheme == "file"
	switch {
	case !local && u.Scheme != "https" && u.Scheme != "http",
		local && (u.Host != "" && u.Host != "localhost" || !path.IsAbs(u.Path)), !local && u.Hostname() == "":
		return banger.Errorf(banger.Invalid, "%q is neither the URL of a file on a server nor file:///PATH", Redacted(u.String()))
	}
	return nil
}

// Name is the last part of its path.
func (p Pinned) Name() string {
	u, err := url.Parse(p.URL)
	if err != nil {
		return ""
	}
	return path.Base(u.Path)
}

// String has no login in it, nor a signature.
func (p Pinned) String() string { return Redacted(p.URL) + "#sha256=" + p.SHA256 }

// Open streams the file. Errors are those of Client.Open; NotFound, Unavailable
// and Invalid for one of this host.
func (p Pinned) Open(ctx context.Context, c Client) (*PinnedBody, error) {
	b := &PinnedBody{of: p, sum: sha256.New()}
	if strings.HasPrefix(p.URL, "file:") {
		f, size, err := p.openFile()
		b.body, b.size = f, size
		return b, err
	}
	how := Options{Size: p.Size, Max: p.Max, Immutable: true}
	if !strings.HasPrefix(p.From, "file:") {
		how.Origin = p.From
	}
	body, err := c.Open(ctx, p.URL, how)
	if err != nil {
		return nil, err
	}
	b.body, b.size = body, max(body.Size(), 0)
	return b, nil
}

func (p Pinned) openFile() (*os.File, int64, error) {
	u, err := url.Parse(p.URL)
	if err != nil {
		return nil, 0, err
	}
	// Neither a pipe nor a device may hold the daemon up.
	f, err := os.OpenFile(u.Path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, 0, banger.Errorf(banger.NotFound, "there is no file %q", u.Path)
	case err != nil:
		return nil, 0, banger.Errorf(banger.Unavailable, "%w", err)
	}
	fi, err := f.Stat()
	switch {
	case err != nil:
	case !fi.Mode().IsRegular():
		err = banger.Errorf(banger.Invalid, "%q is no regular file", u.Path)
	case p.Size > 0 && fi.Size() != p.Size:
		err = banger.Errorf(banger.Invalid, "%q has %d bytes instead of %d", u.Path, fi.Size(), p.Size)
	case p.Max > 0 && fi.Size() > p.Max:
		err = banger.Errorf(banger.Invalid, "%q has %d bytes, more than the %d it may have", u.Path, fi.Size(), p.Max)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, fi.Size(), nil
}

// PinnedBody is a Pinned that is being read, by one goroutine. Nothing of it
// counts before Verify: what was made of it is to be kept apart until then.
type PinnedBody struct {
	of     Pinned
	body   io.ReadCloser
	size   int64
	sum    hash.Hash
	offset atomic.Int64
}

// Size is the length of the file in bytes, 0 where the server does not tell.
func (b *PinnedBody) Size() int64 { return b.size }

// Offset is how many bytes have been read. Any goroutine may ask.
func (b *PinnedBody) Offset() int64 { return b.offset.Load() }

// Read implements io.Reader.
func (b *PinnedBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	b.sum.Write(p[:n])
	b.offset.Add(int64(n))
	return n, err
}

// Verify reads what is left. A file with another digest is an Invalid error.
func (b *PinnedBody) Verify() error {
	if _, err := io.Copy(io.Discard, b); err != nil {
		return err
	}
	if got := hex.EncodeToString(b.sum.Sum(nil)); got != b.of.SHA256 {
		return b.of.mismatch(got)
	}
	return nil
}

// What may come out of a decompressor grows with what went in, so that a small
// file cannot fill the disk: programs pack to a fifth.
const (
	maxInflation  = 64       // bytes out for one byte in,
	inflationBase = 64 << 20 // and so many before that counts
)

// Bound limits what comes out of a decompressor of this file; more is Invalid.
func (b *PinnedBody) Bound(plain io.Reader) io.Reader { return &inflated{r: plain, of: b} }

type inflated struct {
	r  io.Reader
	n  int64
	of *PinnedBody
}

func (i *inflated) Read(p []byte) (int, error) {
	n, err := i.r.Read(p)
	if i.n += int64(n); i.n > inflationBase+maxInflation*i.of.Offset() {
		return 0, banger.Errorf(banger.Invalid, "it unpacks to more than it may")
	}
	return n, err
}

func (p Pinned) mismatch(got string) error {
	err := banger.Errorf(banger.Invalid, "%s is not the file that was asked for: its sha256 is %s, not %s", Redacted(p.URL), got, p.SHA256)
	if p.From == "" {
		return err.WithHint("ask its publisher for the sha256")
	}
	return err.WithHint("tell the publisher of the catalog at %s", Redacted(p.From))
}

// Close lets go of the connection or the file.
func (b *PinnedBody) Close() error { return b.body.Close() }
