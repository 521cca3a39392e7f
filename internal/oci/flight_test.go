package oci

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"banger"
)

// xzOf packs with a program of the host.
func xzOf(t *testing.T, program string, b []byte) []byte {
	t.Helper()
	cmd := exec.Command(program, "-c")
	cmd.Stdin = bytes.NewReader(b)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v; run: apt-get install -y --no-install-recommends xz-utils bzip2", program, err)
	}
	return out
}

// Two images that share a layer are pulled at once: it is asked for once.
func TestFlightSharesLayers(t *testing.T) {
	f := newFixture(t)
	shared := gzLayer("shared", 500_000)
	f.push("one", newImage(shared, gzLayer("a", 1000)))
	f.push("two", newImage(shared, gzLayer("b", 1000)))
	o := f.options()
	o.Flight = &Flight{}
	digest := digestOf(shared.blob)
	var wg sync.WaitGroup
	var images []*Image
	for _, tag := range []string{"one", "two", "one", "two"} {
		im := f.resolve(tag, o)
		images = append(images, im)
		for _, l := range im.Layers {
			wg.Go(func() {
				if _, err := readLayer(t.Context(), l); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	if n := f.count(digest); n != 1 {
		t.Errorf("the shared layer was asked for %d times", n)
	}
	for i, im := range images {
		if !o.Flight.Holds(digest) {
			t.Errorf("image %d is not closed, but its layer is not held", i)
		}
		_ = im.Close()
		_ = im.Close()
	}
	if o.Flight.Holds(digest) {
		t.Error("a layer is held for nobody")
	}
	wantCache(t, o.Cache, 3)
}

// Who waits for a blob that somebody else gives up gets it himself; who does not
// want to wait any longer goes.
func TestFlightGivenUp(t *testing.T) {
	f := newFixture(t)
	im := newImage(gzLayer("a", 400_000))
	f.push("x", im)
	o := f.options()
	o.Flight = &Flight{}
	first, second := f.resolve("x", o).Layers[0], f.resolve("x", o).Layers[0]
	r, err := first.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	gone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	if _, err := readLayer(ctx, second); !errors.Is(err, gone) && !banger.IsKind(err, banger.Canceled) {
		t.Errorf("who left got %v", err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := readLayer(t.Context(), second)
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatalf("did not wait: %v", err)
	default:
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	wantCache(t, o.Cache, 1)
}

// One image may have the same layer several times.
func TestFlightSameLayerTwice(t *testing.T) {
	f := newFixture(t)
	l := gzLayer("a", 400_000)
	f.push("x", newImage(l, l, l))
	o := f.options()
	o.Flight = &Flight{}
	for _, l := range f.resolve("x", o).Layers {
		if _, err := readLayer(t.Context(), l); err != nil {
			t.Error(err)
		}
	}
	if n := f.count("/blobs/" + digestOf(l.blob)); n != 1 {
		t.Errorf("asked for %d times", n)
	}
}

func TestNamed(t *testing.T) {
	f := newFixture(t)
	digest := f.push("x", newImage(gzLayer("a", 1000)))
	heads := 0
	bare := false
	inner := f.srv.Config.Handler
	f.srv.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead && strings.Contains(r.URL.Path, "/manifests/") {
			if heads++; bare {
				w.WriteHeader(http.StatusOK)
				return
			}
		}
		inner.ServeHTTP(w, r)
	})
	got, err := Named(t.Context(), f.ref("x"), f.options())
	if err != nil || got != digest || heads != 1 || f.count("/manifests/") != 0 || f.count("/blobs/") != 0 {
		t.Errorf("%s, %v after %d HEAD and %v", got, err, heads, f.gets)
	}
	bare = true
	if got, err := Named(t.Context(), f.ref("x"), f.options()); err != nil || got != digest {
		t.Errorf("without the header: %s, %v", got, err)
	}
	f.srv.Config.Handler = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("asked for a digest") })
	if got, err := Named(t.Context(), f.host+"/team/app@"+digest, f.options()); err != nil || got != digest {
		t.Errorf("by digest: %s, %v", got, err)
	}
	f.srv.Config.Handler = inner
	_, err = Named(t.Context(), f.ref("none"), f.options())
	wantErr(t, err, banger.NotFound, "none")
}
