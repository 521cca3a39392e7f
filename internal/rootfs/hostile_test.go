package rootfs

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"banger"
)

// wantRefused builds layers that must fail with the kind and the text, and
// looks that nothing is left in the directory of the image.
func wantRefused(t testing.TB, layers []Layer, l Limits, kind banger.Kind, text string) {
	t.Helper()
	dir := t.TempDir()
	_, err := Build(t.Context(), filepath.Join(dir, "image"), layers, Options{Limits: l})
	var e *banger.Error
	if !errors.As(err, &e) || e.Kind != kind || !strings.Contains(e.Msg, text) {
		t.Errorf("got  %v\nwant kind %s and %q", err, kind, text)
	}
	wantEmpty(t, dir)
}

func wantEmpty(t testing.TB, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) > 0 {
		t.Errorf("%s was left behind", left[0].Name())
	}
}

// rawHeader is one ustar header with the fields as given, checksum right.
func rawHeader(name string, kind byte, fields map[int]string) []byte {
	b := make([]byte, 512)
	copy(b, name)
	copy(b[100:], "0000644\x000000000\x000000000\x0000000000000\x0000000000000\x00        ")
	b[156] = kind
	copy(b[257:], "ustar\x0000")
	for at, v := range fields {
		copy(b[at:], v)
	}
	sum := 0
	for i, c := range b {
		if i >= 148 && i < 156 {
			c = ' '
		}
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

func headerTar(t testing.TB, headers ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(w, neverEnding('x'), h.Size); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type neverEnding byte

func (n neverEnding) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(n)
	}
	return len(p), nil
}

func pax(name string, records map[string]string) *tar.Header {
	return &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, PAXRecords: records, Format: tar.FormatPAX}
}

// paxSparse is a sparse file of the PAX format 1.0, whose map claims one byte
// at the end of a file of the given size.
func paxSparse(t testing.TB, size int64) []byte {
	t.Helper()
	body := fmt.Sprintf("1\n%d\n1\n", size-1)
	body += strings.Repeat("\x00", 512-len(body)) + "x" + strings.Repeat("\x00", 511)
	records := ""
	for _, r := range []string{"GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=sparse", fmt.Sprintf("GNU.sparse.realsize=%d", size)} {
		n := len(r) + 4
		records += fmt.Sprintf("%d %s\n", n+len(fmt.Sprint(n))-2, r)
	}
	b := rawHeader("pax", 'x', map[int]string{124: fmt.Sprintf("%011o\x00", len(records))})
	b = append(b, records...)
	b = append(b, make([]byte, -len(b)&511)...)
	b = append(b, rawHeader("GNUSparseFile.0/sparse", '0', map[int]string{124: fmt.Sprintf("%011o\x00", 513)})...)
	return append(append(b, body...), make([]byte, 1024)...)
}

// paxBlock is an extended header that claims so many bytes, the first of which
// are text.
func paxBlock(size int, text string) []byte {
	b := rawHeader("pax", 'x', map[int]string{124: fmt.Sprintf("%011o\x00", size)})
	b = append(b, text...)
	return append(b, bytes.Repeat([]byte("x"), size-len(text))...)
}

// sparseMap is a sparse file of the PAX format 1.0 with the given map.
func sparseMap(t testing.TB, text string) []byte {
	t.Helper()
	b := paxSparse(t, 1<<20)
	end := 3 * 512 // of the headers
	size := (len(text) + 511) &^ 511
	b = append(b[:2*512:2*512], rawHeader("GNUSparseFile.0/sparse", '0', map[int]string{124: fmt.Sprintf("%011o\x00", size+512)})...)
	if len(b) != end {
		t.Fatalf("headers of %d bytes", len(b))
	}
	return append(append(b, text...), make([]byte, size-len(text)+3*512)...)
}

func TestHostile(t *testing.T) {
	whole := tarOf(t, "f a "+strings.Repeat("x", 5000), "f b "+strings.Repeat("y", 5000))
	acl := "\x02\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00"
	xattr := func(name, value string) []byte {
		return headerTar(t, pax("a", map[string]string{"SCHILY.xattr." + name: value}))
	}
	many := make([]string, 0, 101)
	for i := range 101 {
		many = append(many, fmt.Sprintf("f %d", i))
	}
	sized := func(n int64) []byte { return headerTar(t, &tar.Header{Name: "big", Typeflag: tar.TypeReg, Size: n}) }
	links := []string{"f a"}
	for i := range 10 {
		links = append(links, fmt.Sprintf("h l%d a", i))
	}
	for _, c := range []struct {
		name string
		tar  []byte
		l    Limits
		want string
	}{
		{"truncated contents", whole[:3000], Limits{}, `layer 1: entry "a": the tar is truncated`},
		{"truncated header", whole[:512+5120+100], Limits{}, "layer 1: after entry 1: the tar is truncated"},
		{"no tar", []byte(strings.Repeat("not a tar", 200)), Limits{}, "layer 1: after entry 0:"},
		{"sparse bomb", paxSparse(t, 1<<62), Limits{}, `entry "sparse": its 4611686018427387904 bytes are more than is left`},
		{"sparse above the limit", paxSparse(t, 2<<20), Limits{Bytes: 1 << 20}, "more than is left"},
		{"sparse map of ten million pieces", sparseMap(t, "10000000\n"+strings.Repeat("0\n0\n", 1<<20)), Limits{}, "layer 1: after entry 0:"},
		{"sparse map without an end", sparseMap(t, strings.Repeat("9", 4<<20)), Limits{}, "layer 1: after entry 0:"},
		{"sparse pieces that overlap", sparseMap(t, "2\n0\n512\n0\n512\n"), Limits{}, "layer 1: after entry 0:"},
		{"header of 4 MiB", paxBlock(4<<20, "4194304 comment="), Limits{}, "layer 1: after entry 0:"},
		{"header of 8 GiB", paxBlock(1<<20, "8589934591 comment=")[:600<<10], Limits{}, "layer 1: after entry 0:"},
		{"name of 4 MiB", append(rawHeader("././@LongLink", 'L', map[int]string{124: "00020000000\x00"}), bytes.Repeat([]byte("n"), 4<<20)...), Limits{}, "layer 1: after entry 0:"},
		{"negative size", rawHeader("a", '0', map[int]string{124: "\xff" + strings.Repeat("\xff", 11)}), Limits{}, "layer 1"},
		{"claimed size", rawHeader("a", '0', map[int]string{124: "77777777777\x00"}), Limits{Bytes: 1 << 20}, "more than is left"},
		{"too many bytes", sized(2 << 20), Limits{Bytes: 1 << 20}, "more than is left"},
		{"bytes after the end", append(tarOf(t, "f a"), make([]byte, 2<<20)...), Limits{Bytes: 1 << 20}, "the layers are larger than 1048576 bytes"},
		{"too many entries", tarOf(t, many...), Limits{Entries: 100}, `entry "100": the layers have more than 100 entries`},
		{"too many implied directories", tarOf(t, "f "+strings.Repeat("d/", 200)+"a"), Limits{Entries: 100}, "the image has more than 100 files"},
		{"too many names in memory", tarOf(t, "f "+strings.Repeat("n", 200)), Limits{Headers: 100}, "longer than 100 bytes"},
		{"too many hard links", tarOf(t, links...), Limits{Links: 10}, "more than 10 hard links"},
		{"long path", tarOf(t, "f aaaa/bbbb"), Limits{Path: 8}, "longer than 8 bytes"},
		{"deep path", tarOf(t, "f a/b/c/d"), Limits{Depth: 2}, "deeper than 2"},
		{"negative uid", headerTar(t, &tar.Header{Name: "a", Uid: -2, Format: tar.FormatGNU}), Limits{}, "owner -2:0"},
		{"uid of no one", headerTar(t, &tar.Header{Name: "a", Uid: 1<<32 - 1, Format: tar.FormatGNU}), Limits{}, "owner 4294967295:0"},
		{"huge gid", headerTar(t, &tar.Header{Name: "a", Gid: 1 << 40, Format: tar.FormatGNU}), Limits{}, "is not in 0..4294967294"},
		{"huge device", headerTar(t, &tar.Header{Name: "a", Typeflag: tar.TypeChar, Devmajor: 4096, Format: tar.FormatGNU}), Limits{}, "device number 4096:0"},
		{"unknown type", rawHeader("a", 'V', nil), Limits{}, `entry "a": type 'V' is not a file`},
		{"long attribute", xattr("user.a", strings.Repeat("x", 100)), Limits{Xattr: 99}, "longer than 99 bytes"},
		{"attribute that ext4 cannot hold", xattr("user.a", strings.Repeat("x", 4060)), Limits{}, "need more than the 4096 bytes"},
		{"attribute with a long name", xattr("user."+strings.Repeat("n", 256), "x"), Limits{}, "the name of extended attribute"},
		{"attribute without a name", xattr("user.", "x"), Limits{}, "the name of extended attribute"},
		{"ACL of a wrong length", xattr("system.posix_acl_access", acl[:11]), Limits{}, "is not a POSIX ACL"},
		{"ACL with a wrong tag", xattr("system.posix_acl_access", acl), Limits{}, "is not a POSIX ACL"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			wantRefused(t, []Layer{layerOf(c.tar)}, c.l, banger.Invalid, c.want)
		})
	}
	for name, layers := range map[string][][]string{
		"above the root":                {{"d d", "l d/a ../../../../etc"}, {"f d/a/x 1"}},
		"above the root, in one layer":  {{"l a ..", "f a/x 1"}},
		"above the root, then absolute": {{"l a /../etc"}, {"f a/x 1"}},
		"through another one":           {{"l a /", "l b a/../etc"}, {"f b/x 1"}},
		"for a whiteout":                {{"l a ../etc"}, {"f a/.wh.x"}},
		"for the target of a hard link": {{"l a ../etc", "f etc/x 1"}, {"h y a/x"}},
	} {
		t.Run("a symlink "+name, func(t *testing.T) {
			t.Parallel()
			var tars [][]byte
			for _, l := range layers {
				tars = append(tars, tarOf(t, l...))
			}
			wantRefused(t, layersOf(tars), Limits{}, banger.Invalid, "unsafe symlink")
		})
	}
	t.Run("too many layers", func(t *testing.T) {
		wantRefused(t, layersOf(make([][]byte, 128)), Limits{}, banger.Invalid, "the image has 128 layers, more than 127")
	})
}

// TestTypesKept lists entries that look odd and are legal.
func TestTypesKept(t *testing.T) {
	t.Parallel()
	var b []byte
	b = append(b, rawHeader("contiguous", '7', nil)...)
	b = append(b, rawHeader("old", 0, nil)...)
	b = append(b, rawHeader("stat", '0', map[int]string{100: "0100644\x00"})...)
	b = append(b, headerTar(t, pax("mac", map[string]string{"SCHILY.xattr.com.apple.provenance": "x", "SCHILY.xattr.user.empty": ""}),
		&tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "g", PAXRecords: map[string]string{"comment": "x"}},
		// More than an int32 has, and the last that is somebody: containerd's GO-2025-3528.
		&tar.Header{Name: "owned", Typeflag: tar.TypeReg, Uid: 1<<31 + 1, Gid: 1<<32 - 2, Format: tar.FormatGNU})...)
	_, files := mustBuild(t, b)
	if f := files["owned"]; f == nil || f.uid != 1<<31+1 || f.gid != 1<<32-2 {
		t.Errorf("owner %+v", f)
	}
	if len(files) != 6 {
		t.Errorf("got %q", list(files))
	}
	if got := files["stat"].mode; got != typeRegular|0o644 {
		t.Errorf("mode is %o", got)
	}
	if got := fmt.Sprint(files["mac"].xattrs); got != "map[1:empty:]" {
		t.Errorf("attributes are %s", got)
	}
}

func TestSparse(t *testing.T) {
	t.Parallel()
	m, files := mustBuild(t, paxSparse(t, 20<<20))
	f := files["sparse"]
	if f == nil || f.size != 20<<20 || f.data[20<<20-1] != 'x' || f.data[0] != 0 {
		t.Fatalf("got %v", f)
	}
	if f.blocks > 16 {
		t.Errorf("it takes %d blocks", f.blocks)
	}
	if n := m.sb[4:8]; n[2] != 0 {
		t.Errorf("the image has %x blocks for a file of holes", n)
	}
}

// fullDisk is a disk without room.
type fullDisk struct{}

func (fullDisk) WriteAt([]byte, int64) (int, error) {
	return 0, &os.PathError{Op: "write", Path: "image", Err: syscall.ENOSPC}
}

func TestDiskFull(t *testing.T) {
	t.Parallel()
	d := &dataWriter{w: fullDisk{}, lanes: newLanes(&allocator{next: 1, max: 1 << 20}, 0)}
	if _, err := d.add(3<<20, neverEnding('x')); !banger.IsKind(err, banger.Exhausted) {
		t.Errorf("contents: %v", err)
	}
	meta := blockWriter{w: fullDisk{}}
	_ = meta.put(1, []byte("x"))
	err := outputError("make disk", meta.flush())
	var e *banger.Error
	if !errors.As(err, &e) || e.Kind != banger.Exhausted || e.Hint == "" || !strings.HasPrefix(e.Msg, "make disk: write image") {
		t.Errorf("metadata: %v", err)
	}
}
