package kernelcat

import (
	"context"
	"debug/elf"
	"os"
	"strings"
	"testing"

	"banger"
)

// oneFile is a source that has a kernel and perhaps a name for its version.
type oneFile struct {
	kernel  []byte
	version string
	config  string
	asked   *int
}

func (oneFile) String() string      { return "one" }
func (oneFile) DefaultName() string { return "one" }

func (s oneFile) fill(_ context.Context, f *filling) (origin, error) {
	*s.asked++
	if s.version != "" {
		if err := f.bundle.setVersion(s.version); err != nil {
			return origin{}, err
		}
	}
	if s.config != "" {
		if err := f.bundle.setConfig(strings.NewReader(s.config)); err != nil {
			return origin{}, err
		}
	}
	return origin{source: "one"}, f.bundle.setKernel("vmlinuz", strings.NewReader(string(s.kernel)))
}

// What a kernel says of itself counts, whatever the source.
func TestPullBelieves(t *testing.T) {
	inside := "Linux version 6.1.0-x (builder@host) #1\n" + ikconfig("CONFIG_IP_PNP=y\n")
	image := withVersion(bzImage(packGzip(append(vmlinuxELF(elf.EM_X86_64, true, 100), inside...))), "6.1.0-x (builder@host)")
	mute := bzImage(packGzip(vmlinuxELF(elf.EM_X86_64, true, 100)))
	for _, tt := range []struct {
		name    string
		source  oneFile
		arch    string
		version string // of the record
		feature string
		kind    banger.Kind
	}{
		{"all in the image", oneFile{kernel: image}, "", "6.1.0-x", "ip_pnp", ""},
		{"a name that agrees", oneFile{kernel: image, version: "6.1.0-x"}, "", "6.1.0-x", "ip_pnp", ""},
		{"a name that does not", oneFile{kernel: image, version: "6.1.0-y"}, "", "", "", banger.Invalid},
		{"a configuration of the source's", oneFile{kernel: image, config: "CONFIG_9P_FS=y\n"}, "", "6.1.0-x", "9p", ""},
		{"a name only", oneFile{kernel: mute, version: "6.1.0-y"}, "", "6.1.0-y", "pvh", ""},
		{"another machine's", oneFile{kernel: vmlinuxELF(elf.EM_RISCV, true, 100)}, "", "", "", banger.Unsupported},
		{"another machine's, asked for", oneFile{kernel: image}, "riscv64", "", "", banger.Unsupported},
	} {
		asked := 0
		tt.source.asked = &asked
		dir := t.TempDir()
		k, err := Pull(t.Context(), dir, Want{Name: "k", Arch: tt.arch}, []Source{tt.source}, Options{TempDir: t.TempDir()})
		if k.KernelVersion != tt.version || tt.kind == "" && err != nil || tt.kind != "" && !banger.IsKind(err, tt.kind) {
			t.Errorf("%s: got %q, %v", tt.name, k.KernelVersion, err)
		}
		if k.Features[tt.feature] != "builtin" && tt.feature != "" || tt.feature == "9p" && k.Features["ip_pnp"] != "" {
			t.Errorf("%s: features %v", tt.name, k.Features)
		}
		if tt.arch != "" && asked > 0 {
			t.Errorf("%s: the source was asked", tt.name)
		}
		if files, _ := os.ReadDir(dir); err != nil && len(files) > 0 {
			t.Errorf("%s: files left: %v", tt.name, files)
		}
	}
}
