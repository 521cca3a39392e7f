package guest

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// given is a tar as the host makes it.
func given(t *testing.T, names ...string) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range names {
		err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: 5, Mode: 0o4751, ModTime: time.Unix(1e9, 0)})
		if err == nil {
			_, err = w.Write([]byte("given"))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	// A disk does not end where the tar does.
	return io.MultiReader(&b, bytes.NewReader(make([]byte, 4096)))
}

func TestUnpackGiven(t *testing.T) {
	umask := syscall.Umask(0o077)
	defer syscall.Umask(umask)
	out := t.TempDir() // what lies outside the root
	secret := filepath.Join(out, "secret")
	for name, c := range map[string]struct {
		make func(root string) error
		name string
		at   string // where it is then; default: name
		want string // of the error
	}{
		"new":           {nil, "a/b/c", "", ""},
		"replaced":      {func(r string) error { return os.WriteFile(r+"/f", []byte("old and longer"), 0o600) }, "f", "", ""},
		"cut off":       {func(r string) error { return os.WriteFile(r+"/f.banger", []byte("half"), 0o600) }, "f", "", ""},
		"merged usr":    {func(r string) error { return mkLink(r, "usr/bin", "bin") }, "bin/f", "usr/bin/f", ""},
		"a link itself": {func(r string) error { return os.Symlink(secret, r+"/f") }, "f", "", ""},
		"directory":     {func(r string) error { return os.Mkdir(r+"/f", 0o700) }, "f", "", "a directory is there"},
		"below a file":  {func(r string) error { return os.WriteFile(r+"/f", nil, 0o600) }, "f/g", "", "file exists"},
		"absolute":      {func(r string) error { return os.Symlink(out, r+"/d") }, "d/secret", "", "escapes"},
		"out by dots":   {func(r string) error { return os.Symlink("../"+filepath.Base(out), r+"/d") }, "d/secret", "", "escapes"},
		"out by tmp":    {func(r string) error { return os.Symlink(secret, r+"/f.banger") }, "f", "", ""},
		"name with ..":  {nil, "../secret", "", "escapes"},
	} {
		dir := t.TempDir()
		if c.make != nil {
			if err := c.make(dir); err != nil {
				t.Fatal(err)
			}
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		err = unpackGiven(root, given(t, c.name))
		root.Close()
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "/"+c.name) {
				t.Errorf("%s: got %v, want %q", name, err, c.want)
			}
		} else if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if c.at == "" {
			c.at = c.name
		}
		if c.at != "" {
			fi, err := os.Lstat(filepath.Join(dir, c.at))
			b, _ := os.ReadFile(filepath.Join(dir, c.at))
			// Not setuid, whatever the host says.
			if err != nil || fi.Mode() != 0o751 || string(b) != "given" || fi.ModTime().Unix() != 1e9 {
				t.Errorf("%s: %v, %q, %v", name, fi, b, err)
			}
		}
		if _, err := os.Lstat(filepath.Join(dir, c.name+".banger")); c.want == "" && err == nil {
			t.Errorf("%s: a temporary file is left", name)
		}
		if left := dirNames(out); len(left) != 0 {
			t.Fatalf("%s: written outside the root: %v", name, left)
		}
	}
}

func mkLink(root, dir, link string) error {
	if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
		return err
	}
	return os.Symlink(dir, filepath.Join(root, link))
}
