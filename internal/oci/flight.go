package oci

import (
	"context"
	"sync"
)

// Flight lets the pulls of one process share what they get: of those that want
// the same blob one asks the registry, and the others find it in the cache. The
// zero value is ready, a nil one shares nothing.
type Flight struct {
	mu   sync.Mutex
	away map[string]chan struct{} // by digest: closed when the blob is in the cache, or will not be
	held map[string]int           // by digest: images that are being pulled and have the blob
}

// take waits until nobody gets the blob and makes the caller the one who does;
// land is to be called when it is done. Whoever has taken a blob reads it, so
// nobody who waits is waited for.
func (f *Flight) take(ctx context.Context, digest string) (land func(), err error) {
	if f == nil {
		return func() {}, nil
	}
	for {
		f.mu.Lock()
		away, busy := f.away[digest]
		if !busy {
			if f.away == nil {
				f.away = map[string]chan struct{}{}
			}
			mine := make(chan struct{})
			f.away[digest] = mine
			f.mu.Unlock()
			return sync.OnceFunc(func() {
				f.mu.Lock()
				defer f.mu.Unlock()
				delete(f.away, digest)
				close(mine)
			}), nil
		}
		f.mu.Unlock()
		select {
		case <-away:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// join notes that an image is being pulled, until the returned function is called.
func (f *Flight) join(im *Image) (leave func()) {
	if f == nil {
		return func() {}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.held == nil {
		f.held = map[string]int{}
	}
	for _, l := range im.Layers {
		f.held[l.Digest]++
	}
	return sync.OnceFunc(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, l := range im.Layers {
			if f.held[l.Digest]--; f.held[l.Digest] == 0 {
				delete(f.held, l.Digest)
			}
		}
	})
}

// Holds reports whether an image that is being pulled, and is not closed yet,
// has the blob.
func (f *Flight) Holds(digest string) bool {
	if f == nil {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.held[digest] > 0
}
