package daemon

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"banger"
	"banger/internal/shim"
)

// Many boots at once would starve each other into their timeouts, and all of
// them come up sooner in turn: an emulated boot keeps a CPU busy. So there are as
// many slots as CPUs, and two at least. A boot that takes longer than slotTime
// keeps its machine but not its slot: it may hang, and others must not wait for it.
const (
	minSlots = 2
	slotTime = 30 * time.Second
)

// slots is a queue: who came first goes first.
type slots struct {
	mu    sync.Mutex
	free  int
	queue []chan struct{} // each is closed when its turn has come
}

// take waits for a slot; waits is called if there is none yet.
func (s *slots) take(ctx context.Context, waits func()) (free func(), err error) {
	s.mu.Lock()
	if s.free > 0 && len(s.queue) == 0 {
		s.free--
		s.mu.Unlock()
		return sync.OnceFunc(s.give), nil
	}
	turn := make(chan struct{})
	s.queue = append(s.queue, turn)
	s.mu.Unlock()
	waits()
	select {
	case <-turn:
		return sync.OnceFunc(s.give), nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	i := slices.Index(s.queue, turn)
	if i >= 0 {
		s.queue = slices.Delete(s.queue, i, i+1)
	}
	s.mu.Unlock()
	if i < 0 { // its turn came at the same moment
		s.give()
	}
	return nil, context.Cause(ctx)
}

func (s *slots) give() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) > 0 {
		close(s.queue[0])
		s.queue = s.queue[1:]
		return
	}
	s.free++
}

// queued is one start that waits for a slot.
type queued struct{ cancel context.CancelCauseFunc }

// bootSlot waits until the VM may boot. A stop or the removal of the VM ends the wait.
func (d *Daemon) bootSlot(ctx context.Context, v *vm, p progress) (free func(), err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	name := v.record().Name
	defer context.AfterFunc(v.kept, func() {
		cancel(banger.Errorf(banger.NotFound, "vm %q was removed meanwhile", name))
	})()
	q := &queued{cancel}
	v.mu.Lock()
	v.queued[q] = true
	v.mu.Unlock()
	defer func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		delete(v.queued, q)
	}()
	return d.slots.take(ctx, func() { p(banger.Progress{Step: "wait for a boot slot for " + name}) })
}

// stopQueued ends the starts that wait for a slot.
func (v *vm) stopQueued() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for q := range v.queued {
		q.cancel(banger.Errorf(banger.Conflict, "vm %q was stopped meanwhile", v.rec.Name))
	}
}

// leaveSlot gives the slot back once the boot is over, or takes long.
func (v *vm) leaveSlot(c *shim.Client, free func()) {
	defer free()
	ctx, cancel := context.WithTimeout(v.d.life, cmp.Or(v.d.slotTime, slotTime))
	defer cancel()
	_, _ = v.wait(ctx, func(rec banger.VM) bool { return rec.State != banger.Starting || v.machine() != c })
}
