package cli

import "testing"

func TestEndpoint(t *testing.T) {
	t.Parallel()
	for word, want := range map[string]copyPlace{
		"box:/a/b":  {"box", "/a/b"},
		"box:":      {"box", ""},
		"box:a:b":   {"box", "a:b"},
		"./box:a":   {"", "./box:a"},
		"/x:y":      {"", "/x:y"},
		"a.b:c":     {"", "a.b:c"},
		":a":        {"", ":a"},
		"-":         {"", "-"},
		"file":      {"", "file"},
		"dir/.":     {"", "dir/."},
		"box:dir/.": {"box", "dir/."},
	} {
		if got := endpoint(word); got != want {
			t.Errorf("%q: %+v", word, got)
		}
	}
	for word, want := range map[string]string{"box:": "/", "box:a": "/a", "box:/a/.": "/a/.", "/x/": "/x/"} {
		if got, err := endpoint(word).here(); err != nil || got != want {
			t.Errorf("%q: %q, %v", word, got, err)
		}
	}
}
