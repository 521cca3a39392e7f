package dockerfile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"banger"
)

// folder makes a context: NAME DATA, NAME/ for a directory, NAME -> TARGET.
func folder(t testing.TB, lines ...string) *os.Root {
	t.Helper()
	dir := t.TempDir()
	for _, line := range lines {
		name, data, _ := strings.Cut(line, " ")
		path := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		target, link := strings.CutPrefix(data, "-> ")
		switch {
		case err != nil:
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(path, 0o755)
		case link:
			err = os.Symlink(target, path)
		default:
			err = os.WriteFile(path, []byte(data), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

func listed(s *Selection) (list []string) {
	for _, it := range s.Items {
		line := fmt.Sprintf("%d:%s", it.Source, it.Name)
		if it.Target != "" {
			line += " -> " + it.Target
		}
		list = append(list, line)
	}
	return list
}

func TestSelect(t *testing.T) {
	t.Parallel()
	root := folder(t, "a 1", "b 2", "dir/x 3", "dir/sub/y 4", "dir/link -> x", "dir/out -> /etc/passwd", "empty/", "to-dir -> dir", "to-file -> dir/x",
		"node_modules/m 5", "node_modules/keep/k 6", "secret.key 7", "escape -> ../outside", "absolute -> /etc", ".dockerignore x")
	outside := filepath.Join(filepath.Dir(root.Name()), "outside")
	if err := os.WriteFile(outside, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	ignore := "# none\nnode_modules\n!node_modules/keep\n*.key\n"
	for _, tt := range []struct {
		sources []string
		ignore  string
		want    []string
		dirs    []bool
		kind    banger.Kind
	}{
		{sources: []string{"a", "b"}, want: []string{"0:", "1:"}, dirs: []bool{false, false}},
		{sources: []string{"dir"}, want: []string{"0:link -> x", "0:out -> /etc/passwd", "0:sub", "0:sub/y", "0:x"}, dirs: []bool{true}},
		{sources: []string{"to-dir/sub"}, want: []string{"0:y"}, dirs: []bool{true}},
		{sources: []string{"to-file"}, want: []string{"0:"}, dirs: []bool{false}},
		{sources: []string{"?"}, want: []string{"0:", "1:"}, dirs: []bool{false, false}},
		{sources: []string{"none*"}},
		{sources: []string{"empty"}, dirs: []bool{true}},
		{sources: []string{"none"}, kind: banger.NotFound},
		{sources: []string{"escape"}, kind: banger.Invalid},
		{sources: []string{"absolute/passwd"}, kind: banger.Invalid},
		{sources: []string{"node_modules"}, ignore: ignore, want: []string{"0:keep", "0:keep/k"}, dirs: []bool{true}},
		{sources: []string{"secret.key"}, ignore: ignore, kind: banger.NotFound},
		{sources: []string{"secret*"}, ignore: "*.key\n"},
		{sources: []string{"node_modules"}, ignore: "node_modules\n", kind: banger.NotFound},
	} {
		i, err := ParseIgnore(".dockerignore", []byte(tt.ignore))
		if err != nil {
			t.Fatal(err)
		}
		s, err := Select(t.Context(), root.FS(), i, tt.sources)
		if tt.kind != "" {
			if !banger.IsKind(err, tt.kind) {
				t.Errorf("%q: %v, want %s", tt.sources, err, tt.kind)
			}
			continue
		}
		if err != nil || !slices.Equal(listed(s), tt.want) || !slices.Equal(s.Dirs, tt.dirs) {
			t.Errorf("%q: %q %v %v, want %q %v", tt.sources, listed(s), s.Dirs, err, tt.want, tt.dirs)
		}
	}
}

// Names, modes and contents make a difference; times do not, nor does the way to
// a source.
func TestSelectDigest(t *testing.T) {
	t.Parallel()
	digest := func(root *os.Root, source string) string {
		t.Helper()
		s, err := Select(t.Context(), root.FS(), Ignore{}, []string{source})
		if err != nil {
			t.Fatal(err)
		}
		return s.Digest
	}
	root := folder(t, "d/a 1", "e/a 1", "f/b 1", "g/a 2", "h/a -> 1")
	one := digest(root, "d")
	same := func(source string, want bool) {
		t.Helper()
		if (digest(root, source) == one) != want {
			t.Errorf("%s: the digest is not as it should be", source)
		}
	}
	for _, other := range []string{"f", "g", "h", "d/a"} {
		same(other, false)
	}
	past := time.Unix(1, 0)
	if err := os.Chtimes(filepath.Join(root.Name(), "d/a"), past, past); err != nil {
		t.Fatal(err)
	}
	same("d", true)
	if err := os.Chmod(filepath.Join(root.Name(), "d/a"), 0o600); err != nil {
		t.Fatal(err)
	}
	same("d", false)
}

func TestSelectEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Select(ctx, folder(t, "a/b c").FS(), Ignore{}, []string{"."}); err == nil {
		t.Error("a cancelled selection gave a result")
	}
}

// Each thing that a step hangs on changes its key, and nothing else does.
func TestKey(t *testing.T) {
	t.Parallel()
	run := func(f func(*Run)) string {
		r := &Run{Argv: []string{"x"}, Env: []string{"A=1"}, Dir: "/", Proxies: []string{"http_proxy=a"}}
		f(r)
		return Step{Op: r, Line: 3, Text: "text"}.Key("parent", "")
	}
	plain := run(func(*Run) {})
	for name, f := range map[string]func(*Run){
		"argv": func(r *Run) { r.Argv = []string{"y"} }, "env": func(r *Run) { r.Env = nil }, "dir": func(r *Run) { r.Dir = "/x" },
		"user": func(r *Run) { r.User = "me" }, "network": func(r *Run) { r.NoNetwork = true },
		"files": func(r *Run) { r.Files = []File{{"a", "b"}} }, "mounts": func(r *Run) { r.Mounts = []Mount{{Type: "cache"}} },
	} {
		if run(f) == plain {
			t.Errorf("%s makes no difference", name)
		}
	}
	if run(func(r *Run) { r.Proxies = nil }) != plain {
		t.Error("a proxy makes a difference")
	}
	if (Step{Op: &Run{Argv: []string{"x"}}}).Key("a", "") == (Step{Op: &Run{Argv: []string{"x"}}}).Key("b", "") {
		t.Error("the parent makes no difference")
	}
	cp := func(sources []string, from Source, inputs string) string {
		return Step{Op: &Copy{Sources: sources, From: from, Dest: "/"}}.Key("p", inputs)
	}
	if cp([]string{"a"}, Source{}, "1") != cp([]string{"b"}, Source{}, "1") {
		t.Error("of files of the context the names of the sources make a difference")
	}
	if cp([]string{"a"}, Source{Image: "x"}, "1") == cp([]string{"b"}, Source{Image: "x"}, "1") {
		t.Error("of files of an image the names of the sources make no difference")
	}
	if (Step{}).Key("parent", "x") != "parent" {
		t.Error("a step that changes no file has a key of its own")
	}
}

// A context is data of somebody else: whatever its patterns, a selection ends,
// is the same each time, has nothing from outside and nothing that is excluded.
func FuzzSelect(f *testing.F) {
	root := folder(f, "a 1", "d/b 2", "d/e/c 3", "d/loop -> ..", "self -> self", "in -> d", "out -> ../secret", "abs -> /etc", "d/out -> ../../secret", "z -> a", "w[x] 4", "empty/")
	if err := os.WriteFile(filepath.Join(filepath.Dir(root.Name()), "secret"), []byte("secret"), 0o644); err != nil {
		f.Fatal(err)
	}
	const secret = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
	for _, seed := range [][2]string{{"*", "a\n!b"}, {"[", "**/x"}, {"d/../../x", "!"}, {"d", "d\n!d/e/c"}, {"out", ""}, {"abs/passwd", ""}, {"in/*", "d/b"},
		{"d/loop/d/loop/a", "*"}, {"w\\[x]", "w[x]"}, {".", "**\n!**/c"}, {"self", "#\n/a/\n"}, {"z", "a"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, source, ignore string) {
		i, err := ParseIgnore("x", []byte(ignore))
		if err != nil || !fs.ValidPath(source) { // of which a plan has none
			return
		}
		s, err := Select(t.Context(), root.FS(), i, []string{source})
		if err != nil {
			var own *banger.Error
			if !errors.As(err, &own) {
				t.Fatalf("%q: not one for the user: %v", source, err)
			}
			return
		}
		for _, it := range s.Items {
			if !fs.ValidPath(it.Path) || it.Name != "" && !fs.ValidPath(it.Name) || it.Sum == secret || it.Source >= len(s.Names) {
				t.Fatalf("%q has %+v", source, it)
			}
			if hidden, _, err := i.hides(it.Path); err != nil || hidden && !it.Mode.IsDir() {
				t.Fatalf("%q has %s, which %q excludes, %v", source, it.Path, ignore, err)
			}
		}
		again, err := Select(t.Context(), root.FS(), i, []string{source})
		if err != nil || again.Digest != s.Digest {
			t.Fatalf("%q: another time %v, %v", source, again, err)
		}
	})
}
