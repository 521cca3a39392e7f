package daemon

import (
	"fmt"
	"net"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"banger"
)

// TestRoutes wants the table sorted and named as the design has it.
func TestRoutes(t *testing.T) {
	var names []string
	for _, r := range (&Daemon{}).routes() {
		names = append(names, r.Name)
		if !regexp.MustCompile(`^(image|kernel|system|vm)\.[a-z]+$`).MatchString(r.Name) {
			t.Errorf("%q is not noun.verb", r.Name)
		}
	}
	if !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != len(names) {
		t.Errorf("not sorted, or twice: %v", names)
	}
}

// One daemon per root, and one per socket.
func TestSecondDaemon(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	second := testDaemon(h.base, h.log)
	wantKind(t, second.Open(t.Context()), banger.Conflict, "another daemon serves")

	elsewhere := testDaemon(h.base+"/2", h.log)
	elsewhere.Layout.Run = h.layout.Run // as with another HOME and the same XDG_RUNTIME_DIR
	h.must(elsewhere.Open(t.Context()))
	_, err := elsewhere.Listen()
	wantKind(t, err, banger.Conflict, "another state root", "BANGER_ROOT")
	h.must(elsewhere.Close())
	h.mustCreate("web", true) // the first one serves on

	h.close()
	for name, make := range map[string]func(path string) error{
		"a file":    func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"a symlink": func(path string) error { return os.Symlink("/dev/null", path) },
	} {
		_ = os.Remove(h.layout.Socket())
		h.must(h.layout.MakeRun()) // the last daemon took it with it
		h.must(make(h.layout.Socket()))
		d := testDaemon(h.base, h.log)
		h.must(d.Open(t.Context()))
		_, err := d.Listen()
		wantKind(t, err, banger.Conflict, "it is not a socket", "rm "+h.layout.Socket())
		h.must(d.Close())
		if _, err := os.Lstat(h.layout.Socket()); err != nil {
			t.Errorf("%s was removed: %v", name, err)
		}
	}
	_ = os.Remove(h.layout.Socket())
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: h.layout.Socket(), Net: "unix"})
	h.must(err)
	l.SetUnlinkOnClose(false)
	_ = l.Close() // as a daemon that was killed leaves it
	h.open()
	h.remove("web")
}

// Twenty creates of one name at once: one wins, the others learn why not.
func TestSameName(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	errs := make([]error, 20)
	var all sync.WaitGroup
	for i := range errs {
		all.Go(func() { _, errs[i] = h.create("web", true) })
	}
	all.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
			continue
		}
		wantKind(t, err, banger.Exists, `a vm named "web" is already there`, "banger vm rm web")
	}
	if list, err := h.client.VMList(t.Context()); won != 1 || err != nil || len(list) != 1 {
		t.Errorf("%d won, list %+v, %v", won, list, err)
	}
	h.remove("web")
	h.clean()
}

// A create that failed early gives its name back.
func TestNameAfterFailure(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	spec := testSpec("web")
	for range 2 {
		spec.Image = "imag"
		_, err := h.client.VMCreate(t.Context(), banger.VMCreateRequest{Spec: spec}, nil)
		wantKind(t, err, banger.NotFound, `no image named "imag"`, "did you mean image?")
		spec.Image, spec.Kernel = "image", "kernal"
		_, err = h.client.VMCreate(t.Context(), banger.VMCreateRequest{Spec: spec}, nil)
		wantKind(t, err, banger.NotFound, `"kernal"`)
		spec.Kernel = "kernel"
	}
	h.clean()
	h.mustCreate("web", true)
}

// What a VM cannot be.
func TestBadSpecs(t *testing.T) {
	for name, bend := range map[string]func(*banger.VMSpec){
		"name with slash":   func(s *banger.VMSpec) { s.Name = "../web" },
		"name with capital": func(s *banger.VMSpec) { s.Name = "Web" },
		"name too long":     func(s *banger.VMSpec) { s.Name = strings.Repeat("a", 64) },
		"name with newline": func(s *banger.VMSpec) { s.Name = "web\n" },
		"init":              func(s *banger.VMSpec) { s.Init = "sysv" },
		"net":               func(s *banger.VMSpec) { s.Net = "bridge" },
		"accel":             func(s *banger.VMSpec) { s.Accel = "xen" },
		"cpus":              func(s *banger.VMSpec) { s.CPUs = -1 },
		"memory":            func(s *banger.VMSpec) { s.Memory = 1 },
		"disk":              func(s *banger.VMSpec) { s.Disk = 1 << 60 },
		"boot time":         func(s *banger.VMSpec) { s.BootTimeout = 1 << 60 }, // would turn negative
		"time":              func(s *banger.VMSpec) { s.Timeout = 1 << 40 },
		"idle time":         func(s *banger.VMSpec) { s.IdleTimeout = -1 },
		"host name":         func(s *banger.VMSpec) { s.Hostname = "a.b" },
		"working directory": func(s *banger.VMSpec) { s.WorkingDir = "srv" },
		"user":              func(s *banger.VMSpec) { s.User = "me\n" },
		"environment":       func(s *banger.VMSpec) { s.Env = []string{"=x"} },
		"large environment": func(s *banger.VMSpec) { s.Env = []string{"X=" + strings.Repeat("x", maxGuestEnv)} },
		"SSH key":           func(s *banger.VMSpec) { s.AuthorizedKeys = []string{"ssh-rsa"} },
		"label":             func(s *banger.VMSpec) { s.Labels = map[string]string{"a b": ""} },
		"label's value":     func(s *banger.VMSpec) { s.Labels = map[string]string{"a": "\x1b[2J"} },
		"restart":           func(s *banger.VMSpec) { s.Restart = "sometimes" },
		"no image":          func(s *banger.VMSpec) { s.Image = "" },
		"kernel argument":   func(s *banger.VMSpec) { s.KernelArgs = []string{"debug", "root=/dev/vdb"} },
	} {
		s := testSpec("web")
		bend(&s)
		if _, err := fillSpec(s); !banger.IsKind(err, banger.Invalid) {
			t.Errorf("%s: got %v, want invalid", name, err)
		}
	}
	s, err := fillSpec(banger.VMSpec{Image: "image"})
	want := banger.VMSpec{Image: "image", CPUs: 1, Memory: 512 << 20, Disk: 10 << 30, Init: "auto", Net: "nat", Accel: "auto", Restart: "no", BootTimeout: 120}
	if err != nil || !reflect.DeepEqual(s, want) {
		t.Errorf("defaults: %+v, %v", s, err)
	}
}

func TestFind(t *testing.T) {
	d := &Daemon{life: t.Context(), vms: map[string]*vm{}}
	for id, name := range map[string]string{
		"aaaa00000001": "web", "aaaa00000002": "db", "aaab00000003": "aaaa00000001", "bbbb00000004": "aaab", "cccc00000005": "cccc",
	} {
		d.vms[id] = d.newVM(banger.VM{ID: id, Name: name})
	}
	for name, want := range map[string]string{
		"web":          "aaaa00000001",
		"aaaa00000002": "aaaa00000002",
		"aaaa00000001": "aaaa00000001", // an ID before a name
		"aaab":         "bbbb00000004", // a name before a prefix
		"aaab0":        "aaab00000003",
		"bbbb":         "bbbb00000004",
		"cccc":         "cccc00000005",
	} {
		for range 10 { // the order of a map is another one each time
			if v, err := d.find(name); err != nil || v.rec.ID != want {
				t.Fatalf("find %q: %+v, %v, want %s", name, v, err, want)
			}
		}
	}
	_, err := d.find("aaaa")
	wantKind(t, err, banger.Invalid, "aaaa00000001, aaaa00000002")
	_, err = d.find("aaa") // too short for a prefix
	wantKind(t, err, banger.NotFound, "did you mean aaab?")
	_, err = d.find("wep")
	wantKind(t, err, banger.NotFound, "did you mean web?")
	for _, name := range []string{"", "nothing like it", "../aaaa00000001", fmt.Sprint(strings.Repeat("x", 1<<16))} {
		_, err = d.find(name)
		wantKind(t, err, banger.NotFound)
	}
}
