package fetch

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger"
)

func TestPinned(t *testing.T) {
	content := bytes.Repeat([]byte("content"), 10_000)
	sum := fmt.Sprintf("%x", sha256.Sum256(content))
	dir := t.TempDir()
	file := filepath.Join(dir, "a.tar.zst")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer srv.Close()
	size := int64(len(content))
	for _, tt := range []struct {
		name string
		p    Pinned
		kind banger.Kind
		says string
	}{
		{"served", Pinned{URL: srv.URL + "/a.tar.zst", SHA256: sum, Size: size, Max: size}, "", ""},
		{"of this host", Pinned{URL: "file://" + file, SHA256: sum}, "", ""},
		{"another one", Pinned{URL: srv.URL + "/a.tar.zst", SHA256: strings.Repeat("0", 64)}, banger.Invalid, "its sha256 is " + sum},
		{"another one of this host", Pinned{URL: "file://" + file, SHA256: strings.Repeat("0", 64)}, banger.Invalid, "its sha256 is " + sum},
		{"longer", Pinned{URL: srv.URL + "/a.tar.zst", SHA256: sum, Size: size - 1}, banger.Invalid, "instead of"},
		{"longer of this host", Pinned{URL: "file://" + file, SHA256: sum, Size: size - 1}, banger.Invalid, "instead of"},
		{"too long", Pinned{URL: "file://" + file, SHA256: sum, Max: size - 1}, banger.Invalid, "more than"},
		{"not there", Pinned{URL: srv.URL + "/b", SHA256: sum}, banger.NotFound, ""},
		{"not on this host", Pinned{URL: "file://" + dir + "/b", SHA256: sum}, banger.NotFound, "there is no file"},
		{"folder", Pinned{URL: "file://" + dir, SHA256: sum}, banger.Invalid, "no regular file"},
		{"sent here", Pinned{URL: srv.URL + "/a.tar.zst", SHA256: sum, From: "https://example.org/catalog.json"}, banger.Unavailable, "nearer to this machine"},
	} {
		err := func() error {
			b, err := tt.p.Open(t.Context(), Client{})
			if err != nil {
				return Explain(t.Context(), "get it", err)
			}
			defer b.Close()
			// What is left is read by Verify.
			if _, err := io.ReadFull(b, make([]byte, 1000)); err != nil {
				return err
			}
			return b.Verify()
		}()
		switch {
		case tt.kind == "" && err != nil,
			tt.kind != "" && (!banger.IsKind(err, tt.kind) || !strings.Contains(err.Error(), tt.says)):
			t.Errorf("%s: got %v, want kind %q and %q", tt.name, err, tt.kind, tt.says)
		}
	}
}

func TestPinnedBound(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := Pinned{URL: "file://" + file}.Open(t.Context(), Client{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := io.Copy(io.Discard, b); err != nil {
		t.Fatal(err)
	}
	const most = inflationBase + maxInflation<<20
	if n, err := io.Copy(io.Discard, b.Bound(io.LimitReader(zeros{}, most))); err != nil || n != most {
		t.Errorf("%d bytes, %v", n, err)
	}
	if _, err := io.Copy(io.Discard, b.Bound(io.LimitReader(zeros{}, most+1))); !banger.IsKind(err, banger.Invalid) {
		t.Errorf("a byte more: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
