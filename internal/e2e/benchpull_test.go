//go:build e2e

package e2e

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"banger/internal/rootfs"
	"banger/internal/state"
)

// counter is the registry of the tests with a count of what it is asked for.
type counter struct {
	host string

	mu    sync.Mutex
	asked []string // METHOD KIND/ID, of manifests and blobs
}

func newCounter(tb testing.TB) *counter {
	tb.Helper()
	c := &counter{}
	forward := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: suite.registry})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		parts := strings.Split(r.URL.Path, "/")
		if kind := parts[max(len(parts)-2, 0)]; kind == "manifests" || kind == "blobs" {
			c.mu.Lock()
			c.asked = append(c.asked, r.Method+" "+kind+"/"+parts[len(parts)-1])
			c.mu.Unlock()
		}
		forward.ServeHTTP(w, r)
	}))
	tb.Cleanup(srv.Close)
	c.host = strings.TrimPrefix(srv.URL, "http://")
	return c
}

// take gives what was asked for since the last time.
func (c *counter) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	asked := c.asked
	c.asked = nil
	return asked
}

func mustBanger(b *testing.B, h *host, args ...string) {
	b.Helper()
	if out, err := h.banger(args...).CombinedOutput(); err != nil {
		b.Fatalf("banger %v: %v: %s", args, err, out)
	}
}

// BenchmarkPullAgain is the whole command for an image that is there and has not
// changed, against one that asks the daemon alone. The registry is asked for one
// manifest. Then what another image costs that has the same layers and one more:
// of the layers only that one is asked for, and none where all are in the cache.
func BenchmarkPullAgain(b *testing.B) {
	h, c := newHost(b), newCounter(b)
	ref, shared := c.host+"/library/debian:bookworm", suite.registry+"/bench/shared:1"
	dir := b.TempDir()
	for name, text := range map[string]string{"Dockerfile": "FROM first\nCOPY file /\n", "file": "one more\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	mustBanger(b, h, "image", "pull", ref, "--name", "first")
	mustBanger(b, h, "image", "build", "-t", "shared", dir)
	mustBanger(b, h, "image", "push", "shared", shared)
	if err := os.RemoveAll(filepath.Join(h.root, "cache", state.BlobsDir)); err != nil {
		b.Fatal(err)
	}
	mustBanger(b, h, "image", "pull", ref, "--name", "first", "--force")
	layers := blobsOf(b, h)
	var again, ls []time.Duration
	for b.Loop() {
		for range 3 * rounds {
			c.take()
			start := time.Now()
			mustBanger(b, h, "image", "pull", ref, "--name", "first")
			again = append(again, time.Since(start))
			if asked := c.take(); len(asked) != 1 || !strings.Contains(asked[0], " manifests/") {
				b.Fatalf("the registry was asked for %v", asked)
			}
			start = time.Now()
			mustBanger(b, h, "image", "ls")
			ls = append(ls, time.Since(start))
		}
	}
	mustBanger(b, h, "image", "pull", c.host+"/bench/shared:1", "--name", "second")
	wantBlobs(b, c.take(), layers, 1)
	mustBanger(b, h, "image", "pull", c.host+"/bench/shared:1", "--name", "third")
	wantBlobs(b, c.take(), blobsOf(b, h), 0)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ms(median(again)), "again-ms")
	b.ReportMetric(ms(median(again))/ms(median(ls)), "again/image-ls")
}

// blobsOf are the digests of the layers in the cache.
func blobsOf(b *testing.B, h *host) []string {
	b.Helper()
	found, err := filepath.Glob(filepath.Join(h.root, "cache", state.BlobsDir, "sha256", "*"))
	if err != nil || len(found) == 0 {
		b.Fatalf("no layers: %v", err)
	}
	return found
}

// wantBlobs wants none of the layers that are here to be asked for, and of blobs
// no more than a config and so many layers.
func wantBlobs(b *testing.B, asked, here []string, layers int) {
	b.Helper()
	blobs := 0
	for _, a := range asked {
		_, id, ok := strings.Cut(a, " blobs/sha256:")
		if !ok {
			continue
		}
		blobs++
		for _, path := range here {
			if filepath.Base(path) == id {
				b.Errorf("%s was asked for again", id)
			}
		}
	}
	if blobs != layers+1 {
		b.Errorf("%d blobs were asked for, want a config and %d layers: %v", blobs, layers, asked)
	}
}

// BenchmarkDisk is a VM's private disk of 10 GiB, against mke2fs.
func BenchmarkDisk(b *testing.B) {
	dir := b.TempDir()
	var ours, theirs []time.Duration
	for b.Loop() {
		for range 3 * rounds {
			path := filepath.Join(dir, "disk.img")
			start := time.Now()
			if err := rootfs.Empty(path, 10<<30); err != nil {
				b.Fatal(err)
			}
			ours = append(ours, time.Since(start))
			if err := os.Remove(path); err != nil {
				b.Fatal(err)
			}
			start = time.Now()
			if out, err := exec.Command("mke2fs", "-q", "-t", "ext4", path, "10G").CombinedOutput(); err != nil {
				b.Fatalf("mke2fs: %v: %s", err, out)
			}
			theirs = append(theirs, time.Since(start))
			if err := os.Remove(path); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ms(median(ours)), "disk-ms")
	b.ReportMetric(ms(median(ours))/ms(median(theirs)), "disk/mke2fs")
}
