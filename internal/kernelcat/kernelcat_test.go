package kernelcat

import (
	"errors"
	"os"
	"strings"
	"testing"

	"banger"
)

func TestBuiltin(t *testing.T) {
	c, err := Builtin()
	if err != nil {
		t.Fatal(err)
	}
	e, err := c.Lookup("debian-6.1")
	if err != nil {
		t.Fatal(err)
	}
	if e.Arch != "x86_64" || e.Distro != "debian" || len(e.Sources) != 1 || e.Sources[0].URL != "deb://linux-image-cloud-amd64?suite=bookworm" {
		t.Errorf("entry is %+v", e)
	}
	_, err = c.Lookup("debian-6")
	if !errors.Is(err, os.ErrNotExist) || !banger.IsKind(err, banger.NotFound) {
		t.Errorf("unknown name: %v", err)
	}
	if e := banger.AsError(err); e.Msg != `kernel "debian-6" is not in the catalog` || !strings.Contains(e.Hint, "debian-6.1") {
		t.Errorf("unknown name says %q, hint %q", e.Msg, e.Hint)
	}
	if _, err := c.Lookup("../x"); !banger.IsKind(err, banger.Invalid) {
		t.Errorf("bad name: %v", err)
	}
}

func TestParseCatalog(t *testing.T) {
	for _, tt := range []struct {
		in   string
		kind banger.Kind
	}{
		{`{`, banger.Invalid},
		{`{"version": 2}`, banger.Unsupported},
		{`{"version": 1, "entries": [{"name": "../x"}]}`, banger.Invalid},
		{`{"version": 1, "entries": [{"name": "a"}, {"name": "a"}]}`, banger.Invalid},
	} {
		if _, err := ParseCatalog([]byte(tt.in)); !banger.IsKind(err, tt.kind) {
			t.Errorf("%s: %v, want kind %s", tt.in, err, tt.kind)
		}
	}
	if _, err := ParseCatalog([]byte(`{"version": 1, "entries": [{"name": "a", "later": 1}]}`)); err != nil {
		t.Errorf("field of a later build: %v", err)
	}
}

func TestValidateName(t *testing.T) {
	for _, name := range []string{"debian-6.1", "a", "_x", "0", "A.b-C_d", strings.Repeat("k", 64)} {
		if err := ValidateName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", ".", "..", ".a", "-a", "a/b", "a b", "a\n", "a\x00", "é", "a,b", strings.Repeat("k", 65)} {
		if err := ValidateName(name); !banger.IsKind(err, banger.Invalid) {
			t.Errorf("%q: %v", name, err)
		}
	}
}
