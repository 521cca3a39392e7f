package daemon

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"net/url"
	"os"
	"path"

	"banger"
	"banger/internal/dockerfile"
	"banger/internal/fetch"
	"banger/internal/oci"
)

// checked reads a file of the context and compares it with what it was.
type checked struct {
	r    io.Reader
	item dockerfile.Item
	sum  hash.Hash
}

func newChecked(r io.Reader, it dockerfile.Item) *checked {
	return &checked{io.LimitReader(r, it.Size), it, sha256.New()}
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.sum.Write(p[:n])
	return n, err
}

func (c *checked) verify() error {
	if _, err := io.Copy(io.Discard, c); err != nil {
		return err
	}
	if hex.EncodeToString(c.sum.Sum(nil)) != c.item.Sum {
		return banger.Errorf(banger.Conflict, "it changed while the image was built")
	}
	return nil
}

// unpack unpacks a tar archive, packed or not, into the destination. done is
// false where it is none; then nothing happened.
func (c *copier) unpack(src io.Reader) (done bool, err error) {
	u, err := oci.Unpack(src)
	if err != nil {
		return false, nil // read as it is, it tells what is wrong with it
	}
	defer u.Close()
	head, _ := u.Peek(16 << 10)
	if is, _ := oci.TarHead(head); !is {
		return false, nil
	}
	if _, err := c.placer.MkdirAll(c.op.Dest, c.dirOwner()); err != nil {
		return true, err
	}
	if err := c.entries(tar.NewReader(u)); err != nil {
		return true, err
	}
	_, err = io.Copy(io.Discard, u)
	return true, err
}

// maxUnpacked is how many bytes of files one archive may hold, as a layer may.
const maxUnpacked = 64 << 30

// entries puts what a tar holds. A name that leads out leads to the destination.
func (c *copier) entries(tr *tar.Reader) error {
	left := int64(maxUnpacked)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return banger.Errorf(banger.Invalid, "unpack: %w", err)
		}
		name := path.Clean("/" + h.Name)[1:]
		if name == "" || h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if left -= max(h.Size, 0); left < 0 || h.Size < 0 {
			return banger.Errorf(banger.Invalid, "unpack: its files have more than %d bytes", int64(maxUnpacked))
		}
		if h.Typeflag == tar.TypeLink {
			target, _, err := c.view.Resolve(path.Join(c.op.Dest, path.Dir(path.Clean("/"+h.Linkname))))
			if err != nil {
				return err
			}
			h.Linkname = path.Join(target, path.Base(h.Linkname))
		}
		if h.Typeflag == tar.TypeGNUSparse || h.Typeflag == '\x00' || h.Typeflag == tar.TypeCont {
			h.Typeflag = tar.TypeReg
		}
		for key := range h.PAXRecords { // what the header says itself is written anew
			if len(key) < 14 || key[:13] != "SCHILY.xattr." {
				delete(h.PAXRecords, key)
			}
		}
		if err := c.below(c.op.Dest, name, h, tr); err != nil {
			return err
		}
	}
}

// maxDownload is how many bytes an ADD may get.
const maxDownload = 16 << 30

// download gets what an ADD names.
func (b *builder) download(ctx context.Context, op *dockerfile.Copy) (file, digest string, err error) {
	b.p(banger.Progress{Step: "get " + fetch.Redacted(op.URL)})
	body, err := fetch.Client{}.Open(ctx, op.URL, fetch.Options{Max: maxDownload, Immutable: op.Checksum != ""})
	if err != nil {
		return "", "", err
	}
	defer body.Close()
	f, err := os.CreateTemp(b.scratch, "add-*")
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(f, sum), body); err != nil {
		return "", "", err
	}
	digest = "sha256:" + hex.EncodeToString(sum.Sum(nil))
	if op.Checksum != "" && digest != op.Checksum {
		return "", "", banger.Errorf(banger.Invalid, "%s has the checksum %s, not %s", fetch.Redacted(op.URL), digest, op.Checksum)
	}
	return f.Name(), digest, nil
}

// fetched puts what was downloaded: a file of its own name with mode 0600, as
// Docker does.
func (c *copier) fetched(ctx context.Context, file string) error {
	if file == "" {
		var err error
		if file, _, err = c.b.download(ctx, c.op); err != nil {
			return err
		}
	}
	u, err := url.Parse(c.op.URL)
	if err != nil {
		return banger.Errorf(banger.Invalid, "ADD %.100q: no URL", c.op.URL)
	}
	name := path.Base(path.Clean("/" + u.Path))
	if name == "/" && c.op.IntoDir {
		return banger.Errorf(banger.Invalid, "%s names no file: name one as the destination", fetch.Redacted(c.op.URL))
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if c.op.Unpack {
		if done, err := c.unpack(f); done || err != nil {
			return err
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
	return c.file(name, &tar.Header{Typeflag: tar.TypeReg, Mode: 0o600, Size: fi.Size(), ModTime: c.b.now}, f)
}
