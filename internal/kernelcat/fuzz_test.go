package kernelcat

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"banger/internal/fetch"
)

// FuzzBundleTar unpacks any archive: nothing outside the bundle's folder is
// ever made or changed, what is in it is bounded, and no link of it leads out.
func FuzzBundleTar(f *testing.F) {
	for _, tt := range hostileTars() {
		f.Add(tarOf(f, tt.entries...))
	}
	archive, _ := goodBundle(f)
	f.Add(archive)
	f.Add(tarOf(f, entry{"kernel", 0, "\x7fELF"}, entry{"kernel.tar", 0, string(tarOf(f, entry{"lib/modules/6.1/a", 0, "x"}))}))
	f.Add(tarOf(f, entry{"modules/a", tar.TypeSymlink, "../../outside"}, entry{"modules/a/canary", 0, "evil"}))
	f.Add(tarOf(f, entry{"modules/a", tar.TypeSymlink, "b"}, entry{"modules/b", tar.TypeSymlink, "/"}, entry{"modules/a/tmp/evil", 0, "evil"}))
	f.Add(tarOf(f, entry{"modules/a", tar.TypeLink, "../outside/canary"}, entry{"modules/a", 0, "evil"}))
	f.Fuzz(func(t *testing.T, archive []byte) {
		archive = bytes.Clone(archive)
		repair(archive)
		b, dir := tempBundle(t)
		outside := filepath.Join(dir, "outside")
		if err := os.Mkdir(outside, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(outside, "canary"), []byte("canary"), 0o644); err != nil {
			t.Fatal(err)
		}
		err := b.addTar(bytes.NewReader(archive))
		if got := tree(t, outside); got != "canary" {
			t.Fatalf("outside: %s", got)
		}
		if text, err := os.ReadFile(filepath.Join(outside, "canary")); err != nil || string(text) != "canary" {
			t.Fatalf("the canary sings %q, %v", text, err)
		}
		if top, err := os.ReadDir(dir); err != nil || len(top) != 3 {
			t.Fatalf("beside the bundle: %v, %v", top, err)
		}
		size := boundedTree(t, filepath.Join(dir, "out"))
		if max := int64(len(archive)); size > max {
			t.Fatalf("%d bytes made of %d", size, max)
		}
		if err == nil && b.modulesSize > size {
			t.Errorf("modules have %d bytes, all has %d", b.modulesSize, size)
		}
		if err := b.empty(); err != nil {
			t.Error(err)
		}
		if left := tree(t, filepath.Join(dir, "out")); left != "" {
			t.Errorf("left: %s", left)
		}
	})
}

// repair makes the checksums of an archive's headers right, which a fuzzer has
// no chance to. Format: POSIX.1, pax, "ustar Interchange Format".
func repair(archive []byte) {
	const block, sizeOff, sumOff, sumLen = 512, 124, 148, 8
	for len(archive) >= block {
		h := archive[:block]
		copy(h[sumOff:], "        ")
		sum := 0
		for _, c := range h {
			sum += int(c)
		}
		copy(h[sumOff:sumOff+sumLen], fmt.Sprintf("%06o\x00 ", sum))
		size, _ := strconv.ParseUint(strings.Trim(string(h[sizeOff:sizeOff+12]), " \x00"), 8, 32)
		archive = archive[min(block+int(size+block-1)/block*block, len(archive)):]
	}
}

// boundedTree checks the files of a bundle, by their kinds and names, and
// returns the bytes in them. Hard links count once.
func boundedTree(t *testing.T, dir string) (size int64) {
	t.Helper()
	var seen []fs.FileInfo
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		first, below, _ := strings.Cut(name, "/")
		if first != modulesDir && (below != "" || first != vmlinuxFile && first != initrdFile) || badText(name) {
			t.Errorf("made %q", name)
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case fi.Mode().IsRegular():
			for _, s := range seen {
				if os.SameFile(s, fi) {
					return nil
				}
			}
			if fi.Sys() != nil {
				seen = append(seen, fi)
			}
			size += fi.Size()
		case fi.Mode().Type() == fs.ModeSymlink && first == modulesDir:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			if !path.IsAbs(target) && !filepath.IsLocal(path.Join(path.Dir(below), target)) {
				t.Errorf("link %q -> %q", name, target)
			}
		default:
			t.Errorf("made %q of mode %v", name, fi.Mode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return size
}

// FuzzCatalog reads any catalog: what is taken has entries that can be shown
// and pulled from, and reads the same when it is written again.
func FuzzCatalog(f *testing.F) {
	f.Add(builtin)
	sum := strings.Repeat("5a", 32)
	f.Add([]byte(`{"version": 1, "entries": [{"name": "k", "tarball_url": "../k.tar.zst", "tarball_sha256": "` + sum + `", "size_bytes": 5,
		"sources": [{"url": "https://example.org/k", "sha256": "` + sum + `"}, {"url": "oci://a/b:c"}, {"url": "deb://linux-image?suite=sid"}, {"url": "new://x", "more": 1}]}]}`))
	f.Add([]byte(`{"version": 1, "entries": [{"name": "../k"}]}`))
	f.Add([]byte(`{"version": 2}`))
	f.Add([]byte(`<html>`))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := ParseCatalog(text)
		if err != nil {
			return
		}
		again, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		same, err := ParseCatalog(again)
		if err != nil {
			t.Fatalf("its own text: %v", err)
		}
		if third, err := json.Marshal(same); err != nil || !bytes.Equal(again, third) {
			t.Errorf("%s\nreads as\n%s, %v", again, third, err)
		}
		for _, base := range []string{"https://example.org/kernels/catalog.json", "file:///srv/catalog.json"} {
			u, err := url.Parse(base)
			if err != nil {
				t.Fatal(err)
			}
			if c.Resolve(u) != nil {
				return
			}
			for _, e := range c.Entries {
				checkEntry(t, e, u)
			}
		}
	})
}

func checkEntry(t *testing.T, e CatEntry, base *url.URL) {
	t.Helper()
	if ValidateName(e.Name) != nil || badText(e.Distro+e.Arch+e.KernelVersion+e.Description+e.TarballURL) {
		t.Errorf("entry %+v", e)
	}
	sources, err := e.PullSources()
	if err != nil {
		return
	}
	for _, s := range sources {
		if s == nil || reflect.ValueOf(s).IsZero() || ValidateName(s.DefaultName()) != nil && s.DefaultName() != "" {
			t.Errorf("source %+v", s)
		}
		b, ok := s.(tarballSource)
		if !ok {
			continue
		}
		u, err := url.Parse(b.URL)
		if err != nil || !u.IsAbs() || !fetch.IsHexSHA256(b.SHA256) || b.Size < 0 || base.Scheme != "file" && u.Scheme == "file" {
			t.Errorf("source %+v, %v", b, err)
		}
	}
}
