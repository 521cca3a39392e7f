package rootfs

import (
	"os"
	"testing"
)

// FuzzLayer builds from a layer of any bytes, above and below one that is
// sound: Build must neither panic nor leave a file behind when it fails, and
// what it makes must be readable. Run it with -fuzzminimizetime=10x: goroutines
// make the coverage differ from run to run, and minimizing then never ends.
func FuzzLayer(f *testing.F) {
	sound := tarOf(f, "d usr/lib", "l lib usr/lib", "f usr/lib/a 1", "h b lib/a")
	f.Add([]byte{})
	f.Add(sound)
	f.Add(sound[:len(sound)/2])
	f.Add(paxSparse(f, 1<<20))
	f.Add(paxSparse(f, 1<<62))
	f.Add(tarOf(f, "f lib/x 1", "f .wh.b", "f usr/.wh..wh..opq", "d0700 usr", "l usr/s ../../..", "f usr/s/y 2"))
	f.Add(tarOf(f, "l a b", "l b a", "f a/x"))
	f.Add(headerTar(f, pax("a", map[string]string{"SCHILY.xattr.user.a": "1", "SCHILY.xattr.system.posix_acl_access": posixACL, "mtime": "-1.5"})))
	for _, c := range merges {
		for _, l := range c.layers {
			f.Add(tarOf(f, l...))
		}
	}
	limits := Limits{Bytes: 2 << 20, Entries: 500, Headers: 64 << 10, Depth: 20}
	f.Fuzz(func(t *testing.T, data []byte) {
		path := t.TempDir()
		for _, layers := range [][][]byte{{data}, {sound, data}, {data, sound}} {
			image := path + "/image"
			err := create(image, 0o444, func(f *os.File) error { // Build without its fsync
				_, err := merge(t.Context(), f, layersOf(layers), Options{Workers: 1, Limits: limits})
				return err
			})
			if err != nil {
				wantEmpty(t, path)
				continue
			}
			openImage(t, image).files()
			if err := os.Remove(image); err != nil {
				t.Fatal(err)
			}
		}
	})
}
