package guest

import (
	"os"
	"path/filepath"
	"testing"
)

func TestMountsTmp(t *testing.T) {
	const wants = "/local-fs.target.wants/tmp.mount"
	for _, c := range []struct {
		name  string
		files []string
		want  bool
	}{
		{"Debian 12", []string{"/usr/share/systemd/tmp.mount"}, false},
		{"Debian 13", []string{"/usr/lib/systemd/system" + wants + " -> ../tmp.mount"}, true},
		{"enabled", []string{"/etc/systemd/system" + wants + " -> /usr/share/systemd/tmp.mount"}, true},
		{"masked", []string{"/usr/lib/systemd/system" + wants + " -> ../tmp.mount", "/etc/systemd/system/tmp.mount -> /dev/null"}, false},
	} {
		if got := mountsTmp(fakeRoot(t, c.files...)); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func TestKeepTmp(t *testing.T) {
	const debian = "# clear\nD /tmp 1777 root root -\n#q /var/tmp 1777 root root 30d\n"
	for _, c := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"no systemd", nil, ""},
		{"Debian", map[string]string{"usr/lib/tmpfiles.d/tmp.conf": debian}, "# clear\nd /tmp 1777 root root -\n#q /var/tmp 1777 root root 30d\n"},
		{"at boot only", map[string]string{"usr/lib/tmpfiles.d/tmp.conf": "D! /tmp 1777 root root 1d\n"}, "d! /tmp 1777 root root 1d\n"},
		{"upstream", map[string]string{"usr/lib/tmpfiles.d/tmp.conf": "q /tmp 1777 root root 10d\n"}, ""},
		{"another directory", map[string]string{"usr/lib/tmpfiles.d/tmp.conf": "D /tmp/x 1777 root root -\n"}, ""},
		{"the owner's", map[string]string{"usr/lib/tmpfiles.d/tmp.conf": debian, "etc/tmpfiles.d/tmp.conf": "d /tmp\n"}, ""},
		{"the owner's exception", map[string]string{"usr/lib/tmpfiles.d/tmp.conf": debian, "etc/tmpfiles.d/keep.conf": "x /tmp/keep\n"}, ""},
		{"the owner's other rule", map[string]string{"usr/lib/tmpfiles.d/tmp.conf": "D /tmp\n", "etc/tmpfiles.d/app.conf": "d /srv\n"}, "d /tmp\n"},
	} {
		root := t.TempDir()
		for path, text := range c.files {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(root, path), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got := keepTmp(root); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}
