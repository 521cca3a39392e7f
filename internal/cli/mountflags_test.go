package cli

import (
	"os"
	"testing"

	"banger"
)

func TestParseMount(t *testing.T) {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for word, want := range map[string]banger.Mount{
		"src:/work":        {Source: dir + "/src", Target: "/work"},
		".:/work:ro":       {Source: dir, Target: "/work", ReadOnly: true},
		"/a:/work:rw":      {Source: "/a", Target: "/work"},
		"/a:/b:/work/../c": {Source: "/a:/b", Target: "/c"},
	} {
		if got, err := parseMount(word); got != want || err != nil {
			t.Errorf("%q: %+v, %v; want %+v", word, got, err, want)
		}
	}
	for _, bad := range []string{"", "a", ":/work", "a:", "a:work", "a:ro", "a:work:ro"} {
		if got, err := parseMount(bad); err == nil {
			t.Errorf("%q is taken: %+v", bad, got)
		}
	}
}
