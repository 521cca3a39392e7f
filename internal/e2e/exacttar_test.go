//go:build e2e

package e2e

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// addLayers adds tars to an image of the layout, under another tag.
func (x *exact) addLayers(from, to string, tars ...string) {
	x.t.Helper()
	for _, file := range tars {
		x.run("umoci", "raw", "add-layer", "--image", x.oci+":"+from, "--tag", to, file)
		from = to
	}
}

// handmade is a layer that no tool writes and all have to read.
func (x *exact) handmade() string {
	x.t.Helper()
	file := filepath.Join(x.dir, "handmade.tar")
	f, err := os.Create(file)
	check(x.t, err)
	defer f.Close()
	w := tar.NewWriter(f)
	when := time.Unix(1_700_000_000, 987_654_321)
	add := func(kind byte, name, data string, mode int64, records map[string]string) {
		h := tar.Header{Typeflag: kind, Name: name, Mode: mode, ModTime: when, Format: tar.FormatPAX, PAXRecords: records}
		switch kind {
		case tar.TypeReg:
			h.Size = int64(len(data))
		default:
			h.Linkname = data
		}
		check(x.t, w.WriteHeader(&h))
		if kind == tar.TypeReg {
			_, err := io.WriteString(w, data)
			check(x.t, err)
		}
	}
	attr := func(pairs ...string) map[string]string {
		records := map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			records["SCHILY.xattr."+pairs[i]] = pairs[i+1]
		}
		return records
	}
	file0 := func(name, data string) { add(tar.TypeReg, name, data, 0o644, nil) }

	file0("implicit/parents/of/file", "no directory has a header")
	file0("/hand/absolute", "a leading slash")
	file0("./hand/dot", "a leading dot")
	file0("hand/twice", "first")
	file0("hand/twice", "the last one counts")
	add(tar.TypeReg, "hand/type-bits", "S_IFREG in the mode", 0o104755, nil)
	add(tar.TypeReg, "hand/attributes", "", 0o644, attr("user.empty", "", "user.full", "1", "security.selinux", "system_u:object_r:bin_t:s0\x00"))
	add(tar.TypeDir, "weird/", "", 0o750, nil) // which drops its attributes
	add(tar.TypeDir, "hand/", "", 0o1777, attr("trusted.hand", "1", "system.posix_acl_default", posixACL()))
	// Hard links to files of lower layers, and whatever a target may look like.
	add(tar.TypeLink, "hand/to-lower", "weird/hard-7", 0o600, nil)
	add(tar.TypeLink, "hand/to-symlink", "weird/link-3000", 0o777, nil)
	add(tar.TypeLink, "hand/to-dot", "./hand/dot", 0o644, nil)
	add(tar.TypeLink, "hand/to-slash", "/hand/absolute", 0o644, nil)
	file0("weird/hard-8", "no link any more")
	// Whiteouts, among what they do not concern.
	file0("weird/mode-7777", "stays")
	file0("weird/.wh.mode-7777", "")
	file0("weird/.wh.owner-1000", "")
	file0("weird/dir-2755/before", "stays")
	file0("weird/dir-2755/.wh..wh..opq", "")
	file0("weird/dir-2755/after", "stays")
	file0("weird/.wh.dir-1644", "")
	file0("weird/.wh.not-there", "")
	check(x.t, w.Close())
	return file
}

// sparse writes a file with holes into a layer, in each of the versions of PAX.
func (x *exact) sparse(versions ...string) (files []string) {
	x.t.Helper()
	for _, v := range versions {
		files = append(files, x.sparseTar(v, "--format=pax", "--sparse-version="+v))
	}
	return files
}

// gnuSparse is a layer with a sparse file of old GNU tar, and a global header.
func (x *exact) gnuSparse() string {
	x.t.Helper()
	gnu := x.sparseTar("gnu", "--format=gnu")
	global := x.sparseTar("global", "--format=pax", "--pax-option=comment=all of them")
	joined := filepath.Join(x.dir, "joined.tar")
	check(x.t, os.Rename(global, joined))
	x.run("tar", "--concatenate", "-f", joined, gnu)
	return joined
}

func (x *exact) sparseTar(name string, options ...string) string {
	x.t.Helper()
	dir := filepath.Join(x.dir, "sparse-"+name)
	check(x.t, os.MkdirAll(filepath.Join(dir, "sparse"), 0o755))
	f, err := os.Create(filepath.Join(dir, "sparse", name))
	check(x.t, err)
	for i := range int64(30) {
		_, err := f.WriteAt([]byte(strings.Repeat(name, 500)), i<<17)
		check(x.t, err)
	}
	check(x.t, f.Truncate(6<<20), f.Close())
	out := filepath.Join(x.dir, name+".tar")
	x.run("tar", append(options, "--sparse", "-C", dir, "-cf", out, "sparse/"+name)...)
	return out
}

// layers opens the layers of an image of a layout, the lowest first.
func (x *exact) layers(oci, tag string) (files []string) {
	x.t.Helper()
	type descriptor struct {
		Digest      string
		Annotations map[string]string
	}
	blob := func(digest string) string { return filepath.Join(oci, "blobs", strings.Replace(digest, ":", "/", 1)) }
	read := func(file string, v any) {
		b, err := os.ReadFile(file)
		check(x.t, err, json.Unmarshal(b, v))
	}
	var index struct{ Manifests []descriptor }
	read(filepath.Join(oci, "index.json"), &index)
	for _, d := range index.Manifests {
		if d.Annotations["org.opencontainers.image.ref.name"] != tag {
			continue
		}
		var manifest struct{ Layers []descriptor }
		read(blob(d.Digest), &manifest)
		for _, l := range manifest.Layers {
			files = append(files, blob(l.Digest))
		}
	}
	if len(files) == 0 {
		x.t.Fatalf("%s has no image %s", oci, tag)
	}
	return files
}

// trueTimes puts the modification times of the layers into a listing: umoci
// rounds them to seconds, and gives folders that it wrote into later, or that no
// header describes, the time of its own run. The latter ones banger begins at 0.
func (x *exact) trueTimes(want listing, layers []string) {
	x.t.Helper()
	times := map[string]time.Time{}
	for _, file := range layers {
		x.readTimes(times, file)
	}
	for p, e := range want {
		when, ok := times[p]
		switch {
		case ok:
			e.Sec, e.Nsec = when.Unix(), int64(when.Nanosecond())
		case e.isDir():
			e.Sec, e.Nsec = 0, 0
		default:
			x.t.Errorf("no layer has %q", p)
		}
	}
}

func (x *exact) readTimes(times map[string]time.Time, file string) {
	x.t.Helper()
	unpack := exec.Command("zstd", "-dcf", file) // gzip, zstd, and what is not packed
	stream, err := unpack.StdoutPipe()
	check(x.t, err, unpack.Start())
	r := tar.NewReader(stream)
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if !errors.Is(err, tar.ErrInsecurePath) {
			check(x.t, err)
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		switch h.Typeflag {
		case tar.TypeXGlobalHeader:
		case tar.TypeLink:
			times[name] = times[strings.TrimPrefix(path.Clean("/"+h.Linkname), "/")]
		default:
			if name == "" {
				name = "."
			}
			times[name] = h.ModTime
		}
	}
	_, err = io.Copy(io.Discard, stream)
	check(x.t, err, unpack.Wait())
}
