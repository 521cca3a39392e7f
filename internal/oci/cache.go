package oci

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"banger/internal/hostfile"
)

// partial is the prefix of blobs that are being written.
const partial = ".partial-"

// blobPath is where a blob is cached. The digest has passed digestGrammar, so
// it cannot leave the directory.
func blobPath(cache, digest string) string {
	algorithm, hex, _ := strings.Cut(digest, ":")
	return filepath.Join(cache, algorithm, hex)
}

// Cached reports whether a blob is in the cache; whether it is right shows when
// it is read.
func Cached(cache, digest string) bool {
	if !digestGrammar().MatchString(digest) {
		return false
	}
	_, err := os.Lstat(blobPath(cache, digest))
	return err == nil
}

// CachedBlob is a blob of the cache.
type CachedBlob struct {
	Digest, Path string
	Size         int64 // bytes on disk
}

// CachedBlobs lists the whole blobs of the cache, in the order of their digests.
func CachedBlobs(cache string) ([]CachedBlob, error) {
	entries, err := os.ReadDir(filepath.Join(cache, "sha256"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var blobs []CachedBlob
	for _, e := range entries {
		b := CachedBlob{Digest: "sha256:" + e.Name()}
		if !digestGrammar().MatchString(b.Digest) {
			continue
		}
		b.Path = blobPath(cache, b.Digest)
		if fi, err := os.Lstat(b.Path); err == nil {
			b.Size = fi.Sys().(*syscall.Stat_t).Blocks * 512
			blobs = append(blobs, b)
		}
	}
	return blobs, err
}

// Sweep removes the partial blobs that a killed process left. It is for whoever
// has the cache to itself: those of a pull that goes on would go too.
func Sweep(cache string) error {
	names, err := filepath.Glob(filepath.Join(cache, "sha256", partial+"*"))
	errs := []error{err}
	for _, n := range names {
		errs = append(errs, os.Remove(n))
	}
	return errors.Join(errs...)
}

// openCached opens a cached blob if it is there and right; it removes one that
// is not. The blob is read twice, here and by the consumer: hashing is cheap
// beside unpacking, and damage found only while the consumer reads could not
// be healed by asking the registry.
func openCached(ctx context.Context, cache string, l *Layer) (io.ReadCloser, error) {
	if cache == "" {
		return nil, fs.ErrNotExist
	}
	path := blobPath(cache, l.Digest)
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fs.ErrNotExist
	}
	fi, err := f.Stat()
	if err == nil && fi.Mode().IsRegular() && fi.Size() == l.Size {
		h := sha256.New()
		_, err = io.Copy(h, hostfile.Reader(ctx, f))
		if err == nil && sumOf(h) == l.Digest {
			if _, err = f.Seek(0, io.SeekStart); err == nil {
				return f, nil
			}
		}
	}
	f.Close()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	_ = os.Remove(path)
	return nil, fs.ErrNotExist
}

func sumOf(h hash.Hash) string {
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// cacheFile is a blob on its way into the cache. A nil one takes and does nothing.
type cacheFile struct {
	f    *os.File
	path string // of the blob when it is whole
	land func() // called when it is whole, or given up
}

// createCached starts a blob. Each pull has its own partial file, so that two
// pulls of one blob do not meet before the rename, which either may win.
func createCached(cache, digest string) (*cacheFile, error) {
	if cache == "" {
		return nil, nil
	}
	path := blobPath(cache, digest)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, storeError(err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), partial+"*")
	if err != nil {
		return nil, storeError(err)
	}
	return &cacheFile{f: f, path: path}, nil
}

func (c *cacheFile) write(p []byte) error {
	if c == nil {
		return nil
	}
	if _, err := c.f.Write(p); err != nil {
		return storeError(err)
	}
	return nil
}

// commit gives the whole and verified blob its name. It is not synced: a blob
// that a power cut damages is found by its digest and asked for again, while
// syncing would cost every pull about 3 s per GB.
func (c *cacheFile) commit() error {
	if c == nil {
		return nil
	}
	defer c.land()
	err := c.f.Close()
	if err == nil {
		err = os.Rename(c.f.Name(), c.path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the cache was deleted meanwhile, as it may be
	}
	if err != nil {
		_ = os.Remove(c.f.Name())
		return storeError(err)
	}
	return nil
}

// abort forgets the blob.
func (c *cacheFile) abort() error {
	if c == nil {
		return nil
	}
	defer c.land()
	err := c.f.Close()
	if rerr := os.Remove(c.f.Name()); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
		err = errors.Join(err, fmt.Errorf("remove partial blob: %w", rerr))
	}
	return err
}
