package qemu

import (
	"flag"
	"os"
	"strings"
	"testing"

	"banger/internal/vmm"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestArgs(t *testing.T) {
	for _, tt := range []struct {
		golden string
		launch launch
		spec   vmm.Spec
	}{
		{"tcg", launch{accel: vmm.AccelTCG, tscKHz: 2596142, sandbox: true}, vmm.Spec{
			ID: "0123456789ab", CPUs: 2, Memory: 1 << 30, Kernel: "/k/vmlinux", Initrd: "/k/initrd.img",
			Cmdline: []string{"banger.root=/dev/vdb", "ip=192.168.127.2::192.168.127.1"},
			Disks:   []vmm.Disk{{Path: "/d/boot.img", ReadOnly: true}, {Path: "/d/root.img", ReadOnly: true}, {Path: "/d/disk.img"}},
			Net:     testNet,
		}},
		{"kvm", launch{accel: vmm.AccelKVM, sandbox: true}, vmm.Spec{ID: "a", CPUs: 1, Memory: 100<<20 + 1, Kernel: "/k/vmlinux"}},
		{"odd", launch{accel: vmm.AccelTCG}, vmm.Spec{
			ID: "a", CPUs: 1, Memory: 64 << 20, Kernel: "/k,driver=x/vm linux",
			Disks: []vmm.Disk{{Path: "/d,read-only=off/it's json:{}"}},
		}},
	} {
		args, err := tt.launch.args(tt.spec)
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Join(args, "\n") + "\n"
		path := "testdata/args-" + tt.golden + ".golden"
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s: got\n%s\nwant\n%s", tt.golden, got, want)
		}
	}
}

func TestEscape(t *testing.T) {
	for in, want := range map[string]string{"/plain": "/plain", "/a,b": "/a,,b", ",": ",,", "a,,b": "a,,,,b", "k=v": "k=v"} {
		if got := escape(in); got != want {
			t.Errorf("escape(%q) = %q, want %q", in, got, want)
		}
	}
}
