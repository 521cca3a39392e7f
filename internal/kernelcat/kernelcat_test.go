package kernelcat

import (
	"strings"
	"testing"

	"banger"
)

func TestBuiltin(t *testing.T) {
	c, err := Builtin()
	if err != nil {
		t.Fatal(err)
	}
	// The first one is what is used where nobody names one.
	e := c.Entries[0]
	if e.Name != "debian-6.1" || e.Arch != "x86_64" || e.Distro != "debian" || len(e.Sources) != 1 || e.Sources[0].URL != "deb://linux-image-cloud-amd64?suite=bookworm" {
		t.Errorf("entry is %+v", e)
	}
	for _, e := range c.Entries {
		sources, err := e.PullSources()
		if err != nil || len(sources) != len(e.Sources)+min(1, len(e.TarballURL)) {
			t.Errorf("%s: %d sources, %v", e.Name, len(sources), err)
		}
		if e.Distro == "" || e.Arch == "" || !strings.Contains(e.Description, "Linux") {
			t.Errorf("%s says little: %+v", e.Name, e)
		}
		for _, s := range sources {
			if d, ok := s.(debSource); ok && d.suite == "" {
				t.Errorf("%s is another kernel on another host: %s", e.Name, s)
			}
		}
	}
}

func TestParseCatalog(t *testing.T) {
	for _, tt := range []struct {
		in   string
		kind banger.Kind
	}{
		{`{`, banger.Invalid},
		{`{"version": 2}`, banger.Unsupported},
		{`{"version": 1, "serial": -1}`, banger.Invalid},
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
