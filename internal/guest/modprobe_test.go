package guest

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestFindModule(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"modules.dep": "kernel/net/bridge.ko: kernel/net/stp.ko kernel/net/llc.ko\nkernel/net/stp.ko: kernel/net/llc.ko\nkernel/net/llc.ko:\n" +
			"kernel/crypto/a-generic.ko:\nkernel/crypto/a_fast.ko: kernel/crypto/a-generic.ko\n",
		"modules.alias": "alias rtnl-link-bridge bridge\nalias crypto-a a_generic\nalias crypto-a a_fast\nalias cpu:type:*feature:*00[0-4]? stp\nbad\nalias x y z\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string][]string{
		"bridge":                  {"kernel/net/llc.ko", "kernel/net/stp.ko", "kernel/net/bridge.ko"},
		"rtnl-link-bridge":        {"kernel/net/llc.ko", "kernel/net/stp.ko", "kernel/net/bridge.ko"},
		"rtnl_link_bridge":        {"kernel/net/llc.ko", "kernel/net/stp.ko", "kernel/net/bridge.ko"},
		"a-generic":               {"kernel/crypto/a-generic.ko"},
		"crypto-a":                {"kernel/crypto/a-generic.ko", "kernel/crypto/a-generic.ko", "kernel/crypto/a_fast.ko"},
		"cpu:type:x,feature:,003": nil,
		"cpu:type:xfeature:00031": {"kernel/net/llc.ko", "kernel/net/stp.ko"},
		"../../etc/passwd":        nil,
		"":                        nil,
	} {
		got, err := findModule(dir, name)
		if !slices.Equal(got, want) || (err == nil) != (want != nil) {
			t.Errorf("%q: %v, %v, want %v", name, got, err, want)
		}
	}
	if _, err := findModule(filepath.Join(dir, "none"), "bridge"); err == nil {
		t.Error("no index, no error")
	}
}

func TestProbesFail(t *testing.T) {
	for name, try := range map[string]func() error{
		"file system": fileSystem("nosuchfs"),
		"interface":   linkKind("nosuchkind"),
		"driver":      virtioDriver("nosuchdriver"),
		"device":      device("/dev/nosuchdevice"),
		"file":        present("/proc/nosuchfile"),
		"socket":      func() error { return trySocket(45, 1, 0) },
	} {
		if err := try(); err == nil {
			t.Errorf("%s: found what does not exist", name)
		}
	}
	seen := map[string]bool{}
	for _, p := range probes {
		if seen[p.name] {
			t.Errorf("%s is tried twice", p.name)
		}
		seen[p.name] = true
	}
}
