package kernelcat

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"banger"
	"banger/internal/fetch"
)

// maxTarball is how large a bundle may be, in bytes.
const maxTarball = 2 << 30

// tarballSource is a bundle: one file on a server, whose digest is known.
type tarballSource struct{ fetch.Pinned }

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
	if sum = strings.ToLower(sum); !ok || !fetch.IsHexSHA256(sum) {
		return nil, banger.Errorf(banger.Invalid, "nothing says what %q should hold", fetch.Redacted(u.String())).
			WithHint("add the file's digest, which its publisher tells or sha256sum prints: %s#sha256=HEX", fetch.Redacted(plain.String()))
	}
	return newTarball(&plain, sum, 0, from)
}

// newTarball takes a digest and a size that were checked.
func newTarball(u *url.URL, sum string, size int64, from string) (Source, error) {
	if fetch.CheckPinnedURL(u) != nil {
		return nil, banger.Errorf(banger.Invalid, "%q is no URL of a bundle", fetch.Redacted(u.String())).
			WithHint("want https://HOST/NAME.tar.zst#sha256=HEX, or file:///PATH/NAME.tar.zst#sha256=HEX")
	}
	if size > maxTarball {
		return nil, banger.Errorf(banger.Invalid, "%s has %d bytes, more than the %d it may have", fetch.Redacted(u.String()), size, int64(maxTarball))
	}
	return tarballSource{fetch.Pinned{URL: u.String(), SHA256: sum, Size: size, Max: maxTarball, From: from}}, nil
}

// DefaultName is the file's name without what says how it is packed.
func (s tarballSource) DefaultName() string {
	name := s.Name()
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
	client := f.options.client
	client.Policy.AllowPrivate = f.options.AllowPrivate
	body, err := s.Open(ctx, client)
	if err != nil {
		return origin{}, err
	}
	defer body.Close()
	step, size := "download "+s.Name(), body.Size()
	f.report(step, 0, size)
	plain, err := openArchive(&meter{r: body, report: func(n int64) { f.report(step, n, max(n, size)) }})
	if err != nil {
		return origin{}, fmt.Errorf("unpack %s: %w", fetch.Redacted(s.URL), err)
	}
	err = f.bundle.addTar(body.Bound(plain))
	if err != nil {
		cancel() // the decompressor may be waiting for the server
	}
	plain.Close()
	if err != nil {
		return origin{}, fmt.Errorf("unpack %s: %w", fetch.Redacted(s.URL), err)
	}
	if err := body.Verify(); err != nil {
		return origin{}, err
	}
	return origin{source: "pull:" + fetch.Redacted(s.URL), digest: "sha256:" + s.SHA256}, nil
}
