package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger"
	"banger/internal/state"
)

// serves labels the image with services.
func (h *host) serves(services string) {
	h.t.Helper()
	config := fmt.Sprintf(`{"config": {"Labels": {%q: %q}}}`, labelServices, services)
	h.must(os.WriteFile(filepath.Join(h.layout.Images(), "image", state.OCIConfigFile), []byte(config), 0o600))
}

// appears makes the fake guest have what is wanted.
func (h *host) appears(want string) {
	h.t.Helper()
	h.must(os.WriteFile(filepath.Join(h.base, "etc", want), nil, 0o600))
}

// has wants the VM's capabilities to be so, as "name state", also on disk.
func (h *host) has(name string, want ...string) {
	h.t.Helper()
	h.eventually(func() error {
		rec := h.show(name)
		for _, list := range [][]banger.Capability{rec.Capabilities, h.disk(rec.ID).Capabilities} {
			var got []string
			for _, c := range list {
				got = append(got, c.Name+" "+string(c.State))
			}
			if strings.Join(got, ", ") != strings.Join(want, ", ") {
				return fmt.Errorf("capabilities of %s: %v, want %v", name, got, want)
			}
		}
		return nil
	})
}

func TestCapabilitiesAreWaitedFor(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	h.serves("opencode:4096")
	h.appears("tcp:4096")
	h.appears("unit:web.service")
	spec := testSpec("web")
	spec.Net, spec.WaitFor = "nat", []string{"unit:web.service", waitAgent}
	_, err := h.client.VMCreate(t.Context(), banger.VMCreateRequest{Spec: spec}, nil)
	h.must(err)
	all := []string{"nat ready", "agent ready", "ssh ready", "opencode ready", "unit:web.service ready"}
	h.has("web", all...)

	// More, by one start of its own.
	waits := make(chan error, 1)
	await := func(words ...string) error {
		_, err := h.client.VMAwait(t.Context(), banger.VMAwaitRequest{Name: "web", WaitFor: words}, nil)
		return err
	}
	go func() { waits <- await("tcp:8080") }()
	h.has("web", append(all, "tcp:8080 waiting")...)
	h.appears("tcp:8080")
	h.must(<-waits)
	h.has("web", append(all, "tcp:8080 ready")...)
	wantKind(t, await("vsock:4096"), banger.Unsupported, "virtio-serial port", "tcp:4096")
	wantKind(t, await("tcp:none"), banger.Invalid, `cannot wait for "tcp:none"`)

	// A guest that reboots is to have them anew; one that has ended has none.
	h.guestEnds(h.show("web"), "reboot")
	h.eventually(func() error {
		if v := h.show("web"); v.Machine == nil || h.d.vmNamed(t, "web").last().Reboots != 1 {
			return fmt.Errorf("not rebooted: %+v", v)
		}
		return nil
	})
	h.has("web", append(all, "tcp:8080 ready")...)
	_, err = h.stop(banger.VMStopRequest{Name: "web"})
	h.must(err)
	h.has("web")
	wantKind(t, await("tcp:8080"), banger.Conflict, "is stopped", "banger vm start web")
}

func (d *Daemon) vmNamed(t *testing.T, name string) *vm {
	t.Helper()
	v, err := d.find(name)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestCapabilityThatDoesNotCome(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	h.serves("opencode:4096")
	spec := testSpec("web")
	spec.BootTimeout = 1
	_, err := h.client.VMCreate(t.Context(), banger.VMCreateRequest{Spec: spec, NoStart: true}, nil)
	h.must(err)
	_, err = h.start("web")
	wantKind(t, err, banger.Unavailable, `start vm "web": wait for opencode (tcp:4096): not ready within 1s; last seen: nobody \x1b[2Jlistens`, "banger vm ssh web")
	rec := h.becomes("web", banger.Running) // to be looked at
	h.has("web", "agent ready", "ssh ready", "opencode failed")
	if _, err := h.start("web"); err != nil { // it runs
		t.Error(err)
	}
	if d := rec.Capabilities[2].Detail; !strings.Contains(d, "not ready within 1s") {
		t.Errorf("detail %q", d)
	}
	h.remove("web")

	// What was to be there from the beginning is not there at all.
	_, err = h.client.VMCreate(t.Context(), banger.VMCreateRequest{Spec: spec}, nil)
	wantKind(t, err, banger.Unavailable, "wait for opencode")
	h.clean()
}

// The next daemon goes on waiting.
func TestCapabilityAcrossDaemons(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	h.serves("opencode:4096")
	h.mustCreate("web", true)
	client := h.client // the next daemon has another one
	go func() { _, _ = client.VMStart(t.Context(), banger.NameRequest{Name: "web"}, nil) }()
	h.becomes("web", banger.Running)
	h.close()
	h.open()
	h.has("web", "agent ready", "ssh ready", "opencode waiting")
	h.appears("tcp:4096")
	h.has("web", "agent ready", "ssh ready", "opencode ready")
}

func TestCapabilities(t *testing.T) {
	for _, c := range []struct {
		name     string
		spec     banger.VMSpec
		services string
		want     string
	}{
		{"none", banger.VMSpec{Net: "none"}, "", "agent/ ssh/"},
		{"nat", banger.VMSpec{Net: "nat"}, "", "nat/ agent/ ssh/"},
		{"services", banger.VMSpec{}, "opencode:4096,web:80 db:5432", "agent/ ssh/ opencode/tcp:4096 web/tcp:80 db/tcp:5432"},
		{"bad services", banger.VMSpec{}, "x,a:b,a:0,a:65536,-:80,\x1b:80,ok:1", `agent/ ssh/ "x"! "a:b"! "a:0"! "a:65536"! "-:80"! "\x1b:80"! ok/tcp:1`},
		{"nobody starts them", banger.VMSpec{Init: "banger"}, "web:80", "agent/ ssh/ web!"},
		{"asked for", banger.VMSpec{WaitFor: []string{"tcp:1", "vsock:22", "unit:a@b.service"}}, "", "agent/ ssh/ tcp:1/tcp:1 unit:a@b.service/unit:a@b.service"},
		{"too many", banger.VMSpec{}, strings.Repeat("a:1,", 40), "agent/ ssh/" + strings.Repeat(" a/tcp:1", 30)},
	} {
		var got []string
		for _, x := range capabilities(c.spec, map[string]string{labelServices: c.services}) {
			if word := x.name + "/" + x.want; x.problem == "" {
				got = append(got, word)
			} else {
				got = append(got, x.name+"!")
			}
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s: got %s, want %s", c.name, s, c.want)
		}
	}
	for _, word := range []string{"tcp:0", "tcp:65536", "tcp:-1", "tcp:", "tcp", "unit:", "unit:-a", "unit:a b", "unit:a\n", "vsock:x", "udp:53", ""} {
		if err := checkWait(word); !banger.IsKind(err, banger.Invalid) {
			t.Errorf("%q: %v", word, err)
		}
	}
}
