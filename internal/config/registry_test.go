package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger"
)

func TestRegistries(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "config.toml")
	read := func(text string) (Config, error) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return Read(path)
	}
	c, err := read(`
[[registry]]
host = "docker.io"
mirrors = ["mirror.example.org:5000/hub", "[::1]:5000"]

[[registry]]
host = "mirror.example.org:5000"
insecure = true
`)
	if err != nil || len(c.Registries) != 2 || c.Registries[0].Line != 2 || c.Registries[1].Line != 6 || !c.Registries[1].Insecure ||
		len(c.Registries[0].Mirrors) != 2 {
		t.Errorf("%+v, %v", c.Registries, err)
	}
	for text, want := range map[string]string{
		"[[registry]]":                                                 ":1: a registry has no host",
		"[[registry]]\nhost = \"https://x\"":                           "is not the host of a registry",
		"[[registry]]\nhost = \"x/y\"":                                 "is not the host of a registry",
		"[[registry]]\nhost = \"x\"\n[[registry]]\nhost = \"X\"":       ":3: the registry \"X\" is there twice",
		"[[registry]]\nhost = \"x\"\nmirrors = [\"http://m\"]":         "is not a mirror",
		"[[registry]]\nhost = \"x\"\nmirrors = [\"m/a/../b c\"]":       "is not a mirror",
		"[[registry]]\nhost = \"x\"\nmirrors = [\"x\"]":                "is a mirror of itself",
		"[[registry]]\nhost = \"x\"\nmirror = [\"m\"]":                 "unknown key \"mirror\" in registry",
		"[[registry]]\nhost = \"x\"\ninsecure = \"yes\"":               "",
		"[registry]\nhost = \"x\"\ninsecure = true\nmirrors = \"m\"\n": "",
	} {
		_, err := read(text)
		if !banger.IsKind(err, banger.Invalid) || !strings.Contains(err.Error(), want) || banger.AsError(err).Hint == "" {
			t.Errorf("%q: %v, hint %q", text, err, banger.AsError(err).Hint)
		}
	}
}
