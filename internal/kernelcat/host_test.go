package kernelcat

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger"
)

func zipped(text string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write([]byte(text))
	z.Close()
	return b.String()
}

// What a host has on its disk, and what becomes of it when 6.8.0-45-generic runs.
func TestImportHost(t *testing.T) {
	const v = "6.8.0-45-generic"
	newer := entry{"boot/vmlinuz-6.8.0-99-generic", 0, kernelOf("6.8.0-99-generic")}
	for _, tt := range []struct {
		name    string
		entries []entry
		overlay string
		kind    banger.Kind
		says    string
	}{
		{"Debian and Ubuntu", append(moduleSet("", v, ".zst"), newer, entry{"boot/vmlinuz-" + v, 0, kernelOf(v)}, entry{"boot/config-" + v, 0, needed("m")}), "module", "", ""},
		{"Fedora", append(moduleSet("usr/", v, ".xz"), newer, entry{"lib", tar.TypeSymlink, "usr/lib"}, entry{"usr/lib/modules/" + v + "/vmlinuz", 0, kernelOf(v)}), "module", "", ""},
		{"older", append(moduleSet("", v, ""), newer, entry{"lib/modules/" + v + "/vmlinuz", 0, kernelOf(v)}), "module", "", ""},
		{"Arch", append(moduleSet("usr/", v, ".zst"), entry{"boot/vmlinuz-linux", 0, kernelOf(v)}, entry{"boot/vmlinuz-linux-lts", 0, kernelOf("6.6.1-lts")}), "module", "", ""},
		{"built in", []entry{newer, {"boot/vmlinuz-" + v, 0, kernelOf(v)}, {"proc/config.gz", 0, zipped(needed("y"))}}, "builtin", "", ""},
		{"metadata of nobody's", append(moduleSet("", v, ""), entry{"boot/vmlinuz-" + v, 0, kernelOf(v)}, entry{"metadata.json", 0, "{half"}), "module", "", ""},
		{"a container", nil, "", banger.NotFound, "no file of the kernel that runs on this host"},
		{"only another kernel", append(moduleSet("", v, ""), newer), "", banger.NotFound, "banger kernel pull debian-6.1"},
		{"another kernel by that name", []entry{{"boot/vmlinuz-" + v, 0, kernelOf("6.8.0-46-generic")}}, "", banger.Invalid, "is kernel 6.8.0-46-generic, this host runs " + v},
		{"modules were removed", []entry{{"boot/vmlinuz-" + v, 0, kernelOf(v)}, {"boot/config-" + v, 0, needed("m")}}, "", banger.Invalid, "banger kernel pull debian-6.1"},
		{"a configuration that is none", []entry{{"boot/vmlinuz-" + v, 0, kernelOf(v)}, {"proc/config.gz", 0, "x"}}, "", banger.Invalid, "config.gz"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			plant(t, dir, tt.entries...)
			before := snapshot(t, dir)
			k, _, err := importing(t, dirSource{dir: dir, release: v}, Options{})
			if tt.kind != "" {
				if e := banger.AsError(err); err == nil || e.Kind != tt.kind || !strings.Contains(e.Msg+e.Hint, tt.says) {
					t.Errorf("%v, hint %q", err, banger.AsError(err))
				}
			} else if err != nil || k.KernelVersion != v || k.Source != "host:"+v || k.Features["overlay"] != tt.overlay {
				t.Errorf("%+v, %v", k, err)
			}
			if snapshot(t, dir) != before {
				t.Error("the host changed")
			}
		})
	}
}

func TestHost(t *testing.T) {
	s, err := Host()
	if err != nil {
		t.Fatal(err)
	}
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	v := strings.TrimSpace(string(release))
	if s.String() != "host:"+v || s.DefaultName() != nameFrom("host-"+v) || ValidateName(s.DefaultName()) != nil {
		t.Errorf("source %s, name %s", s, s.DefaultName())
	}
}

// Nothing tells what the kernel can do, or there are more than one: that is
// said, and no error.
func TestImportNotices(t *testing.T) {
	dir := t.TempDir()
	plant(t, dir, entry{"vmlinuz", 0, kernelOf("6.1")})
	var notices []string
	o := Options{Progress: func(p banger.Progress) {
		if p.Notice {
			notices = append(notices, p.Step)
		}
	}}
	k, _, err := importing(t, directory(t, dir), o)
	if err != nil || len(notices) != 1 || !strings.Contains(notices[0], "no build configuration") || k.Name != "k" {
		t.Errorf("%+v, %v, told %q", k, err, notices)
	}
	plant(t, dir, entry{"boot/vmlinuz-6.9", 0, kernelOf("6.9")}, entry{"boot/vmlinuz-6.10", 0, kernelOf("6.10")}, entry{"boot/vmlinuz-6.8", 0, kernelOf("6.8")})
	if k, _, err = importing(t, directory(t, dir), o); err != nil || len(notices) != 3 || notices[1] != dir+" holds kernels 6.9, 6.8 too; taking 6.10, the newest" {
		t.Errorf("%+v, %v, told %q", k, err, notices)
	}
	if name := directory(t, filepath.Join(dir, "a b", "..", ".my root")).DefaultName(); name != "my-root" {
		t.Errorf("default name %q", name)
	}
}
