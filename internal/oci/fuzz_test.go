package oci

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"banger"
)

// FuzzArchive reads the images of a tar of any bytes: each error is one for the
// user, and what is read to its end is what its digest says.
func FuzzArchive(f *testing.F) {
	one, two := newImage(gzLayer("a", 100)), newImage(gzLayer("b", 200))
	s := shelf{}
	f.Add(s.index(f, s.add(f, one, named("x")), s.add(f, two, named("y"))).tar(f), "x")
	plain := tarOf("a", 100)
	d := docker(f, map[string]*image{"x:1": newImage(layerBlob{"application/vnd.docker.image.rootfs.diff.tar", plain, plain, ""})})
	whole := d.tar(f)
	f.Add(whole, "")
	f.Add(whole[:len(whole)/2], "")
	for name := range d {
		linked := shelf{name: "->l1", "l1": "->l2", "l2": "->" + name}
		f.Add(docker(f, map[string]*image{"x:1": newImage(gzLayer("a", 100))}).with(linked).tar(f), "x:1")
	}
	f.Fuzz(func(t *testing.T, data []byte, ref string) {
		a, err := OpenTar(t.Context(), bytes.NewReader(data), int64(len(data)))
		if err != nil {
			if !errors.Is(err, ErrNoArchive) && !banger.IsKind(err, banger.Invalid) {
				t.Fatalf("open: %v", err)
			}
			return
		}
		defer a.Close()
		im, err := a.Resolve(t.Context(), ref, Options{Arch: "x86_64"})
		if err != nil {
			wantOwn(t, err)
			return
		}
		if im.Digest != "" && !digestGrammar().MatchString(im.Digest) || len(im.Layers) > maxLayers {
			t.Fatalf("it has the digest %q and %d layers", im.Digest, len(im.Layers))
		}
		for _, l := range im.Layers {
			r, err := l.Open(t.Context())
			if err != nil {
				wantOwn(t, err)
				continue
			}
			var out bytes.Buffer
			if n, err := io.Copy(&out, io.LimitReader(r, 8<<20)); err != nil {
				wantOwn(t, err)
			} else if n < 8<<20 && digestOf(out.Bytes()) != l.DiffID {
				t.Fatalf("%s is %s", l.Name, digestOf(out.Bytes()))
			}
			_ = r.Close()
		}
	})
}

// wantOwn wants an error that says what kind it is of.
func wantOwn(t *testing.T, err error) {
	t.Helper()
	var own *banger.Error
	if !errors.As(err, &own) || own.Kind == banger.Internal {
		t.Fatalf("not one for the user: %v", err)
	}
}

// FuzzConfig wants of a config that is taken that it fits its manifest, and that
// what it says of a command can be one.
func FuzzConfig(f *testing.F) {
	f.Add(mustJSON(f, newImage(gzLayer("a", 100)).config))
	f.Add([]byte(`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["sha256:x"]}}`))
	f.Add([]byte(`{"os":"linux","architecture":"amd64","OS":"windows","rootfs":{"type":"layers","diff_ids":["` + someDigest + `"]},` +
		`"config":{"Env":["A=\u0000"],"Cmd":null,"User":"a:b","WorkingDir":"../x"}}`))
	want, err := platformOf("x86_64")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := parseConfig("read", raw, want, 1)
		if err != nil {
			wantOwn(t, err)
			return
		}
		im := c.imageConfig()
		for _, s := range append(append(append([]string{im.User, im.WorkingDir}, im.Env...), im.Cmd...), im.Entrypoint...) {
			if bytes.IndexByte([]byte(s), 0) >= 0 {
				t.Fatalf("took %q", s)
			}
		}
		if len(c.RootFS.DiffIDs) != 1 || !digestGrammar().MatchString(c.RootFS.DiffIDs[0]) {
			t.Fatalf("took %q", c.RootFS.DiffIDs)
		}
	})
}
