package oci

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger"
)

func write(t *testing.T, cache, data string) Blob {
	t.Helper()
	b, err := WriteBlob(t.Context(), cache, func(w io.Writer) error {
		_, err := io.WriteString(w, data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A layer that was made is read back verified, like a pulled one.
func TestWriteBlob(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	data := strings.Repeat("layer ", 1000)
	b := write(t, cache, data)
	if again := write(t, cache, data); again != b {
		t.Errorf("the same tar gives %+v and %+v", b, again)
	}
	read := func() (string, error) {
		r, err := b.Layer(cache).Open(t.Context())
		if err != nil {
			return "", err
		}
		defer r.Close()
		text, err := io.ReadAll(r)
		return string(text), err
	}
	if text, err := read(); text != data || err != nil || !b.Here(cache) || b.Size >= int64(len(data)) {
		t.Errorf("%d bytes, %v, %+v", len(text), err, b)
	}
	path := blobPath(cache, b.Digest)
	damaged, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damaged[len(damaged)/2] ^= 1
	if err := os.WriteFile(path, damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := read(); !banger.IsKind(err, banger.NotFound) {
		t.Errorf("damaged: %v", err)
	}
	if b.Here(cache) {
		t.Error("it is still there")
	}
}

func TestWriteBlobFails(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	mine := errors.New("mine")
	if _, err := WriteBlob(t.Context(), cache, func(io.Writer) error { return mine }); !errors.Is(err, mine) {
		t.Error(err)
	}
	limit := &boundedWriter{w: io.Discard, left: 10}
	if _, err := io.Copy(limit, strings.NewReader(strings.Repeat("x", 11))); err == nil || limit.left >= 0 {
		t.Error("more than the limit is taken")
	}
	if left, _ := filepath.Glob(filepath.Join(cache, "sha256", "*")); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	for _, bad := range []Blob{{}, {Digest: "sha256:../../x", DiffID: "sha256:" + strings.Repeat("0", 64)}} {
		if bad.Here(cache) {
			t.Errorf("%+v is there", bad)
		}
	}
}

// An image that is put together is one that is read again, with the layers and
// the history of its base first.
func TestCompose(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	one, two := write(t, cache, "one"), write(t, cache, "two")
	when := time.Unix(1_700_000_000, 0)
	base, err := Compose(cache, Composition{Created: when, Config: map[string]any{"User": "me"}, Layers: []Blob{one},
		Steps: []BuildStep{{By: "first"}}})
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := BlobsOf(base.RawManifest, base.RawConfig)
	if err != nil || len(blobs) != 1 || blobs[0] != one {
		t.Fatalf("%+v, %v", blobs, err)
	}
	im, err := Compose(cache, Composition{Created: when, Config: map[string]any{"User": "you", "Labels": map[string]string{"k": "v"}},
		Base: base.RawConfig, Layers: append(blobs, two), Steps: []BuildStep{{By: "second", Empty: true}, {By: "third"}}})
	if err != nil {
		t.Fatal(err)
	}
	if im.Config.User != "you" || len(im.Layers) != 2 || im.Digest != digestOfBytes(im.RawManifest) || Labels(im.RawConfig)["k"] != "v" {
		t.Errorf("%+v", im)
	}
	steps, err := History(im.RawConfig, []banger.ImageLayer{{DiffID: one.DiffID}, {DiffID: two.DiffID}})
	if err != nil || len(steps) != 3 || steps[0].By != "first" || steps[0].Layer != one.DiffID || steps[1].Layer != "" || steps[2].Layer != two.DiffID {
		t.Errorf("%+v, %v", steps, err)
	}
	docker := bytes.ReplaceAll(base.RawManifest, []byte(one.MediaType), []byte("application/vnd.docker.image.rootfs.diff.tar.gzip"))
	if blobs, err = BlobsOf(docker, base.RawConfig); err != nil || blobs[0].MediaType != "application/vnd.oci.image.layer.v1.tar+gzip" {
		t.Errorf("%+v, %v", blobs, err)
	}
}
