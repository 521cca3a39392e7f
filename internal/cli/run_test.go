package cli

import (
	"os"
	"reflect"
	"testing"

	"banger"
)

func TestFileFlag(t *testing.T) {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	f := specFlags{files: []string{"a:/etc/a", "/b:/c:/d"}}
	got, err := f.get(nil)
	want := []banger.GuestFile{{Source: dir + "/a", Path: "/etc/a"}, {Source: "/b:/c", Path: "/d"}}
	if err != nil || !reflect.DeepEqual(got.Files, want) {
		t.Errorf("got %+v, %v; want %+v", got.Files, err, want)
	}
	for _, bad := range []string{"", "a", ":/etc/a", "a:", "a:etc/a"} {
		f := specFlags{files: []string{bad}}
		if got, err := f.get(nil); err == nil {
			t.Errorf("%q is taken: %+v", bad, got.Files)
		}
	}
}
