package daemon

import (
	"testing"

	"banger"
	"banger/internal/hostmem"
)

// hasMemory gives the daemon a host of that much memory.
func hasMemory(mib int64) func(*Daemon) {
	return func(d *Daemon) {
		d.mem = func() (hostmem.Memory, error) {
			return hostmem.Memory{Total: 2 * mib << 20, Available: mib << 20, Bound: "the host"}, nil
		}
	}
}

func (h *host) createWith(name string, mib int64, noStart, force bool) error {
	h.t.Helper()
	spec := testSpec(name)
	spec.Memory, spec.Overcommit = mib<<20, force
	_, err := h.client.VMCreate(h.t.Context(), banger.VMCreateRequest{Spec: spec, NoStart: noStart}, nil)
	return err
}

// What the host cannot give is refused with the numbers, before anything is done.
func TestMemoryRefused(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open(hasMemory(400))
	h.must(h.createWith("one", 200, false, false))
	wantKind(t, h.createWith("two", 200, false, false), banger.Exhausted, `create vm "two": it asks for 200 MiB`, "96 MiB",
		"the host has 400 MiB available, of which", "to vm one", "--memory", "--force")
	if _, err := h.client.VMShow(t.Context(), "two"); !banger.IsKind(err, banger.NotFound) {
		t.Errorf("the VM that was refused: %v", err)
	}
	// One that is only made must fit at all.
	wantKind(t, h.createWith("huge", 4000, true, false), banger.Exhausted, "the host has 800 MiB in all")
	h.must(h.createWith("later", 200, true, false))
	_, err := h.client.VMStart(t.Context(), banger.NameRequest{Name: "later"}, nil)
	wantKind(t, err, banger.Exhausted, `start vm "later"`, "to vm one")
	if rec := h.show("later"); rec.State != banger.Created {
		t.Errorf("refused, and %s", rec.State)
	}
	// By force it is done, and stays so.
	_, err = h.client.VMStart(t.Context(), banger.NameRequest{Name: "later", Force: true}, nil)
	h.must(err)
	if rec := h.show("later"); rec.State != banger.Running || !rec.Spec.Overcommit {
		t.Errorf("by force: %s, %v", rec.State, rec.Spec.Overcommit)
	}
	h.must(h.createWith("two", 200, false, true))
	h.remove("one")
	h.remove("two")
	h.remove("later")
	h.must(h.createWith("two", 200, false, false))
	h.remove("two")
	h.clean()
}

// Of those that come at once no more are let in than fit.
func TestMemoryAtOnce(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open(hasMemory(3 * (200 + 96)))
	errs := make(chan error)
	names := []string{"a", "b", "c", "d", "e", "f"}
	for _, name := range names {
		go func() { errs <- h.createWith(name, 200, false, false) }()
	}
	refused := 0
	for range names {
		if err := <-errs; err != nil {
			wantKind(t, err, banger.Exhausted, "are promised")
			refused++
		}
	}
	if refused != 3 {
		t.Errorf("%d of 6 were refused, where 3 fit", refused)
	}
	vms, err := h.client.VMList(t.Context())
	h.must(err)
	for _, rec := range vms {
		if rec.State != banger.Running {
			t.Errorf("vm %s is %s", rec.Name, rec.State)
		}
		h.remove(rec.Name)
	}
	h.clean()
}

func TestMemoryThatFits(t *testing.T) {
	for total, want := range map[int64]int64{64: 64, 200: 64, 300: 128, 512: 256, 1000: 448, 1024: 512, 24000: 512} {
		d := &Daemon{mem: func() (hostmem.Memory, error) { return hostmem.Memory{Total: total << 20}, nil }}
		if got := d.memoryThatFits(512<<20) >> 20; got != want {
			t.Errorf("of %d MiB a VM gets %d, want %d", total, got, want)
		}
	}
}

// A kernel that dies of too little memory says so in its own words; ours say what to do.
func TestTooSmall(t *testing.T) {
	v := &vm{rec: banger.VM{Name: "web", Spec: banger.VMSpec{Memory: 64 << 20},
		Reason: "the guest's kernel panicked: System is deadlocked on memory"}}
	wantKind(t, v.bootError(v.rec), banger.Unavailable, "deadlocked on memory: 64 MiB are too little for it, take more with --memory")
}
