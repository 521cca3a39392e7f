package vmm

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger"
)

func TestValidate(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(dir, "open")
	if err := os.Mkdir(open, 0o755); err != nil {
		t.Fatal(err)
	}
	network := func() *Net {
		return &Net{
			Guest: netip.MustParsePrefix("192.168.127.2/24"), Gateway: netip.MustParseAddr("192.168.127.1"),
			DNS: netip.MustParseAddr("192.168.127.3"), MAC: []byte{0x52, 0x54, 0, 0, 0, 1},
		}
	}
	good := Spec{
		ID: "0f-a", CPUs: 2, Memory: 64 << 20, Kernel: "/k", Initrd: "/i", RunDir: dir, Accel: "auto",
		Cmdline: []string{"quiet", `root=PARTUUID=0,1`}, Disks: []Disk{{Path: "/d, with odd=name"}}, Net: network(),
	}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, bend := range map[string]func(*Spec){
		"id empty":          func(s *Spec) { s.ID = "" },
		"id with comma":     func(s *Spec) { s.ID = "a,process=x" },
		"id with dash":      func(s *Spec) { s.ID = "-a" },
		"id long":           func(s *Spec) { s.ID = strings.Repeat("a", 64) },
		"id with newline":   func(s *Spec) { s.ID = "a\n" },
		"no cpu":            func(s *Spec) { s.CPUs = 0 },
		"many cpus":         func(s *Spec) { s.CPUs = 256 },
		"no memory":         func(s *Spec) { s.Memory = 0 },
		"accel":             func(s *Spec) { s.Accel = "xen" },
		"no kernel":         func(s *Spec) { s.Kernel = "" },
		"relative kernel":   func(s *Spec) { s.Kernel = "k" },
		"relative initrd":   func(s *Spec) { s.Initrd = "i" },
		"protocol disk":     func(s *Spec) { s.Disks = []Disk{{Path: "nbd:x"}} },
		"control in disk":   func(s *Spec) { s.Disks = []Disk{{Path: "/d\x00"}} },
		"word with space":   func(s *Spec) { s.Cmdline = []string{"a b"} },
		"word with quote":   func(s *Spec) { s.Cmdline = []string{`a="b`} },
		"word with newline": func(s *Spec) { s.Cmdline = []string{"a\nb"} },
		"empty word":        func(s *Spec) { s.Cmdline = []string{""} },
		"run dir missing":   func(s *Spec) { s.RunDir = filepath.Join(dir, "no") },
		"run dir open":      func(s *Spec) { s.RunDir = open },
		"run dir a file":    func(s *Spec) { s.RunDir = "/proc/self/stat" },
		"guest of ipv6":     func(s *Spec) { s.Net.Guest = netip.MustParsePrefix("fd00::2/64") },
		"guest unset":       func(s *Spec) { s.Net.Guest = netip.Prefix{} },
		"gateway outside":   func(s *Spec) { s.Net.Gateway = netip.MustParseAddr("192.168.128.1") },
		"dns unset":         func(s *Spec) { s.Net.DNS = netip.Addr{} },
		"dns is gateway":    func(s *Spec) { s.Net.DNS = s.Net.Gateway },
		"mac unset":         func(s *Spec) { s.Net.MAC = nil },
		"mac multicast":     func(s *Spec) { s.Net.MAC[0] = 1 },
	} {
		bad := good
		bad.Net = network()
		bend(&bad)
		if err := bad.Validate(); !banger.IsKind(err, banger.Invalid) {
			t.Errorf("%s: got %v, want invalid", name, err)
		}
	}
}

func TestStartTime(t *testing.T) {
	const rest = " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21\n"
	for stat, want := range map[string]uint64{
		"1 (sh)" + rest:                  4242,
		"1 (a) b) (c d" + ")" + rest:     4242,
		"1 (x) S 1 2 3":                  0,
		"":                               0,
		"1 sh S 1 2 3 4 5 6 7 8 9 10 11": 0,
	} {
		got, err := startTime([]byte(stat))
		if got != want || (err != nil) != (want == 0) {
			t.Errorf("%q: got %d, %v, want %d", stat, got, err, want)
		}
	}
}

func TestProcessOf(t *testing.T) {
	cmd := exec.Command("cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	own, err := ProcessOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	child, err := ProcessOf(cmd.Process.Pid)
	if err != nil || child.PID != cmd.Process.Pid || child.StartTime < own.StartTime {
		t.Errorf("child %+v (%v), own %+v", child, err, own)
	}
	_ = stdin.Close()
	_ = cmd.Wait()
	if _, err := ProcessOf(cmd.Process.Pid); !banger.IsKind(err, banger.NotFound) {
		t.Errorf("ended process: got %v", err)
	}
}

func TestCPUTime(t *testing.T) {
	for end := time.Now().Add(10 * time.Second); CPUTime(os.Getpid()) == 0; { // this loop is what it counts
		if time.Now().After(end) {
			t.Fatal("this process has used no time")
		}
	}
	if d := CPUTime(-1); d != 0 {
		t.Errorf("no process has used %s", d)
	}
}
