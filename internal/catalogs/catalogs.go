// Package catalogs brings the catalogs of others here: read or fetched, their signatures checked, kept for when the network is gone.
package catalogs

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/fetch"
	"banger/internal/state"
)

const (
	maxCatalog = 8 << 20 // bytes of a catalog; one of a thousand entries has half a megabyte
	sigSuffix  = ".sig"  // of a detached signature, as ssh-keygen names it

	refreshTime = 30 * time.Second // for one catalog and its signature
	stallTime   = 10 * time.Second // without a byte
)

// Parse reads the text of a catalog. References in it may be relative to base.
type Parse[T any] func(text []byte, base *url.URL) (T, error)

// Book is one catalog of the configuration, or why it is not there.
type Book[T any] struct {
	Origin  Origin
	Catalog T     // where Err is nil
	Asked   bool  // its origin was asked just now; else this is a copy that is young enough
	Stale   error // why this is the copy that was kept, not what its origin has now
	Err     error // why there is none
}

// Reader reads catalogs. Its fields are set before its first use.
type Reader struct {
	Dir string // where copies are kept; may be deleted at any time

	keys state.Keys // one refresh of a catalog at a time
	mu   sync.Mutex
	last map[Origin]turn
}

// turn is how the last refresh of a catalog went.
type turn struct {
	ended time.Time
	err   error
}

// Load reads the catalogs, all at once. One that cannot be read takes nothing
// from the others. A copy that is younger than maxAge is taken as it is; one
// that is older is used where its origin cannot be asked or has something that
// is no catalog, not signed by its key, or older than the copy itself.
func Load[T any](ctx context.Context, r *Reader, origins []Origin, maxAge time.Duration, parse Parse[T]) []Book[T] {
	books := make([]Book[T], len(origins))
	var all sync.WaitGroup
	for i, o := range origins {
		all.Go(func() { books[i] = load(ctx, r, o, maxAge, parse) })
	}
	all.Wait()
	return books
}

func load[T any](ctx context.Context, r *Reader, o Origin, maxAge time.Duration, parse Parse[T]) Book[T] {
	b := Book[T]{Origin: o, Asked: true}
	s, err := o.site()
	if err != nil {
		b.Err = err
		return b
	}
	var text []byte
	if s.path != "" {
		text, err = readLocal(s)
	} else {
		text, b.Asked, b.Stale, err = r.read(ctx, o, s, maxAge, func(text []byte) error {
			_, err := parse(text, s.base)
			return err
		})
	}
	if err == nil {
		b.Catalog, err = parse(text, s.base)
	}
	b.Err = err
	return b
}

// readLocal reads a catalog that is a file of this host.
func readLocal(s site) ([]byte, error) {
	text, err := readFile(s.path, maxCatalog)
	if err != nil || s.key == nil {
		return text, err
	}
	sig, err := readFile(s.path+sigSuffix, maxSig)
	if err != nil {
		return nil, fmt.Errorf("read its signature: %w", err)
	}
	return text, verify(text, sig, s.key)
}

// read gives the text of a catalog of a server, and whether that was asked;
// where it is only the copy that was kept, stale says why.
func (r *Reader) read(ctx context.Context, o Origin, s site, maxAge time.Duration, check func([]byte) error) (text []byte, asked bool, stale, err error) {
	begun := time.Now()
	c, err := r.open(o, s, check)
	if err == nil && c.age() < maxAge {
		return c.text, false, nil, nil
	}
	if rerr := r.refresh(ctx, o, s, begun, check); rerr != nil {
		if err == nil {
			return c.text, true, rerr, nil
		}
		return nil, true, nil, rerr
	}
	c, err = r.open(o, s, check)
	return c.text, true, nil, err
}

// readFile reads a regular file of at most limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, banger.Errorf(banger.Unavailable, "%w", err)
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return nil, banger.Errorf(banger.Invalid, "%s is not a regular file", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, banger.Errorf(banger.Unavailable, "%w", err)
	}
	if int64(len(b)) > limit {
		return nil, banger.Errorf(banger.Invalid, "%s is longer than %d bytes", path, limit)
	}
	return b, nil
}

// refresh makes the copy what the origin has now. Whoever had to wait for
// another one's refresh takes that for their own.
func (r *Reader) refresh(ctx context.Context, o Origin, s site, begun time.Time, check func([]byte) error) error {
	unlock, err := r.keys.Lock(ctx, o.file())
	if err != nil {
		return banger.Errorf(banger.Canceled, "%w", err)
	}
	defer unlock()
	r.mu.Lock()
	last := r.last[o]
	r.mu.Unlock()
	if last.ended.After(begun) {
		return last.err
	}
	limited, cancel := context.WithTimeout(ctx, refreshTime)
	defer cancel()
	err = r.fetch(limited, o, s, check)
	if ctx.Err() != nil {
		return err // of this caller alone
	}
	if limited.Err() != nil {
		err = banger.Errorf(banger.Unavailable, "get %s: no end after %s", fetch.Redacted(o.URL), refreshTime)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == nil {
		r.last = map[Origin]turn{}
	}
	r.last[o] = turn{time.Now(), err}
	return err
}

// fetch asks the origin for what it has now and keeps a copy of it.
func (r *Reader) fetch(ctx context.Context, o Origin, s site, check func([]byte) error) error {
	client := fetch.Client{Policy: fetch.Policy{AllowPrivate: o.AllowPrivate}, Retry: fetch.Retry{Tries: 2}, Stall: stallTime}
	old, err := r.open(o, s, check)
	if err != nil {
		old = kept{} // its entity tag must not keep a good one away
	}
	text, etag, same, err := client.GetIfChanged(ctx, s.base.String(), old.ETag, maxCatalog)
	switch {
	case err != nil:
		return err
	case same:
		return r.confirm(o)
	}
	c := kept{URL: fetch.Redacted(o.URL), ETag: etag, text: text}
	if s.key != nil {
		sig, err := client.Get(ctx, sigURL(s.base), maxSig)
		if err != nil {
			return fmt.Errorf("its signature: %w", err)
		}
		c.Sig = string(sig)
		if err := verify(text, sig, s.key); err != nil {
			return err
		}
	}
	if err := check(text); err != nil {
		return err
	}
	if s.key != nil {
		if is, was := serial(text), serial(old.text); is < was {
			return banger.Errorf(banger.Conflict, "it has the serial %d, and %d has been here: somebody shows an old one", is, was).
				WithHint("if its publisher says that this is right: rm %s", r.path(o))
		}
	}
	return r.keep(o, c)
}

// serial is the number by which a catalog and an older one can be told apart,
// 0 where it has none. Unsigned ones prove nothing by it.
func serial(text []byte) int64 {
	var c struct {
		Serial int64 `json:"serial"`
	}
	_ = json.Unmarshal(text, &c)
	return c.Serial
}

// Prune removes the copies of catalogs of a kind that the configuration does
// not have any more.
func (r *Reader) Prune(kind string, origins []Origin) {
	stay := map[string]bool{}
	for _, o := range origins {
		stay[o.file()] = true
	}
	copies, _ := filepath.Glob(filepath.Join(r.Dir, kind+"-*.json"))
	for _, path := range copies {
		if !stay[filepath.Base(path)] {
			_ = os.Remove(path)
		}
	}
}
