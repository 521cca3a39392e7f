package imagecat

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// The golden image is the same to whoever pulls it and to whoever builds it.
func TestGolden(t *testing.T) {
	text, err := os.ReadFile("../../images/golden/Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(text), "--no-install-recommends")
	list, _, ok := strings.Cut(list, "apt-get clean")
	if !ok {
		t.Fatal("the Dockerfile installs nothing")
	}
	packages := strings.Fields(strings.ReplaceAll(list, "\\", ""))
	c, err := Builtin()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(c.Entries, func(e Entry) bool { return e.Name == "golden" })
	if i < 0 {
		t.Fatal("no golden in the catalog")
	}
	sources := c.Entries[i].Sources
	if suite := sources[len(sources)-1].Debian; suite == nil || !slices.Equal(suite.Packages, packages) || !slices.IsSorted(packages) {
		t.Errorf("the catalog has %+v, the Dockerfile %q", suite, packages)
	}
}
