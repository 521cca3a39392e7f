package kernelcat

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"strings"
	"sync/atomic"
	"syscall"

	"banger"
	"banger/internal/fetch"
)

// Bounds on a bundle on its way here. What it may unpack to grows with what was
// read of it, so a small one cannot fill the disk: kernels pack to a fifth.
const (
	maxTarball    = 2 << 30
	maxInflation  = 64       // bytes out for one byte in,
	inflationBase = 64 << 20 // and so many before that counts
)

// tarballSource is a bundle: one file on a server, whose digest is known.
type tarballSource struct {
	url    string
	sha256 string // hex
	size   int64  // bytes; 0: not known
	from   string // URL of the catalog that names it; empty: the user does
}

// tarballSchemes are those of URLs that mean a bundle.
var tarballSchemes = []string{"https://", "http://", "file://"}

func isTarball(s string) bool {
	for _, scheme := range tarballSchemes {
		if strings.HasPrefix(strings.ToLower(s), scheme) {
			return true
		}
	}
	return false
}

// parseTarball takes a URL whose fragment has the digest, in the form sha256=HEX.
func parseTarball(u *url.URL, from string) (Source, error) {
	plain := *u
	plain.Fragment, plain.RawFragment = "", ""
	sum, ok := strings.CutPrefix(u.Fragment, "sha256=")
	if sum = strings.ToLower(sum); !ok || !validSHA256(sum) {
		return nil, banger.Errorf(banger.Invalid, "nothing says what %q should hold", fetch.Redacted(u.String())).
			WithHint("add the file's digest, which its publisher tells or sha256sum prints: %s#sha256=HEX", fetch.Redacted(plain.String()))
	}
	return newTarball(&plain, sum, 0, from)
}

// newTarball takes a digest and a size that were checked.
func newTarball(u *url.URL, sum string, size int64, from string) (Source, error) {
	local := u.Scheme == "file"
	if local && (u.Host != "" && u.Host != "localhost" || !path.IsAbs(u.Path)) || !local && u.Hostname() == "" {
		return nil, banger.Errorf(banger.Invalid, "%q is no URL of a bundle", fetch.Redacted(u.String())).
			WithHint("want https://HOST/NAME.tar.zst#sha256=HEX, or file:///PATH/NAME.tar.zst#sha256=HEX")
	}
	if size > maxTarball {
		return nil, banger.Errorf(banger.Invalid, "%s has %d bytes, more than the %d it may have", fetch.Redacted(u.String()), size, int64(maxTarball))
	}
	return tarballSource{url: u.String(), sha256: sum, size: size, from: from}, nil
}

// String has no login in it, nor a signature.
func (s tarballSource) String() string { return fetch.Redacted(s.url) + "#sha256=" + s.sha256 }

// file is the name that the server gives the bundle.
func (s tarballSource) file() string {
	u, err := url.Parse(s.url)
	if err != nil {
		return ""
	}
	return path.Base(u.Path)
}

// DefaultName is the file's name without what says how it is packed.
func (s tarballSource) DefaultName() string {
	name := s.file()
	for _, end := range []string{".tar", ".tar.zst", ".tar.gz", ".tzst", ".tgz"} {
		if stem, ok := strings.CutSuffix(name, end); ok {
			return nameFrom(stem)
		}
	}
	return nameFrom(name)
}

// fill unpacks the bundle while it comes. It is only after its last byte that
// the digest shows whether any of it counts.
func (s tarballSource) fill(ctx context.Context, f *filling) (origin, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	body, size, err := s.open(ctx, f.options)
	if err != nil {
		return origin{}, err
	}
	defer body.Close()
	step := "download " + s.file()
	f.report(step, 0, size)
	sum := sha256.New()
	in := &counter{r: io.TeeReader(&meter{r: body, report: func(n int64) { f.report(step, n, max(n, size)) }}, sum)}
	plain, err := openArchive(in)
	if err != nil {
		return origin{}, fmt.Errorf("unpack %s: %w", fetch.Redacted(s.url), err)
	}
	// The decompressor may be waiting for the server.
	defer func() {
		cancel()
		plain.Close()
	}()
	err = f.bundle.addTar(&deflated{r: plain, in: in})
	if err == nil {
		_, err = io.Copy(io.Discard, in)
	}
	if err != nil {
		return origin{}, fmt.Errorf("unpack %s: %w", fetch.Redacted(s.url), err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != s.sha256 {
		return origin{}, s.mismatch(got)
	}
	return origin{source: "pull:" + fetch.Redacted(s.url), digest: "sha256:" + s.sha256}, nil
}

func (s tarballSource) mismatch(got string) error {
	err := banger.Errorf(banger.Invalid, "%s is not the bundle that was asked for: its sha256 is %s, not %s", fetch.Redacted(s.url), got, s.sha256)
	if s.from == "" {
		return err.WithHint("ask its publisher for the sha256")
	}
	return err.WithHint("tell the publisher of the catalog at %s", fetch.Redacted(s.from))
}

// open gives the file and its length, 0 where the server does not tell.
func (s tarballSource) open(ctx context.Context, o *Options) (io.ReadCloser, int64, error) {
	if strings.HasPrefix(s.url, "file:") {
		return s.openFile()
	}
	client, how := s.request(o)
	body, err := client.Open(ctx, s.url, how)
	if err != nil {
		return nil, 0, err
	}
	return body, max(body.Size(), 0), nil
}

// request says how a server is asked.
func (s tarballSource) request(o *Options) (fetch.Client, fetch.Options) {
	client := o.client
	client.Policy.AllowPrivate = o.AllowPrivate
	how := fetch.Options{Size: s.size, Max: maxTarball, Immutable: true}
	if !strings.HasPrefix(s.from, "file:") { // a catalog on this host is as good as the user
		how.Origin = s.from
	}
	return client, how
}

func (s tarballSource) openFile() (io.ReadCloser, int64, error) {
	u, err := url.Parse(s.url)
	if err != nil {
		return nil, 0, err
	}
	// Neither a pipe nor a device may hold the daemon up.
	f, err := os.OpenFile(u.Path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, 0, fail(banger.NotFound, err, "there is no file %q", u.Path)
	case err != nil:
		return nil, 0, fail(banger.Unavailable, err, "%v", err)
	}
	fi, err := f.Stat()
	switch {
	case err != nil:
	case !fi.Mode().IsRegular():
		err = banger.Errorf(banger.Invalid, "%q is no regular file", u.Path)
	case s.size > 0 && fi.Size() != s.size, fi.Size() > maxTarball:
		err = banger.Errorf(banger.Invalid, "%q has %d bytes instead of %d", u.Path, fi.Size(), s.size)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, fi.Size(), nil
}

// counter counts what is read through it; n may be read meanwhile.
type counter struct {
	r io.Reader
	n atomic.Int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// deflated fails where more comes out of an archive than an honest one of what
// was read of it holds.
type deflated struct {
	r  io.Reader
	n  int64
	in *counter
}

func (d *deflated) Read(p []byte) (int, error) {
	n, err := d.r.Read(p)
	if d.n += int64(n); d.n > inflationBase+maxInflation*d.in.n.Load() {
		return 0, errTooBig
	}
	return n, err
}
