package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"banger"
)

// A create that a kill -9 cut off was never there, wherever it had come to:
// its caller was not told of a VM.
func TestKillDuringCreate(t *testing.T) {
	for _, step := range []string{
		"create: reserved", "create: staged", "create: committed",
		"boot: prepared", "boot: intended", "boot: spawned", "create: running",
	} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			if err := h.spawn(step); err != nil {
				t.Fatal(err)
			}
			_, err := h.create("web", false)
			wantKind(t, err, banger.Unavailable, "went away", "banger vm ls")
			h.died()
			h.open()
			h.clean()
			if list, err := h.client.VMList(t.Context()); err != nil || len(list) != 0 {
				t.Errorf("left: %+v, %v", list, err)
			}
			h.mustCreate("web", true) // its name is free
		})
	}
}

// A create that was not to start anything is whole with its record.
func TestKillDuringCreateNoStart(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	if err := h.spawn("create: committed"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.create("web", true); err == nil {
		t.Fatal("a dead daemon answered")
	}
	h.died()
	h.open()
	if rec := h.show("web"); rec.State != banger.Created {
		t.Errorf("got %+v", rec)
	}
}

func TestKillDuringStart(t *testing.T) {
	for step, want := range map[string]banger.VMState{
		"boot: prepared": banger.Created, "boot: intended": banger.Created, "boot: spawned": banger.Running,
	} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			if err := h.spawn(step); err != nil {
				t.Fatal(err)
			}
			rec := h.mustCreate("web", true)
			_, err := h.start("web")
			wantKind(t, err, banger.Unavailable)
			h.died()
			if d := h.disk(rec.ID); d.State == banger.Starting && d.Machine.BootID != bootID() {
				t.Errorf("the record does not tell of which boot it is: %+v", d.Machine)
			}
			h.open()
			if got := h.becomes("web", want).Capabilities; want == banger.Created && len(got) > 0 {
				t.Errorf("a VM without a machine has %+v", got)
			}
			if _, err := h.start("web"); err != nil {
				t.Fatal(err)
			}
			if _, err := h.exec(rec, "true"); err != nil {
				t.Error(err)
			}
			h.remove("web")
			h.clean()
		})
	}
}

// A guest that did not answer the old daemon in time does not get more than
// its time of the next one.
func TestBootTimeoutOfAdopted(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.script("web", script{Guest: "silent"})
	if err := h.spawn(""); err != nil {
		t.Fatal(err)
	}
	spec := testSpec("web")
	spec.BootTimeout = 1
	_, err := h.client.VMCreate(t.Context(), banger.VMCreateRequest{Spec: spec, NoStart: true}, nil)
	h.must(err)
	go func() { _, _ = h.start("web") }()
	h.becomes("web", banger.Starting)
	h.eventually(func() error {
		if len(h.processes("fakevmm")) == 0 {
			return fmt.Errorf("no VMM")
		}
		return nil
	})
	h.crash()
	h.open()
	if rec := h.becomes("web", banger.Failed); !strings.Contains(rec.Reason, "did not answer within 1s") {
		t.Errorf("reason %q", rec.Reason)
	}
	h.remove("web")
	h.clean()
}

// A machine runs on without a daemon, and the next one has it back.
func TestKillWhileRunning(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	if err := h.spawn(""); err != nil {
		t.Fatal(err)
	}
	before := h.mustCreate("web", false)
	h.crash()
	if _, err := h.exec(before, "true"); err != nil {
		t.Errorf("without a daemon: %v", err)
	}
	h.open()
	after := h.show("web")
	if after.State != banger.Running || after.Machine == nil || *after.Machine != *before.Machine || after.StartedAt != before.StartedAt {
		t.Fatalf("before %+v, after %+v", before, after)
	}
	if out, err := h.exec(after, "echo", "still"); err != nil || out != "still\n" {
		t.Errorf("exec: %q, %v", out, err)
	}
	if rec, err := h.stop(banger.VMStopRequest{Name: "web"}); err != nil || rec.State != banger.Stopped {
		t.Errorf("stop: %+v, %v", rec, err)
	}
	h.remove("web")
	h.clean()
}

func TestKillDuringStop(t *testing.T) {
	for _, step := range []string{"stop: intended", "stop: ordered"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			if err := h.spawn(step); err != nil {
				t.Fatal(err)
			}
			h.mustCreate("web", false)
			_, err := h.stop(banger.VMStopRequest{Name: "web"})
			wantKind(t, err, banger.Unavailable)
			h.died()
			h.open()
			if rec := h.becomes("web", banger.Stopped); rec.Reason != "stopped" {
				t.Errorf("reason %q", rec.Reason)
			}
			h.remove("web")
			h.clean()
		})
	}
}

func TestKillDuringDelete(t *testing.T) {
	for _, step := range []string{"delete: intended", "delete: ended", "delete: deleted"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			if err := h.spawn(step); err != nil {
				t.Fatal(err)
			}
			h.mustCreate("web", false)
			err := h.client.VMDelete(t.Context(), banger.NameRequest{Name: "web", Force: true})
			wantKind(t, err, banger.Unavailable)
			h.died()
			h.open()
			h.clean()
			h.mustCreate("web", true)
		})
	}
}

// What work that was cut off has left is swept away.
func TestSweep(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	for _, dir := range []string{h.layout.VMs(), h.layout.Kernels(), h.layout.Images(), h.layout.Scratch()} {
		for _, name := range []string{".tmp-1", ".trash-1"} {
			h.must(os.MkdirAll(filepath.Join(dir, name, "half"), 0o700))
		}
	}
	h.open()
	h.clean()
}

// What becomes of a machine while no daemon looks.
func TestEndWithoutDaemon(t *testing.T) {
	for name, tt := range map[string]struct {
		kill   func(m *banger.Machine) []int
		reason string
	}{
		"vmm":  {func(m *banger.Machine) []int { return []int{m.VMM.PID} }, "the VMM was ended by SIGKILL"},
		"shim": {func(m *banger.Machine) []int { return []int{m.Shim.PID} }, "its shim was killed"},
		"both": {func(m *banger.Machine) []int { return []int{m.Shim.PID, m.VMM.PID} }, "its shim was killed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			if err := h.spawn(""); err != nil {
				t.Fatal(err)
			}
			rec := h.mustCreate("web", false)
			h.crash()
			for _, pid := range tt.kill(rec.Machine) {
				h.must(syscall.Kill(pid, syscall.SIGKILL))
			}
			if name == "vmm" { // the shim has its last words
				h.eventually(func() error {
					if n := len(h.processes()); n > 0 {
						return fmt.Errorf("%d processes", n)
					}
					return nil
				})
			}
			h.open()
			if rec := h.becomes("web", banger.Failed); rec.Reason != tt.reason || rec.Machine != nil {
				t.Errorf("got %+v", rec)
			}
			if pids := h.processes(); len(pids) > 0 {
				t.Errorf("processes %v are left", pids)
			}
			if _, err := h.start("web"); err != nil {
				t.Error(err)
			}
		})
	}
}
