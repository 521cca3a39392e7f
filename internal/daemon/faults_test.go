package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger"
	"banger/internal/state"
)

// A create whose machine does not come up fails with the reason, and leaves
// nothing; a start leaves the VM with the reason.
func TestBootFails(t *testing.T) {
	escape := "\x1b[31mlast \u202ewords\u009b2J\tof it\r\n"
	for name, tt := range map[string]struct {
		script script
		words  []string // of the error
	}{
		"refuses":     {script{Refuse: true}, []string{"no such VMM", "apt-get install vmm"}},
		"hangs":       {script{Hang: true}, []string{"did not answer within 1s"}},
		"dies":        {script{Guest: "silent", DieAfter: time.Millisecond, Code: 3}, []string{"the VMM ended with code 3"}},
		"silent":      {script{Guest: "silent", Console: escape}, []string{"did not answer within 1s", "console:\n[31mlast words2J of it"}},
		"stuck":       {script{Guest: "stuck"}, []string{"did not answer within 1s"}},
		"garbage":     {script{Guest: "garbage"}, []string{"did not answer within 1s"}},
		"cannot boot": {script{Guest: "fail", FailText: "no disk\x1b[0m"}, []string{"the guest could not boot: no disk"}},
		"shim hangs":  {script{ShimHangs: true}, []string{"did not answer within 1s"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.script("web", tt.script)
			h.open()
			spec := testSpec("web")
			spec.BootTimeout = 1
			_, err := h.client.VMCreate(t.Context(), banger.VMCreateRequest{Spec: spec}, nil)
			wantKind(t, err, banger.Unavailable, tt.words...)
			if err != nil && strings.ContainsAny(err.Error(), "\x1b\u009b\u202e") {
				t.Errorf("control characters in %q", err)
			}
			h.clean()
			if list, _ := h.client.VMList(t.Context()); len(list) != 0 {
				t.Errorf("left: %+v", list)
			}
			_, err = h.client.VMCreate(t.Context(), banger.VMCreateRequest{Spec: spec, NoStart: true}, nil)
			h.must(err) // the name is free
			_, err = h.start("web")
			wantKind(t, err, banger.Unavailable, tt.words[0])
			if rec := h.show("web"); rec.State != banger.Failed || !strings.Contains(rec.Reason, tt.words[0]) || rec.Machine != nil {
				t.Errorf("failed vm: %+v", rec)
			}
			h.eventually(func() error { return left(h) })
			h.script("web", script{}) // what was wrong is put right
			if _, err := h.start("web"); err != nil {
				t.Error(err)
			}
			h.remove("web")
			h.clean()
		})
	}
}

// left is an error as long as there are processes.
func left(h *host) error {
	if pids := h.processes(); len(pids) > 0 {
		return fmt.Errorf("processes %v are left", pids)
	}
	return nil
}

// A shim that is killed takes its machine with it, in whatever phase that is.
func TestShimKilled(t *testing.T) {
	for name, tt := range map[string]struct {
		script script
		order  func(h *host) // what the VM is asked before
		state  banger.VMState
		reason string
	}{
		"in the start": {script{Hang: true}, nil, banger.Failed, "its shim ended before the machine was started"},
		"in the boot":  {script{Guest: "silent"}, nil, banger.Failed, "its shim was killed"},
		"running":      {script{}, nil, banger.Failed, "its shim was killed"},
		"stopping": {script{Guest: "deaf"}, func(h *host) {
			go func() { _, _ = h.stop(banger.VMStopRequest{Name: "web", Seconds: 60}) }()
			h.becomes("web", banger.Stopping)
		}, banger.Stopped, "killed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.script("web", tt.script)
			h.open()
			h.mustCreate("web", true)
			started := make(chan error, 1)
			go func() {
				_, err := h.start("web")
				started <- err
			}()
			if name == "running" || name == "stopping" {
				h.must(<-started)
			}
			var shim, vmm []int
			h.eventually(func() error {
				if shim, vmm = h.processes("shim"), h.processes("fakevmm"); len(shim) != 1 || len(vmm) != 1 {
					return fmt.Errorf("shims %v, VMMs %v", shim, vmm)
				}
				if name == "in the boot" && h.show("web").Machine.Shim.PID == 0 {
					return fmt.Errorf("the machine is not known yet")
				}
				return nil
			})
			if tt.order != nil {
				tt.order(h)
			}
			h.must(syscall.Kill(shim[0], syscall.SIGKILL))
			rec := h.becomes("web", tt.state)
			if rec.Reason != tt.reason {
				t.Errorf("reason %q, want %q", rec.Reason, tt.reason)
			}
			if err := left(h); err != nil { // at once: the VM may be started again
				t.Error(err)
			}
			if name == "in the start" || name == "in the boot" {
				wantKind(t, <-started, banger.Unavailable, tt.reason)
			}
			h.script("web", script{})
			if _, err := h.start("web"); err != nil {
				t.Error(err)
			}
			h.remove("web")
			h.clean()
		})
	}
}

// The VMM ends in the middle of its work.
func TestVMMKilled(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	rec := h.mustCreate("web", false)
	h.must(syscall.Kill(rec.Machine.VMM.PID, syscall.SIGSEGV))
	if rec := h.becomes("web", banger.Failed); rec.Reason != "the VMM was ended by SIGSEGV" {
		t.Errorf("reason %q", rec.Reason)
	}
	if _, err := h.start("web"); err != nil {
		t.Error(err)
	}
	h.remove("web")
	h.clean()
}

// The end of a machine comes within a bound, whoever does not obey.
func TestStopDisobeyed(t *testing.T) {
	stopped := func(pid func(*banger.Machine) int) func(*host, banger.VM) {
		return func(h *host, rec banger.VM) {
			h.must(syscall.Kill(pid(rec.Machine), syscall.SIGSTOP))
			// A thread on another CPU goes on until the signal gets to it.
			h.eventually(func() error { return allStopped(pid(rec.Machine)) })
		}
	}
	theShim := stopped(func(m *banger.Machine) int { return m.Shim.PID })
	theVMM := stopped(func(m *banger.Machine) int { return m.VMM.PID })
	for name, tt := range map[string]struct {
		script script
		spoil  func(*host, banger.VM)
		force  bool
		reason string
	}{
		"deaf guest":      {script: script{Guest: "deaf"}, reason: "killed: the guest did not stop within 1s"},
		"deaf guest, now": {script: script{Guest: "deaf"}, force: true, reason: "killed"},
		"shim":            {spoil: theShim, reason: "killed"},
		"shim, now":       {spoil: theShim, force: true, reason: "killed"},
		"vmm":             {script: script{Guest: "deaf"}, spoil: theVMM, reason: "killed: the guest did not stop within 1s"},
		"vmm, now":        {spoil: theVMM, force: true, reason: "killed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.script("web", tt.script)
			h.open()
			rec := h.mustCreate("web", false)
			if tt.spoil != nil {
				tt.spoil(h, rec)
			}
			rec, err := h.stop(banger.VMStopRequest{Name: "web", Seconds: 1, Force: tt.force})
			if err != nil || rec.State != banger.Stopped || rec.Reason != tt.reason {
				t.Errorf("got %+v, %v", rec, err)
			}
			h.eventually(func() error { return left(h) })
			h.script("web", script{})
			if _, err := h.start("web"); err != nil {
				t.Error(err)
			}
			h.remove("web")
			h.clean()
		})
	}
}

// allStopped says whether no thread of the process runs any more. Format: proc(5), status.
func allStopped(pid int) error {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(threads) == 0 {
		return fmt.Errorf("process %d has no threads: %v", pid, err)
	}
	for _, path := range threads {
		b, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(b), "\nState:\tT") {
			return fmt.Errorf("%s: not stopped, %v", path, err)
		}
	}
	return nil
}

// A second stop need not wait for the first one's grace, nor a removal.
func TestStopTwice(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.script("web", script{Guest: "deaf"})
	h.open()
	for _, second := range []func() error{
		func() error {
			_, err := h.stop(banger.VMStopRequest{Name: "web", Force: true})
			return err
		},
		func() error { return h.client.VMDelete(t.Context(), banger.NameRequest{Name: "web", Force: true}) },
	} {
		if _, err := h.client.VMShow(t.Context(), "web"); err == nil {
			_, err = h.start("web")
			h.must(err)
		} else {
			h.mustCreate("web", false)
		}
		first := make(chan error, 1)
		go func() {
			_, err := h.stop(banger.VMStopRequest{Name: "web", Seconds: 60})
			first <- err
		}()
		h.becomes("web", banger.Stopping)
		h.must(second())
		h.must(<-first)
	}
	h.clean()
}

// A start of a VM that stops waits for that.
func TestStartWhileStopping(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.script("web", script{Guest: "deaf"})
	h.open()
	h.mustCreate("web", false)
	stopping := make(chan error, 1)
	go func() {
		_, err := h.stop(banger.VMStopRequest{Name: "web", Seconds: 1})
		stopping <- err
	}()
	h.becomes("web", banger.Stopping)
	rec, err := h.start("web")
	if err != nil || rec.State != banger.Running {
		t.Errorf("got %+v, %v", rec, err)
	}
	h.must(<-stopping)
	h.remove("web")
	h.clean()
}

// What a guest prints is bounded on disk.
func TestConsoleFlood(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.script("web", script{Flood: true})
	h.open()
	rec := h.mustCreate("web", false)
	size := func(path string) int64 {
		fi, err := os.Stat(path)
		if err != nil {
			return 0
		}
		return fi.Size()
	}
	h.eventually(func() error { // that it was put aside twice shows that it is written over
		if size(rec.Console+".1") == 0 {
			return fmt.Errorf("the log was not put aside")
		}
		return nil
	})
	for range 50 {
		if n := size(rec.Console) + size(rec.Console+".1"); n > 2<<20 {
			t.Fatalf("the log has %d bytes", n)
		}
	}
	if rec, err := h.stop(banger.VMStopRequest{Name: "web"}); err != nil || rec.State != banger.Stopped {
		t.Errorf("stop: %+v, %v", rec, err)
	}
	h.remove("web")
	h.clean()
}

// A start that cannot be noted does not happen: nothing waits for a machine
// that nobody started.
func TestIntentNotWritten(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	var record string
	h.open(func(d *Daemon) {
		d.step = func(name string) {
			if name == "boot: prepared" && record != "" {
				h.must(firstError(os.Rename(record, record+".away"), os.MkdirAll(record+"/in the way", 0o700)))
			}
		}
	})
	rec := h.mustCreate("web", true)
	record = filepath.Join(h.layout.VM(rec.ID), state.VMFile)
	if _, err := h.start("web"); err == nil {
		t.Fatal("started without a record")
	}
	if rec := h.show("web"); rec.State != banger.Created || rec.Machine != nil {
		t.Errorf("got %+v", rec)
	}
	if _, err := os.Stat(h.layout.VMRun(rec.ID)); !os.IsNotExist(err) {
		t.Errorf("the run directory is left: %v", err)
	}
	h.must(firstError(os.RemoveAll(record), os.Rename(record+".away", record)))
	record = ""
	if _, err := h.start("web"); err != nil {
		t.Error(err)
	}
	h.remove("web")
	h.clean()
}
