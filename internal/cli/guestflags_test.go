package cli

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"banger"
)

func TestGuestFlags(t *testing.T) {
	c := &CLI{Getenv: func(name string) string { return map[string]string{"EDITOR": "vi"}[name] }}
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	f := guestFlags{env: []string{"A=b=c", "EDITOR"}, labels: []string{"tier=front", "bare"}, keys: []string{file("k.pub", "# me\nssh-ed25519 AAAA me\n\n")}}
	var spec banger.VMSpec
	if err := f.fill(c, &spec); err != nil {
		t.Fatal(err)
	}
	want := banger.VMSpec{Env: []string{"A=b=c", "EDITOR=vi"}, Labels: map[string]string{"tier": "front", "bare": ""}, AuthorizedKeys: []string{"ssh-ed25519 AAAA me"}}
	if !reflect.DeepEqual(spec, want) {
		t.Errorf("got %+v, want %+v", spec, want)
	}
	for name, f := range map[string]guestFlags{
		"env": {env: []string{"=x"}}, "no file": {keys: []string{dir + "/absent"}},
		"private": {keys: []string{file("k", "-----BEGIN OPENSSH PRIVATE KEY-----\n")}},
	} {
		if err := f.fill(c, &spec); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
