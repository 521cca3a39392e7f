package rootfs

import (
	"archive/tar"
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"banger"
)

// tarOf writes a layer from lines: "d name", "f name contents", "l name
// target" (symlink), "h name target" (hard link). A mode may follow the type,
// as in "d0700".
func tarOf(t testing.TB, lines ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, line := range lines {
		f := strings.SplitN(line+"  ", " ", 3)
		data := strings.TrimSpace(f[2])
		h := &tar.Header{Name: f[1], Mode: 0o644, ModTime: time.Unix(1000, 0), Format: tar.FormatPAX}
		if len(f[0]) > 1 {
			fmt.Sscanf(f[0][1:], "%o", &h.Mode)
		}
		switch f[0][0] {
		case 'd':
			h.Typeflag = tar.TypeDir
		case 'f':
			h.Typeflag, h.Size = tar.TypeReg, int64(len(data))
		case 'l':
			h.Typeflag, h.Linkname = tar.TypeSymlink, data
		case 'h':
			h.Typeflag, h.Linkname = tar.TypeLink, data
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			w.Write([]byte(data))
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// list describes the files of an image like the lines of tarOf, sorted. Names
// of one file beyond the first become hard links.
func list(files map[string]*file) []string {
	var out []string
	first := map[uint32]string{}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		f := files[name]
		if name == "." {
			continue
		}
		switch target, seen := first[f.number]; {
		case seen:
			out = append(out, "h "+name+" "+target)
		case f.mode&typeMask == typeDir:
			out = append(out, "d "+name)
		case f.mode&typeMask == typeSymlink:
			out = append(out, "l "+name+" "+string(f.data))
		default:
			out = append(out, "f "+name+" "+string(f.data))
		}
		first[f.number] = name
	}
	return out
}

func lines(s ...string) []string { return s }

var merges = []struct {
	name   string
	layers [][]string
	want   []string
}{
	{"files of all layers are there", [][]string{{"f a 1"}, {"f b 2"}}, lines("f a 1", "f b 2")},
	{"the upper file wins", [][]string{{"f a 1"}, {"f a 2"}}, lines("f a 2")},
	{"the last duplicate wins", [][]string{{"f a 1", "f a 2", "f a 3"}}, lines("f a 3")},
	{"names are cleaned", [][]string{{"f ./a 1", "f /b 2", "d ./c/", "f c//d 3", "f c/./e/../f 4"}},
		lines("f a 1", "f b 2", "d c", "f c/d 3", "f c/f 4")},
	{"missing parents are made", [][]string{{"f a/b/c 1"}}, lines("d a", "d a/b", "f a/b/c 1")},

	{"a whiteout removes a file", [][]string{{"f a 1", "f b 2"}, {"f .wh.a"}}, lines("f b 2")},
	{"a whiteout removes a directory", [][]string{{"d a", "f a/b 1"}, {"f .wh.a"}}, lines()},
	{"a whiteout spares its own layer", [][]string{{"f a 1"}, {"f a 2", "f .wh.a"}}, lines("f a 2")},
	{"a whiteout before the new file", [][]string{{"f a 1"}, {"f .wh.a", "f a 2"}}, lines("f a 2")},
	{"a whiteout of nothing", [][]string{{"f a 1"}, {"f x/.wh.y", "f .wh.z"}}, lines("f a 1")},
	{"a whiteout in a directory", [][]string{{"f d/a 1", "f d/b 2"}, {"f d/.wh.a"}}, lines("d d", "f d/b 2")},
	{"a whiteout of a symlink", [][]string{{"f a 1", "l s a"}, {"f .wh.s"}}, lines("f a 1")},
	{"a whiteout, then a directory again", [][]string{{"f d/a 1"}, {"f .wh.d", "f d/b 2"}}, lines("d d", "f d/b 2")},
	{"opaque before its siblings", [][]string{{"f d/a 1"}, {"f d/.wh..wh..opq", "f d/b 2"}}, lines("d d", "f d/b 2")},
	{"opaque after its siblings", [][]string{{"f d/a 1", "f d/b 1"}, {"d d", "f d/b 2", "f d/.wh..wh..opq"}}, lines("d d", "f d/b 2")},
	{"opaque root", [][]string{{"f a 1"}, {"f .wh..wh..opq", "f b 2"}}, lines("f b 2")},
	{"opaque in a third layer", [][]string{{"f d/a 1"}, {"f d/b 2"}, {"f d/.wh..wh..opq"}}, lines("d d")},
	{"names of AUFS are skipped", [][]string{{"d .wh..wh.plnk", "f .wh..wh.plnk/1.2 x", "f .wh..wh.aufs", "f a 1"}}, lines("f a 1")},

	{"a directory header keeps children", [][]string{{"d d", "f d/a 1"}, {"d0700 d"}}, lines("d d", "f d/a 1")},
	{"a file replaces a directory", [][]string{{"f d/a 1"}, {"f d 2"}}, lines("f d 2")},
	{"a symlink replaces a directory", [][]string{{"f d/a 1"}, {"l d /x"}}, lines("l d /x")},
	{"a directory replaces a file", [][]string{{"f a 1"}, {"d a"}}, lines("d a")},
	{"an implicit directory replaces a lower file", [][]string{{"f a 1"}, {"f a/b 2"}}, lines("d a", "f a/b 2")},

	{"hard links share", [][]string{{"f a 1", "h b a"}}, lines("f a 1", "h b a")},
	{"a hard link to a lower file", [][]string{{"f a 1"}, {"h b a"}}, lines("f a 1", "h b a")},
	{"a replaced target leaves the old contents", [][]string{{"f t1 OLD", "h t2 t1"}, {"f t1 NEW"}}, lines("f t1 NEW", "f t2 OLD")},
	{"a removed target leaves the link", [][]string{{"f u1 OLD", "h u2 u1"}, {"f .wh.u1"}}, lines("f u2 OLD")},
	{"a target that a later whiteout of the layer removes", [][]string{{"f d/a 1"}, {"h b d/a", "f d/.wh.a"}}, lines("f b 1", "d d")},
	{"a target in a directory that goes", [][]string{{"f d/a 1"}, {"h b d/a", "f .wh.d"}}, lines("f b 1")},
	{"a link replaced between layers", [][]string{{"f a 1", "h b a"}, {"f b 2"}}, lines("f a 1", "f b 2")},
	{"a hard link to a symlink is the symlink", [][]string{{"l s x", "h t s"}}, lines("l s x", "h t s")},
	{"hard link targets are cleaned", [][]string{{"f d/a 1", "h b ./d/a", "h c /d/a"}}, lines("f b 1", "h c b", "d d", "h d/a c")},
	{"a hard link through a symlink", [][]string{{"f usr/lib/a 1", "l lib usr/lib"}, {"h b lib/a"}},
		lines("f b 1", "l lib usr/lib", "d usr", "d usr/lib", "h usr/lib/a b")},
	{"a hard link to itself", [][]string{{"f a 1", "h a a"}}, lines("f a 1")},

	{"an implicit parent follows a symlink", [][]string{{"d usr/lib", "l lib usr/lib"}, {"f lib/x 1"}},
		lines("l lib usr/lib", "d usr", "d usr/lib", "f usr/lib/x 1")},
	{"an absolute symlink stays inside", [][]string{{"l a /etc"}, {"f a/x 1"}}, lines("l a /etc", "d etc", "f etc/x 1")},
	{"a symlink that climbs to the root stays inside", [][]string{{"d d", "l d/a ../etc"}, {"f d/a/x 1"}},
		lines("d d", "l d/a ../etc", "d etc", "f etc/x 1")},
	{"a symlink above the root that nothing is below is content", [][]string{{"l a ../../etc", "l b /../etc"}}, lines("l a ../../etc", "l b /../etc")},
	{"symlinks to symlinks", [][]string{{"d real", "l b real", "l a /b"}, {"f a/x 1"}}, lines("l a /b", "l b real", "d real", "f real/x 1")},
	{"a whiteout through a symlink", [][]string{{"f usr/lib/x 1", "l lib usr/lib"}, {"f lib/.wh.x"}}, lines("l lib usr/lib", "d usr", "d usr/lib")},
	{"a directory header replaces a symlink", [][]string{{"f usr/lib/x 1", "l lib usr/lib"}, {"d lib", "f lib/y 2"}},
		lines("d lib", "f lib/y 2", "d usr", "d usr/lib", "f usr/lib/x 1")},
	{"a whiteout in a directory that replaces a symlink", [][]string{{"f usr/lib/x 1", "l lib usr/lib"}, {"d lib", "f lib/.wh.x"}},
		lines("d lib", "d usr", "d usr/lib", "f usr/lib/x 1")},
	{"a chain within one layer stays inside", [][]string{{"l a /etc", "l a/b /root", "f a/b/x 1"}},
		lines("l a /etc", "d etc", "l etc/b /root", "d root", "f root/x 1")},

	{"climbing names stay inside", [][]string{{"f ../../etc/passwd 1", "f /../b 2", "h c ../../b"}},
		lines("f b 2", "h c b", "d etc", "f etc/passwd 1")},
}

func TestMerge(t *testing.T) {
	for _, c := range merges {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var layers [][]byte
			for _, l := range c.layers {
				layers = append(layers, tarOf(t, l...))
			}
			_, files := mustBuild(t, layers...)
			if got := list(files); !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

// TestMergeMetadata looks at what the lists above leave out.
func TestMergeMetadata(t *testing.T) {
	t.Parallel()
	lower := tarOf(t, "d0711 .", "d0700 keep", "f keep/a 1", "d0700 new", "f new/b 2")
	upper := tarOf(t, "f keep/c 3", "d0750 new", "f implicit/d 4")
	_, files := mustBuild(t, lower, upper)
	for name, want := range map[string]uint32{".": 0o711, "keep": 0o700, "new": 0o750, "implicit": 0o755} {
		if got := files[name].mode & 0o7777; got != want {
			t.Errorf("%s has mode %o, want %o", name, got, want)
		}
	}
	for name, want := range map[string]int64{"keep": 1000, "implicit": 0} {
		if got := files[name].mtime.Unix(); got != want {
			t.Errorf("%s has time %d, want %d", name, got, want)
		}
	}
	if got := files["."].links; got != 5 {
		t.Errorf("the root has %d links, want 5", got)
	}
}

// refused are layers that Build must not accept, with a piece of the error.
var refused = []struct {
	name   string
	layers [][]string
	want   string
}{
	{"no layers", nil, "no layers"},
	{"root is a symlink", [][]string{{"l . /etc", "f passwd x"}}, `layer 1: entry "": the root of the image is not a directory`},
	{"slash is a symlink", [][]string{{"l / /etc", "f passwd x"}}, "the root of the image is not a directory"},
	{"root is a file", [][]string{{"f a/.. 1"}}, "the root of the image is not a directory"},
	{"hard link to nothing", [][]string{{"f a 1"}, {"h b x"}}, `layer 2: entry "b": hard link to "x", which does not exist`},
	{"hard link to a removed file", [][]string{{"f a 1"}, {"f .wh.a", "h b a"}}, `hard link to "a", which does not exist`},
	{"hard link to a directory", [][]string{{"d a", "h b a"}}, "which is a directory"},
	{"hard link to the root", [][]string{{"h b /"}}, "which does not exist"},
	{"hard link in place of the root", [][]string{{"f a 1", "h / a"}}, "the root of the image is not a directory"},
	{"a file is a parent", [][]string{{"f a 1", "f a/b 2"}}, `its parent "a" is not a directory`},
	{"symlink loop", [][]string{{"l a b", "l b a", "f a/x 1"}}, "more than 40 symlinks"},
	{"symlink to itself", [][]string{{"l a a/a", "f a/x 1"}}, "more than 40 symlinks"},
	{"whiteout of dot", [][]string{{"f .wh.."}}, "the whiteout names no file"},
	{"whiteout of dot dot", [][]string{{"f a/.wh..."}}, "the whiteout names no file"},
	{"whiteout of nothing", [][]string{{"f .wh."}}, "the whiteout names no file"},
	{"whiteout as a directory", [][]string{{"f .wh.a/b 1"}}, "reserved for whiteouts"},
	{"long component", [][]string{{"f " + strings.Repeat("n", 256)}}, "longer than 255 bytes"},
	{"long path", [][]string{{"f " + strings.Repeat("1234567/", 600) + "a"}}, "longer than 4096 bytes"},
	{"deep path", [][]string{{"f " + strings.Repeat("d/", 257) + "a"}}, "deeper than 256"},
	{"deep through a symlink", [][]string{{"d " + strings.Repeat("d/", 200), "l s " + strings.Repeat("d/", 200), "f s/" + strings.Repeat("e/", 100) + "a"}}, "deeper than 256"},
	{"long component by a symlink", [][]string{{"l s " + strings.Repeat("n", 300), "f s/a 1"}}, "longer than 255 bytes"},
	{"symlink without a target", [][]string{{"l a"}}, "the target of the symlink"},
	{"symlink with a long target", [][]string{{"l a " + strings.Repeat("x", 4096)}}, "the target of the symlink"},
}

func TestMergeRefused(t *testing.T) {
	for _, c := range refused {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var layers [][]byte
			for _, l := range c.layers {
				layers = append(layers, tarOf(t, l...))
			}
			wantRefused(t, layersOf(layers), Limits{}, banger.Invalid, c.want)
		})
	}
}
