package daemon

import (
	"archive/tar"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// registry is a registry on loopback with one image of one layer.
// Format: OCI distribution-spec v1.1 and image-spec v1.1.
type registry struct {
	host string
	arch string // of the image, default the host's
	mu   sync.Mutex
	blob map[string][]byte // by digest
	last string            // the manifest's digest
	cut  bool              // layers end too early
	gets map[string]int    // how often each was asked for
	more int               // bytes that the file has besides
	part map[string][]byte // what is being pushed, by session

	front func(w http.ResponseWriter, req *http.Request, layer []byte) bool // answers requests for the layer itself
}

func newRegistry(t *testing.T, what string) *registry {
	r := &registry{}
	r.serve(what)
	srv := httptest.NewServer(r)
	t.Cleanup(srv.Close)
	r.host = strings.TrimPrefix(srv.URL, "http://")
	return r
}

// serve puts another image behind the tag: its one file says what it is.
func (r *registry) serve(what string) {
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	text := "this is " + what + strings.Repeat("\n", 4096+r.more)
	_ = w.WriteHeader(&tar.Header{Name: "file", Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text))})
	_, _ = w.Write([]byte(text))
	_ = w.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.blob = map[string][]byte{}
	arch := cmp.Or(r.arch, map[string]string{"x86_64": "amd64", "aarch64": "arm64"}[hostArch()])
	put := func(mediaType string, v any) map[string]any {
		b, ok := v.([]byte)
		if !ok {
			b, _ = json.Marshal(v)
		}
		sum := sha256.Sum256(b)
		r.last = "sha256:" + hex.EncodeToString(sum[:])
		r.blob[r.last] = b
		return map[string]any{"mediaType": mediaType, "digest": r.last, "size": len(b)}
	}
	blob := put("application/vnd.oci.image.layer.v1.tar", layer.Bytes())
	config := put("application/vnd.oci.image.config.v1+json", map[string]any{
		"architecture": arch, "os": "linux", "config": map[string]any{"User": what},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []any{blob["digest"]}},
	})
	put(manifestType, map[string]any{"schemaVersion": 2, "mediaType": manifestType, "config": config, "layers": []any{blob}})
}

const manifestType = "application/vnd.oci.image.manifest.v1+json"

func (r *registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	front, layer := r.front, r.blob[req.URL.Path[strings.LastIndexByte(req.URL.Path, '/')+1:]]
	r.mu.Unlock()
	if front != nil && len(layer) > 4096 && front(w, req, layer) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	_, name, _ := strings.Cut(strings.TrimPrefix(req.URL.Path, "/v2/some/thing/"), "/")
	if strings.Contains(req.URL.Path, "/manifests/") {
		w.Header().Set("Content-Type", manifestType)
		w.Header().Set("Docker-Content-Digest", r.last)
		name = r.last
	}
	b, ok := r.blob[name]
	switch {
	case r.upload(w, req):
	case req.URL.Path == "/v2/":
	case !ok:
		http.NotFound(w, req)
	default:
		w.Header().Set("Content-Length", fmt.Sprint(len(b)))
		if r.cut && len(b) > 4096 { // the layer: the connection breaks in the middle of it
			b = b[:4096]
		}
		if req.Method != http.MethodHead {
			if r.gets == nil {
				r.gets = map[string]int{}
			}
			r.gets[name]++
			_, _ = w.Write(b)
		}
	}
}

// upload takes what is pushed; manifests can be pulled by any tag then.
// Format: OCI distribution-spec v1.1, "Push".
func (r *registry) upload(w http.ResponseWriter, req *http.Request) bool {
	name := req.URL.Path[strings.LastIndexByte(req.URL.Path, '/')+1:]
	body, err := io.ReadAll(req.Body)
	sum := sha256.Sum256(body)
	switch {
	case err != nil:
		w.WriteHeader(http.StatusBadRequest)
		return true
	case req.Method == http.MethodPost:
		w.Header().Set("Location", fmt.Sprintf("%ssession-%d", req.URL.Path, len(r.part)))
		if r.part == nil {
			r.part = map[string][]byte{}
		}
		r.part[fmt.Sprintf("session-%d", len(r.part))] = nil
	case req.Method == http.MethodPatch:
		r.part[name] = body
		w.Header().Set("Location", req.URL.Path)
	case req.Method == http.MethodPut && strings.Contains(req.URL.Path, "/manifests/"):
		r.last = "sha256:" + hex.EncodeToString(sum[:])
		r.blob[r.last] = body
		w.WriteHeader(http.StatusCreated)
		return true
	case req.Method == http.MethodPut && strings.HasPrefix(name, "session-"):
		r.blob[req.URL.Query().Get("digest")] = r.part[name]
		w.WriteHeader(http.StatusCreated)
		return true
	default:
		return false
	}
	w.WriteHeader(http.StatusAccepted)
	return true
}
