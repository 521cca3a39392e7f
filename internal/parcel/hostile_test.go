package parcel

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// stream makes what a guest may send.
func stream(t *testing.T, headers ...tar.Header) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		h.ModTime = then
		if h.Typeflag == tar.TypeReg && h.Size == 0 {
			h.Size = 4
		}
		check(t, w.WriteHeader(&h))
		if h.Size > 0 {
			_, err := w.Write(bytes.Repeat([]byte("evil"), int(h.Size)/4))
			check(t, err)
		}
	}
	check(t, w.Close())
	return &b
}

func dirEntry(name string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}
}

func fileEntry(name string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}
}

func linkEntry(name, to string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to, Mode: 0o777}
}

func hard(name, to string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to, Mode: 0o777}
}

// What a hostile guest sends stays in the target, or is refused.
func TestHostile_10(t *testing.T) {
	t.Parallel()
	top := dirEntry("./")
	special := func(kind byte) tar.Header {
		return tar.Header{Name: "dev", Typeflag: kind, Mode: 0o666, Devmajor: 1, Devminor: 3}
	}
	sparseOf := func(text string) tar.Header {
		h := fileEntry("s")
		h.PAXRecords = map[string]string{sparseKey: text}
		return h
	}
	for name, tt := range map[string]struct {
		headers []tar.Header
		refused bool
	}{
		"up":                     {[]tar.Header{top, fileEntry("../../outside/x")}, true},
		"up, hidden":             {[]tar.Header{top, fileEntry("a/../../../outside/x")}, true},
		"absolute":               {[]tar.Header{top, fileEntry("/outside/x")}, false},
		"through a symlink":      {[]tar.Header{top, linkEntry("l", "../../outside"), fileEntry("l/x")}, true},
		"two symlinks":           {[]tar.Header{top, linkEntry("a", "."), linkEntry("a/b", "../../outside"), fileEntry("a/b/x")}, true},
		"absolute symlink":       {[]tar.Header{top, linkEntry("l", "OUTSIDE"), fileEntry("l/x")}, true},
		"onto a symlink":         {[]tar.Header{top, linkEntry("l", "OUTSIDE/secret"), fileEntry("l")}, false},
		"folder on a symlink":    {[]tar.Header{top, linkEntry("l", "OUTSIDE"), dirEntry("l/"), fileEntry("l/x")}, true},
		"symlink at the top":     {[]tar.Header{linkEntry(".", "OUTSIDE"), fileEntry("./x")}, true},
		"hard link up":           {[]tar.Header{top, hard("h", "../../outside/secret")}, true},
		"hard link, symlink":     {[]tar.Header{top, linkEntry("l", "OUTSIDE/secret"), hard("h", "l"), fileEntry("h")}, true},
		"hard link, folder":      {[]tar.Header{top, linkEntry("l", "OUTSIDE"), hard("h", "l/secret")}, true},
		"char device":            {[]tar.Header{top, special(tar.TypeChar)}, false},
		"block device":           {[]tar.Header{top, special(tar.TypeBlock)}, false},
		"pipe":                   {[]tar.Header{top, special(tar.TypeFifo)}, false},
		"setuid":                 {[]tar.Header{top, {Name: "s", Typeflag: tar.TypeReg, Mode: 0o7777}}, false},
		"long target":            {[]tar.Header{top, linkEntry("l", strings.Repeat("x", 500_000))}, true},
		"long name":              {[]tar.Header{top, fileEntry(strings.Repeat("x/", 5000) + "x")}, true},
		"holes out of order":     {[]tar.Header{top, sparseOf("100;50,2;10,2")}, true},
		"holes out of the file":  {[]tar.Header{top, sparseOf("100;99,4")}, true},
		"holes that overflow":    {[]tar.Header{top, sparseOf("9223372036854775807;9223372036854775806,4")}, true},
		"more holes than data":   {[]tar.Header{top, sparseOf("100;0,9")}, true},
		"a word for holes":       {[]tar.Header{top, sparseOf("evil")}, true},
		"a folder over the file": {[]tar.Header{top, fileEntry("f"), fileEntry("f/x")}, true},
		"the top again":          {[]tar.Header{top, fileEntry(".")}, true},
	} {
		for _, old := range []bool{false, true} { // the target is new, or was there before
			t.Run(fmt.Sprintf("%s, %v", name, old), func(t *testing.T) {
				t.Parallel()
				base := t.TempDir()
				outside := filepath.Join(base, "outside")
				check(t, os.Mkdir(outside, 0o755))
				check(t, os.WriteFile(outside+"/secret", []byte("secret"), 0o600))
				check(t, os.Mkdir(base+"/in", 0o755))
				if old {
					check(t, os.Mkdir(base+"/in/dst", 0o755))
				}
				headers := slices.Clone(tt.headers)
				for i := range headers {
					headers[i].Linkname = strings.Replace(headers[i].Linkname, "OUTSIDE", outside, 1)
				}
				_, err := Unpack(stream(t, headers...), Target{Path: base + "/in/dst", Name: ""})
				if (err != nil) != tt.refused {
					t.Errorf("error %v", err)
				}
				if got := lines(t, outside); len(got) != 1 || !strings.Contains(got[0], `"secret" 1`) {
					t.Errorf("outside is %q", got)
				}
				harmless(t, base)
			})
		}
	}
}

// harmless checks that there are no special files, no bits that raise rights,
// and nothing half made.
func harmless(t *testing.T, dir string) {
	t.Helper()
	check(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		kind := fi.Mode().Type()
		if kind&^(fs.ModeDir|fs.ModeSymlink) != 0 || fi.Mode()&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky) != 0 || strings.HasPrefix(d.Name(), ".banger-cp-") {
			t.Errorf("%s is %v", path, fi.Mode())
		}
		return nil
	}))
}

// In a folder with the user's own symlinks nothing is written through them.
func TestSymlinksThatWereThere(t *testing.T) {
	t.Parallel()
	dst, outside := t.TempDir(), t.TempDir()
	check(t, os.Symlink(outside, dst+"/way"))
	if _, err := Unpack(stream(t, dirEntry("./"), fileEntry("way/x")), Target{Path: dst}); err == nil {
		t.Error("a symlink was followed")
	}
	if got := lines(t, outside); len(got) != 0 {
		t.Errorf("written: %q", got)
	}
}

// A stream that ends early leaves nothing of a new folder and no half file.
func TestCutOff(t *testing.T) {
	t.Parallel()
	big := fileEntry("big")
	big.Size = 100_000
	whole := stream(t, dirEntry("./"), fileEntry("a"), big).Bytes()
	for _, cut := range []int{0, 100, 700, 2000, 50_000} {
		fresh, old := t.TempDir(), t.TempDir()
		check(t, os.WriteFile(old+"/big", []byte("old"), 0o600))
		_, err := Unpack(bytes.NewReader(whole[:cut]), Target{Path: fresh + "/new"})
		if got := lines(t, fresh); err == nil || len(got) != 0 {
			t.Errorf("%d: %q, %v", cut, got, err)
		}
		_, err = Unpack(bytes.NewReader(whole[:cut]), Target{Path: old})
		if err == nil || cut > 1600 && !strings.Contains(err.Error(), "a part of it is there") {
			t.Errorf("%d: %v", cut, err)
		}
		if b, _ := os.ReadFile(old + "/big"); string(b) != "old" {
			t.Errorf("%d: the old file is %.10q", cut, b)
		}
		harmless(t, old)
	}
}

// A few bytes do not become a file without end.
func TestBombs(t *testing.T) {
	t.Parallel()
	h := fileEntry("s")
	h.Size = 4
	h.PAXRecords = map[string]string{sparseKey: "4611686018427387904;0,4"}
	dst := t.TempDir()
	r, err := Unpack(stream(t, dirEntry("./"), h), Target{Path: dst})
	if err == nil && r.Bytes > 4 {
		t.Errorf("%+v", r)
	}
	// As GNU tar writes it: the size is a claim, for which package tar gives zeros.
	gnu := append(gnuSparse(t), make([]byte, 1024)...)
	r, err = Unpack(io.MultiReader(bytes.NewReader(stream(t, dirEntry("./")).Bytes()[:512]), bytes.NewReader(gnu)), Target{Path: dst})
	if err == nil || r.Bytes > 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// gnuSparse is the header of a file of 4 GiB that is one hole.
func gnuSparse(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	check(t, w.WriteHeader(&tar.Header{Name: "g", Typeflag: tar.TypeReg, Format: tar.FormatGNU}))
	h := b.Bytes()[:512]
	h[156] = tar.TypeGNUSparse
	copy(h[483:], "40000000000\x00")
	copy(h[148:156], "        ")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return h
}

func FuzzUnpack(f *testing.F) {
	f.Add([]byte("x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		check(t, os.Mkdir(dir+"/in", 0o755))
		_, _ = Unpack(bytes.NewReader(b), Target{Path: dir + "/in/dst"})
		if all, _ := filepath.Glob(dir + "/*"); len(all) != 1 {
			t.Errorf("written: %q", all)
		}
	})
}
