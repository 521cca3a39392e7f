package rootfs

import (
	"archive/tar"
	"bytes"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"banger"
)

// layer makes a tar of lines: "d NAME", "f NAME DATA", "l NAME TARGET", "h NAME TARGET".
func layerTar(t *testing.T, lines ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, line := range lines {
		f := append(strings.SplitN(line, " ", 3), "")
		h := &tar.Header{Name: f[1], Mode: 0o644, Typeflag: tar.TypeReg, Size: int64(len(f[2]))}
		switch f[0] {
		case "d":
			h.Typeflag, h.Mode, h.Size = tar.TypeDir, 0o755, 0
		case "l":
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, f[2], 0
		case "h":
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, f[2], 0
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write([]byte(f[2])); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A view of a base with layers shows what the image of both would hold.
func TestView(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "base.img")
	base := layerTar(t, "d usr/bin", "f usr/bin/sh x", "l bin usr/bin", "d old/deep", "f old/deep/f x", "d opq", "f opq/a x",
		"f etc/passwd root:x:0:0::/root:/bin/sh\n", "l loop loop", "l out ../../../usr", "l dangling /nowhere/x")
	if _, err := Build(t.Context(), path, []Layer{layerOf(base)}, Options{Workers: 1}); err != nil {
		t.Fatal(err)
	}
	v := NewView(openTree(t, path))
	for _, l := range [][]byte{
		layerTar(t, "f .wh.old ", "f opq/.wh..wh..opq ", "f opq/b y", "f new/made/file y", "h hard usr/bin/sh"),
		layerTar(t, "f old/again z", "f etc/passwd me:x:7:8::/:/bin/sh\n", "l usr/bin/link sh"),
	} {
		if err := v.Apply(t.Context(), bytes.NewReader(l)); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name, at string
		kind     byte // 0: nothing is there
	}{
		{"/", "", tar.TypeDir},
		{"/bin/sh", "usr/bin/sh", tar.TypeReg},
		{"/bin/link", "usr/bin/sh", tar.TypeReg},
		{"/bin/none/x", "usr/bin/none/x", 0},
		{"old/deep/f", "old/deep/f", 0},
		{"old/again", "old/again", tar.TypeReg},
		{"opq/a", "opq/a", 0},
		{"opq/b", "opq/b", tar.TypeReg},
		{"new/made", "new/made", tar.TypeDir},
		{"hard", "hard", tar.TypeReg},
		{"out/bin/sh", "usr/bin/sh", tar.TypeReg},
		{"dangling", "nowhere/x", 0},
		{"../../bin", "usr/bin", tar.TypeDir},
	} {
		at, h, err := v.Resolve(tt.name)
		kind := byte(0)
		if h != nil {
			kind = h.Typeflag
		}
		if err != nil || at != tt.at || kind != tt.kind {
			t.Errorf("%s: %q %c %v, want %q %c", tt.name, at, kind, err, tt.at, tt.kind)
		}
	}
	for _, name := range []string{"loop", "usr/bin/sh/x"} {
		if _, _, err := v.Resolve(name); !banger.IsKind(err, banger.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if b, err := v.ReadFile("/etc/passwd"); string(b) != "me:x:7:8::/:/bin/sh\n" {
		t.Errorf("passwd: %q, %v", b, err)
	}
}

// What is placed goes through the symlinks of the tree, and brings no directory
// along that is there.
func TestPlacer(t *testing.T) {
	t.Parallel()
	v := NewView(nil)
	if err := v.Apply(t.Context(), bytes.NewReader(layerTar(t, "d usr/bin", "l bin usr/bin", "f file x", "l abs /usr"))); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	p := NewPlacer(v, &b)
	put := func(dir, name, data string) error {
		at, err := p.MkdirAll(dir, Owner{UID: 5})
		if err != nil {
			return err
		}
		return p.Put(filepath.Join(at, name), &tar.Header{Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(data))}, strings.NewReader(data))
	}
	for _, f := range [][3]string{{"/bin", "tool", "1"}, {"/abs/lib/x", "y", "2"}, {"/bin", "tool", "3"}, {"/", "abs2", "4"}} {
		if err := put(f[0], f[1], f[2]); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range [][2]string{{"/file/x", "y"}, {"/", "usr"}} {
		if err := put(f[0], f[1], ""); !banger.IsKind(err, banger.Invalid) {
			t.Errorf("%v: %v", f, err)
		}
	}
	for target, ok := range map[string]bool{"file": true, "/bin": true, "none": false, "usr": false, "file/x": false, "../file": true} {
		v := NewView(nil)
		if err := v.Apply(t.Context(), bytes.NewReader(layerTar(t, "d usr/bin", "l bin usr/bin", "f file x"))); err != nil {
			t.Fatal(err)
		}
		err := NewPlacer(v, io.Discard).Put("link", &tar.Header{Typeflag: tar.TypeLink, Linkname: target}, nil)
		if ok != (err == nil) || !ok && !banger.IsKind(err, banger.Invalid) {
			t.Errorf("a hard link to %q: %v", target, err)
		}
	}
	if err := put("/", ".wh.x", ""); !banger.IsKind(err, banger.Unsupported) {
		t.Errorf("a whiteout: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	got := strings.Join(described(t, b.Bytes()), "\n")
	want := strings.Join([]string{`0 0755 0:0 usr/bin/tool "1"`, "5 0755 5:0 usr/lib/", "5 0755 5:0 usr/lib/x/", `0 0755 0:0 usr/lib/x/y "2"`,
		`0 0755 0:0 usr/bin/tool "3"`, `0 0755 0:0 abs2 "4"`}, "\n")
	if got != want || p.Count() != 6 {
		t.Errorf("%d entries:\n%s\nwant\n%s", p.Count(), got, want)
	}
}
