package daemon

import (
	"fmt"
	"slices"
	"strings"

	"banger"
	"banger/internal/hostmem"
)

// vmmMemory is what a VMM and its shim hold beside the guest's memory: an
// emulating QEMU has 90 to 110 MiB of translated code and its own after a boot,
// one with KVM some 30.
const vmmMemory = 96 << 20

// memoryThatFits is what a machine gets that nobody named a size for: want, and
// on a small host no more than half of its memory.
func (d *Daemon) memoryThatFits(want int64) int64 {
	m, err := d.mem()
	if err != nil {
		return want
	}
	half := m.Total / 2 &^ (minMemory - 1)
	return min(want, max(half, minMemory))
}

// promiseMemory takes the memory of a machine that is about to be started out of
// what the host can give, until it is taken back or the machine is there. What
// does not fit is an Exhausted error with the numbers. For a VM that is not to be
// started yet, later, it only has to fit at all.
func (d *Daemon) promiseMemory(rec banger.VM, later bool) (takeBack func(), err error) {
	d.memory.Lock()
	defer d.memory.Unlock()
	if err := d.memoryError(rec, later); err != nil || later {
		return func() {}, err
	}
	if _, there := d.promised[rec.ID]; there { // by the create that this start belongs to
		return func() {}, nil
	}
	d.promised[rec.ID] = rec
	return func() {
		d.memory.Lock()
		defer d.memory.Unlock()
		delete(d.promised, rec.ID)
	}, nil
}

func (d *Daemon) memoryError(rec banger.VM, later bool) error {
	if rec.Spec.Overcommit {
		return nil
	}
	m, err := d.mem()
	if err != nil { // nothing is known, so nothing is refused
		d.Log.Warn("the memory is not known", "err", err)
		return nil
	}
	need := rec.Spec.Memory + vmmMemory
	asks := fmt.Sprintf("it asks for %s of memory, and its VMM for up to %s", mib(rec.Spec.Memory), mib(vmmMemory))
	if need > m.Total {
		return banger.Errorf(banger.Exhausted, "%s; %s has %s in all", asks, m.Bound, mib(m.Total)).
			WithHint("take less with --memory, or --force it")
	}
	if later {
		return nil
	}
	promised, whom := d.claims(rec.ID)
	if need <= m.Available-promised {
		return nil
	}
	said := ""
	if promised > 0 {
		said = fmt.Sprintf(", of which %s are promised: %s", mib(promised), strings.Join(whom, ", "))
	}
	return banger.Errorf(banger.Exhausted, "%s; %s has %s available%s", asks, m.Bound, mib(m.Available), said).
		WithHint("stop a VM, take less with --memory, or --force it")
}

// maxClaims is how many VMs an error names.
const maxClaims = 5

// claims is the memory that other VMs may still touch, with the largest claims
// in words: of those that run what their VMMs do not hold yet, of those that are
// about to all of it.
func (d *Daemon) claims(but string) (sum int64, whom []string) {
	all := map[string]banger.VM{}
	for _, rec := range d.promised {
		all[rec.ID] = rec
	}
	for _, rec := range d.allVMs() {
		if alive(rec.State) {
			all[rec.ID] = rec
		}
	}
	delete(all, but)
	type claim struct {
		name string
		left int64
	}
	var claims []claim
	for _, rec := range all {
		left := rec.Spec.Memory + vmmMemory
		if rec.Machine != nil && rec.Machine.VMM.PID > 0 {
			left -= hostmem.Of(rec.Machine.VMM.PID)
		}
		if left > 0 {
			claims = append(claims, claim{rec.Name, left})
			sum += left
		}
	}
	slices.SortFunc(claims, func(a, b claim) int {
		if a.left != b.left {
			return int(b.left>>10 - a.left>>10)
		}
		return strings.Compare(a.name, b.name)
	})
	for i, c := range claims {
		if i == maxClaims {
			whom = append(whom, fmt.Sprintf("%d others", len(claims)-maxClaims))
			break
		}
		whom = append(whom, fmt.Sprintf("%s to vm %s", mib(c.left), c.name))
	}
	return sum, whom
}

func mib(n int64) string { return fmt.Sprintf("%d MiB", n>>20) }
