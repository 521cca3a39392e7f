package rootfs

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"banger/internal/hostcmd"
)

// randomTree makes layers of few names, so that they meet: in the form of the
// lines of tarOf. It knows roughly what there is, so that most of them are sound.
type randomTree struct {
	*rand.Rand
	kinds map[string]byte // of what is there: d, f or l
	layer *[]string       // names of the present layer
}

func randomLayers(seed uint64) [][]string {
	r := randomTree{rand.New(rand.NewPCG(seed, seed)), map[string]byte{}, &[]string{}}
	layers := make([][]string, 2+r.IntN(3))
	for i := range layers {
		*r.layer = nil
		for len(layers[i]) < 3+r.IntN(10) {
			if line := r.entry(i > 0); line != "" {
				layers[i] = append(layers[i], line)
			}
		}
	}
	return layers
}

// entry makes one line, or none.
func (r randomTree) entry(hides bool) string {
	names := []string{"a", "b", "c", "d", "a/b", "a/c", "b/a", "b/c", "a/b/c", "a/b/d", "c/a/b", "d/d/d"}
	name := names[r.IntN(len(names))]
	dir, base := splitName(name)
	linked := false
	for up := dir; up != ""; up, _ = splitName(up) {
		k := r.kinds[up]
		if k == 'f' || k == 'l' && r.IntN(3) > 0 {
			return ""
		}
		linked = linked || k == 'l'
	}
	if dir != "" {
		dir += "/"
	}
	*r.layer = append(*r.layer, name)
	// What hides a folder that the same layer has written into, without a header
	// for it, leaves open what becomes of its mode: OCI does not say.
	used := slices.ContainsFunc((*r.layer)[:len(*r.layer)-1], func(n string) bool { return n == name || strings.HasPrefix(n, name+"/") })
	put := func(kind byte, line string) string {
		if kind != 'd' {
			r.forget(name)
		}
		r.kinds[name] = kind
		return line
	}
	switch n := r.IntN(20); {
	case n < 8:
		return put('f', fmt.Sprintf("f%04o %s contents-%d", 0o600+r.IntN(0o200), name, r.IntN(1000)))
	case n < 11:
		return put('d', fmt.Sprintf("d%04o %s", 0o700+r.IntN(0o100), name))
	case n < 13:
		target := []string{"a", "b", "/b", "../a", "c/a", "nowhere"}[r.IntN(6)]
		if dir == "" {
			target = strings.TrimPrefix(target, "../") // umoci stays at the root, we refuse it
		}
		return put('l', "l "+name+" "+target)
	case n < 15:
		for _, target := range slices.Sorted(maps.Keys(r.kinds)) {
			if k := r.kinds[target]; k != 'd' && target != name && r.IntN(2) == 0 {
				return put(k, "h "+name+" "+target)
			}
		}
	case n < 18 && hides && !used && !linked:
		r.forget(name)
		return "f " + dir + ".wh." + base
	case n >= 18 && hides && !used && r.kinds[name] == 'd':
		r.forget(name)
		return put('d', "f "+name+"/.wh..wh..opq")
	}
	return ""
}

func (r randomTree) forget(name string) {
	maps.DeleteFunc(r.kinds, func(n string, _ byte) bool { return n == name || strings.HasPrefix(n, name+"/") })
}

// writeLayout writes an OCI layout with one image, "x", of plain layers.
func writeLayout(t testing.TB, dir string, layers [][]byte) {
	t.Helper()
	type object = map[string]any
	blob := func(mediaType string, b []byte) object {
		sum := fmt.Sprintf("%x", sha256.Sum256(b))
		if err := os.WriteFile(filepath.Join(dir, "blobs/sha256", sum), b, 0o600); err != nil {
			t.Fatal(err)
		}
		return object{"mediaType": mediaType, "digest": "sha256:" + sum, "size": len(b)}
	}
	document := func(v object) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if err := os.MkdirAll(filepath.Join(dir, "blobs/sha256"), 0o700); err != nil {
		t.Fatal(err)
	}
	var list []object
	var ids []any
	for _, b := range layers {
		d := blob("application/vnd.oci.image.layer.v1.tar", b)
		list, ids = append(list, d), append(ids, d["digest"])
	}
	config := blob("application/vnd.oci.image.config.v1+json", document(object{"architecture": "amd64", "os": "linux",
		"config": object{}, "rootfs": object{"type": "layers", "diff_ids": ids}}))
	manifest := blob("application/vnd.oci.image.manifest.v1+json", document(object{"schemaVersion": 2, "config": config, "layers": list}))
	manifest["annotations"] = object{"org.opencontainers.image.ref.name": "x"}
	for name, b := range map[string][]byte{"index.json": document(object{"schemaVersion": 2, "manifests": []object{manifest}}),
		"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// listUnpacked describes a directory as list does an image, with modes.
func listUnpacked(t testing.TB, root string) []string {
	t.Helper()
	files := map[string]*file{}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		f := &file{number: uint32(st.Ino), mode: st.Mode}
		switch st.Mode & typeMask {
		case typeSymlink:
			target, err := os.Readlink(path)
			f.data = []byte(target)
			if err != nil {
				return err
			}
		case typeRegular:
			if f.data, err = os.ReadFile(path); err != nil {
				return err
			}
		}
		files[strings.TrimPrefix(path, root+"/")] = f
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return listModes(files)
}

func listModes(files map[string]*file) []string {
	lines := list(files)
	for name, f := range files {
		if name != "." {
			lines = append(lines, fmt.Sprintf("mode %s %o", name, f.mode))
		}
	}
	slices.Sort(lines)
	return lines
}

// compareUmoci builds random layers, and wants what umoci makes of them. It
// reports whether both took them.
func compareUmoci(t *testing.T, umoci string, seed uint64) bool {
	t.Helper()
	spec := randomLayers(seed)
	var layers [][]byte
	for _, l := range spec {
		layers = append(layers, tarOf(t, l...))
	}
	dir := t.TempDir()
	writeLayout(t, dir+"/oci", layers)
	out, theirs := exec.Command(umoci, "unpack", "--rootless", "--image", dir+"/oci:x", dir+"/bundle").CombinedOutput()
	_, ours := Build(t.Context(), dir+"/image", layersOf(layers), Options{Workers: 1})
	switch {
	case theirs != nil:
		// Of what it refuses some is nothing but unusual: a link to what is not
		// there, a file in the place of a parent within one layer.
		return false
	case ours != nil:
		t.Errorf("seed %d: %q\nbanger: %v\numoci takes it: %s", seed, spec, ours, out)
		return false
	}
	fsck(t, dir+"/image")
	got, want := listModes(openImage(t, dir+"/image").files()), listUnpacked(t, dir+"/bundle/rootfs")
	if !slices.Equal(got, want) {
		t.Errorf("seed %d: %q\nbanger %q\numoci  %q", seed, spec, got, want)
	}
	return true
}

func lookUmoci(t testing.TB) string {
	t.Helper()
	umoci, err := hostcmd.Look("umoci")
	if err != nil {
		t.Fatalf("%v; run: apt-get install -y --no-install-recommends umoci", err)
	}
	return umoci
}

// TestMergeAsUmoci does so with the same few seeds each time; FuzzMerge has more.
func TestMergeAsUmoci(t *testing.T) {
	t.Parallel()
	umoci, both := lookUmoci(t), 0
	const seeds = 60
	for seed := range uint64(seeds) {
		if compareUmoci(t, umoci, seed) {
			both++
		}
	}
	if both < seeds/4 {
		t.Errorf("of %d images umoci took %d", seeds, both)
	}
}

// FuzzMerge compares as many as there is time for: go test -fuzz FuzzMerge ./internal/rootfs
func FuzzMerge(f *testing.F) {
	umoci := lookUmoci(f)
	f.Add(uint64(1000))
	f.Fuzz(func(t *testing.T, seed uint64) { compareUmoci(t, umoci, seed) })
}
