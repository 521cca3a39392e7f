package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"banger"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRead(t *testing.T) {
	got, err := Read(write(t, `# comment
[[kernel.catalog]]
name = "acme"
url = "https://example.org/kernels/catalog.json"
key = "ssh-ed25519 AAAA ops"

[[image.catalog]] # of images
url = "/srv/images.json"

[[ kernel . catalog ]]
url = 'file:///srv/kernels.json'
allow_unsigned = true
allow_private = true
`))
	want := Config{
		Kernel: Section{Catalogs: []Catalog{
			{Name: "acme", URL: "https://example.org/kernels/catalog.json", Key: "ssh-ed25519 AAAA ops", Line: 2},
			{URL: "file:///srv/kernels.json", AllowUnsigned: true, AllowPrivate: true, Line: 10},
		}},
		Image: Section{Catalogs: []Catalog{{URL: "/srv/images.json", Line: 7}}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
}

func TestNothing(t *testing.T) {
	for _, path := range []string{filepath.Join(t.TempDir(), "none"), write(t, ""), write(t, "# only this\n"), write(t, "[kernel]\n")} {
		if got, err := Read(path); err != nil || !reflect.DeepEqual(got, Config{}) {
			t.Errorf("%s: %+v, %v", path, got, err)
		}
	}
}

// Tables that are written in another way have no lines, and mean the same.
func TestInline(t *testing.T) {
	got, err := Read(write(t, `kernel.catalog = [{url = "/a"}, {url = "/b", name = "b"}]`))
	want := []Catalog{{URL: "/a"}, {URL: "/b", Name: "b"}}
	if err != nil || !reflect.DeepEqual(got.Kernel.Catalogs, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	got, err = Read(write(t, "\n[kernel.catalog]\nurl = \"/a\"\n"))
	if want = []Catalog{{URL: "/a", Line: 2}}; err != nil || !reflect.DeepEqual(got.Kernel.Catalogs, want) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestMistakes(t *testing.T) {
	const table = "[[kernel.catalog]]\nurl = \"/a\"\n"
	for name, tt := range map[string]struct{ text, line, want, hint string }{
		"unknown table":      {"\n[kernle]\n", ":2", `unknown key "kernle"`, "did you mean kernel?"},
		"unknown array":      {"[[kernel.catalogs]]\nurl = \"/a\"\n", ":1", `unknown key "catalogs" in kernel`, "did you mean catalog?"},
		"unknown key":        {table + "\nkye = \"x\"\n", ":4", `unknown key "kye" in kernel.catalog`, "did you mean key?"},
		"in the second":      {table + "[[kernel.catalog]]\nurl = \"/b\"\nallow_unsinged = true\n", ":5", "allow_unsinged", "did you mean allow_unsigned?"},
		"in an inline table": {"x = 1\n", ":1", `unknown key "x"`, "the keys are: kernel, image"},
		"nothing near":       {table + "frobnicate = 1\n", ":3", "frobnicate", "the keys in kernel.catalog are: name, url, key, allow_unsigned, allow_private"},
		"below a key":        {table + "key.x = 1\n", ":3", "", ""},
		"not TOML":           {table + "key = \n", ":3", "", "edit line 3"},
		"no quotes":          {"[[kernel.catalog]]\nurl = /a\n", ":2", "", "double quotes"},
		"a string for bool":  {table + "allow_unsigned = \"yes\"\n", ":3", "", "true and false"},
		"a number for text":  {"[[kernel.catalog]]\nurl = 1\n", ":2", "", ""},
		"two single tables":  {"\n[kernel.catalog]\nurl = \"/a\"\n[kernel.catalog]\nurl = \"/b\"\n", ":4", "", ""},
		"twice a key":        {table + "url = \"/b\"\n", ":3", "", ""},
		"not UTF-8":          {table + "name = \"\xff\"\n", ":3", "", ""},
		"control":            {"url\x00 = 1", ":1", "", ""},
		"no url":             {"\n\n[[kernel.catalog]]\nname = \"a\"\n", ":3", "a kernel catalog has no url", "https://"},
		"bad name":           {table + "name = \"-x\"\n", ":1", `"-x" cannot be`, "lower-case"},
		"name like a host":   {table + "name = \"example.org\"\n", ":1", "cannot be the name", ""},
		"reserved":           {table + "name = \"builtin\"\n", ":1", "cannot be the name", "builtin"},
		"name twice": {table + "name = \"a\"\n[[kernel.catalog]]\nurl = \"/b\"\nname = \"a\"\n", ":4",
			`two kernel catalogs are named "a"`, "another name"},
		"url twice": {table + table, ":3", "is there twice", "remove one"},
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, tt.text)
			got, err := Read(path)
			if !banger.IsKind(err, banger.Invalid) || !reflect.DeepEqual(got, Config{}) {
				t.Fatalf("got %+v, %v", got, err)
			}
			e := banger.AsError(err)
			if !strings.HasPrefix(e.Msg, path+tt.line+": ") || !strings.Contains(e.Msg, tt.want) || !strings.Contains(e.Hint, tt.hint) {
				t.Errorf("got %q, hint %q; want line %s, %q, hint %q", e.Msg, e.Hint, tt.line, tt.want, tt.hint)
			}
		})
	}
}

// The same names and URLs may be those of a kernel and of an image catalog.
func TestKindsAreApart(t *testing.T) {
	_, err := Read(write(t, "[[kernel.catalog]]\nurl = \"/a\"\nname = \"a\"\n[[image.catalog]]\nurl = \"/a\"\nname = \"a\"\n"))
	if err != nil {
		t.Error(err)
	}
}

func TestFilesThatAreRefused(t *testing.T) {
	chmod := func(mode os.FileMode) func(string) error {
		return func(path string) error { return os.Chmod(path, mode) }
	}
	for name, tt := range map[string]struct {
		spoil func(path string) error
		want  string
		hint  string
	}{
		"others can write": {chmod(0o602), "everybody can write", "chmod o-w "},
		"somebody else's":  {func(path string) error { return os.Chown(path, 12345, -1) }, "belongs to user 12345", "chown "},
		"a folder": {func(path string) error {
			_ = os.Remove(path)
			return os.Mkdir(path, 0o700)
		}, "not a regular file", ""},
		"a pipe": {func(path string) error {
			_ = os.Remove(path)
			return unix.Mkfifo(path, 0o600)
		}, "not a regular file", ""},
		"too long": {func(path string) error { return os.Truncate(path, maxFile+1) }, "longer than", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "somebody else's" && os.Getuid() != 0 {
				return // only root can give files away
			}
			path := write(t, "")
			if err := tt.spoil(path); err != nil {
				t.Fatal(err)
			}
			_, err := Read(path)
			if !banger.IsKind(err, banger.Invalid) || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(banger.AsError(err).Hint, tt.hint) {
				t.Errorf("got %v", err)
			}
		})
	}
	// A configuration that is kept elsewhere is linked to.
	path := write(t, "")
	link := path + ".link"
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(link); err != nil {
		t.Error(err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add("[[kernel.catalog]]\nurl = \"/a\"\n")
	f.Add("kernel.catalog = [{url = \"/a\"}]\n[image]\n")
	f.Add("a.b.c = 1")
	path := filepath.Join(f.TempDir(), "config.toml")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(path); err != nil && !banger.IsKind(err, banger.Invalid) {
			t.Errorf("%v", err)
		}
	})
}
