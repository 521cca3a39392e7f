package daemon

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"banger"
	"banger/internal/shim"
	"banger/internal/state"
	"banger/internal/vmm"
)

// spoilers make a file unreadable as a record, each in its own way.
var spoilers = map[string]func(path string) error{
	"truncated": func(p string) error { return os.Truncate(p, 40) },
	"empty":     func(p string) error { return os.Truncate(p, 0) },
	"symlink": func(p string) error {
		return firstError(os.Rename(p, p+".away"), os.Symlink(p+".away", p))
	},
	"directory":   func(p string) error { return firstError(os.Remove(p), os.MkdirAll(p+"/full", 0o700)) },
	"huge":        func(p string) error { return os.Truncate(p, 2<<20) },
	"wrong types": func(p string) error { return os.WriteFile(p, []byte(`{"id": 5, "phase": [], "machine": "x"}`), 0o600) },
	"null":        func(p string) error { return os.WriteFile(p, []byte("null"), 0o600) },
	"no fields":   func(p string) error { return os.WriteFile(p, []byte("{}"), 0o600) },
	"missing":     os.Remove,
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// A record that cannot be read is listed with its problem and can be removed;
// the daemon serves on, the other VMs too.
func TestCorruptRecord(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	good := h.mustCreate("good", false)
	spoil := maps.Clone(spoilers)
	replace := func(old, to string) func(string) error {
		return func(p string) error {
			b, err := os.ReadFile(p)
			return firstError(err, os.WriteFile(p, []byte(strings.Replace(string(b), old, to, 1)), 0o600))
		}
	}
	spoil["id of another"] = replace(`"id": "`, `"id": "`+good.ID+`", "x": "`)
	spoil["id of a path"] = replace(`"id": "`, `"id": "../../`)
	spoil["state"] = replace(`"state": "created"`, `"state": "dreaming"`)
	spoil["broken"] = replace(`"state": "created"`, `"state": "broken"`)
	spoil["root"] = replace(`"root": "overlay"`, `"root": "cellar"`)
	spoil["name"] = replace(`"name": "`, `"name": "../`)
	ids := map[string]string{}
	for name := range spoil {
		ids[name] = h.mustCreate("", true).ID
	}
	h.close()
	for name, f := range spoil {
		h.must(f(filepath.Join(h.layout.VM(ids[name]), state.VMFile)))
	}
	h.must(os.MkdirAll(h.layout.VM("daemon.sock"), 0o700)) // a folder that is none of banger's
	ids["foreign"] = "daemon.sock"
	h.open()
	list, err := h.client.VMList(t.Context())
	if err != nil || len(list) != len(ids)+1 {
		t.Fatalf("list of %d, %v, want %d", len(list), err, len(ids)+1)
	}
	if rec := h.show("good"); rec.State != banger.Running || rec.ID != good.ID {
		t.Errorf("good: %+v", rec)
	}
	for name, id := range ids {
		rec := h.show(id)
		if rec.ID != id || rec.Name != id || rec.State != banger.Broken || rec.Problem == "" {
			t.Errorf("%s: %+v", name, rec)
		}
		before, _ := os.ReadFile(filepath.Join(h.layout.VM(id), state.VMFile))
		_, err := h.start(id)
		wantKind(t, err, banger.Conflict, "banger vm rm "+id)
		if _, err := h.stop(banger.VMStopRequest{Name: id}); err != nil {
			t.Errorf("%s: stop: %v", name, err)
		}
		if after, _ := os.ReadFile(filepath.Join(h.layout.VM(id), state.VMFile)); string(after) != string(before) {
			t.Errorf("%s: the record was written over", name)
		}
		h.must(h.client.VMDelete(t.Context(), banger.NameRequest{Name: id}))
	}
	if out, err := h.exec(h.show("good"), "echo", "good"); err != nil || out != "good\n" {
		t.Errorf("good: %q, %v", out, err)
	}
	h.remove("good")
	h.clean()
}

// The machine of a VM whose record was lost goes when the VM is removed.
func TestCorruptRecordOfRunning(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	id := h.mustCreate("web", false).ID
	h.close()
	h.must(os.Truncate(filepath.Join(h.layout.VM(id), state.VMFile), 10))
	h.open()
	if n := len(h.processes()); n != 2 {
		t.Errorf("%d processes, want shim and VMM", n)
	}
	h.must(h.client.VMDelete(t.Context(), banger.NameRequest{Name: id}))
	h.clean()
}

// What the shim and the daemon leave each other may be damaged too.
func TestCorruptBootAndExit(t *testing.T) {
	for name, spoil := range spoilers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.open()
			rec := h.mustCreate("web", true)
			boot, exit := filepath.Join(h.layout.VM(rec.ID), state.BootFile), filepath.Join(h.layout.VM(rec.ID), state.ExitFile)
			h.close()
			rec = h.disk(rec.ID)
			rec.State, rec.Machine = banger.Running, &banger.Machine{BootID: bootID(), Shim: banger.Process{PID: 1, StartTime: 1}}
			h.must(state.WriteRecord(filepath.Join(h.layout.VM(rec.ID), state.VMFile), rec))
			for _, path := range []string{boot, exit} {
				h.must(state.WriteRecord(path, shim.Status{Phase: shim.Ended, End: &shim.End{State: "running", Reason: strings.Repeat("x", 80)}}))
				h.must(spoil(path))
			}
			h.open()
			if rec := h.becomes("web", banger.Failed); rec.Reason != "its shim was killed" {
				t.Errorf("reason %q", rec.Reason)
			}
			_, err := h.start("web")
			if name == "directory" && err != nil { // in the place of a file: not banger's work, so not banger's to remove
				wantKind(t, err, banger.Internal, state.BootFile)
			} else if err != nil {
				t.Error(err)
			}
			h.remove("web")
			h.clean()
		})
	}
}

// A shim whose boot.json is damaged at the last moment says so.
func TestShimCannotRead(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open(func(d *Daemon) {
		d.step = func(name string) {
			if name == "boot: intended" {
				files, _ := filepath.Glob(h.layout.VMs() + "/*/" + state.BootFile)
				h.must(os.Truncate(files[0], 20))
			}
		}
	})
	h.mustCreate("web", true)
	_, err := h.start("web")
	wantKind(t, err, banger.Unavailable, "its shim ended before the machine was started", "boot.json")
	if rec := h.show("web"); rec.State != banger.Failed {
		t.Errorf("got %+v", rec)
	}
	h.remove("web")
	h.clean()
}

// A pid is not a process: one that has the number of a machine's VMM or shim by
// now is left alone. One that is the VMM is not.
func TestPidReused(t *testing.T) {
	for name, tt := range map[string]struct {
		bend func(m *banger.Machine, p *banger.Process)
		dies bool
		want string
	}{
		"another process": {func(_ *banger.Machine, p *banger.Process) { p.StartTime++ }, false, "failed: its shim was killed"},
		"another boot":    {func(m *banger.Machine, _ *banger.Process) { m.BootID = "before" }, false, "stopped: the host was restarted"},
		"the same":        {func(*banger.Machine, *banger.Process) {}, true, "failed: its shim was killed"},
	} {
		for _, s := range []banger.VMState{banger.Starting, banger.Running, banger.Stopping} {
			t.Run(name+"/"+string(s), func(t *testing.T) {
				t.Parallel()
				h := newHost(t)
				h.open()
				rec := h.mustCreate("web", true)
				h.close()
				cmd := exec.Command("sleep", "60")
				h.must(cmd.Start())
				ended := make(chan error, 1)
				go func() { ended <- cmd.Wait() }()
				t.Cleanup(func() { _ = cmd.Process.Kill() })
				p, err := vmm.ProcessOf(cmd.Process.Pid)
				h.must(err)
				rec = h.disk(rec.ID)
				rec.State, rec.Machine = s, &banger.Machine{BootID: bootID()}
				tt.bend(rec.Machine, &p)
				rec.Machine.VMM, rec.Machine.Shim = p, banger.Process{PID: p.PID, StartTime: p.StartTime + 7}
				h.must(state.WriteRecord(filepath.Join(h.layout.VM(rec.ID), state.VMFile), rec))
				h.open()
				want := tt.want
				if s == banger.Stopping && strings.HasPrefix(want, "failed") {
					want = "stopped: killed"
				}
				if rec := h.show("web"); fmt.Sprintf("%s: %s", rec.State, rec.Reason) != want {
					t.Errorf("got %s: %s, want %s", rec.State, rec.Reason, want)
				}
				if tt.dies {
					<-ended
				} else if _, err := vmm.ProcessOf(cmd.Process.Pid); err != nil {
					t.Errorf("the process was killed: %v", err)
				}
				h.remove("web")
				h.clean()
			})
		}
	}
}
