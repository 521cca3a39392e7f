package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"banger"
)

func TestSlots(t *testing.T) {
	s := &slots{free: 2}
	ctx := t.Context()
	never := func() { t.Error("waited for a slot that is free") }
	one, err := s.take(ctx, never)
	two, err2 := s.take(ctx, never)
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	// First come, first served; one that leaves the queue takes no turn.
	turns := make(chan string, 3)
	errGone := errors.New("gone")
	leaves, leave := context.WithCancelCause(ctx)
	left := make(chan error)
	for _, name := range []string{"third", "leaves", "fourth"} {
		waiting := make(chan struct{})
		ctx := ctx
		if name == "leaves" {
			ctx = leaves
		}
		go func() {
			_, err := s.take(ctx, func() { close(waiting) })
			if name == "leaves" {
				left <- err
				return
			}
			turns <- name
		}()
		<-waiting
	}
	leave(errGone)
	if err := <-left; err != errGone {
		t.Errorf("it left with %v", err)
	}
	one()
	one() // counts once
	if got := <-turns; got != "third" {
		t.Errorf("the third to come is %s", got)
	}
	select {
	case got := <-turns:
		t.Errorf("%s has a slot that is not there", got)
	default:
	}
	two()
	if got := <-turns; got != "fourth" {
		t.Errorf("the fourth to come is %s", got)
	}
}

// narrow gives the daemon a single slot, which a boot that hangs keeps.
func narrow(d *Daemon) { d.slotTime = time.Hour }

// A start that waits for its turn says so, can be given up, stopped and removed,
// and comes up when its turn has come.
func TestBootQueue(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open(narrow)
	h.d.slots.free = 1
	h.script("hangs", script{Guest: "silent"})
	h.mustCreate("hangs", true)
	go func() {
		_, _ = h.client.VMStart(context.WithoutCancel(t.Context()), banger.NameRequest{Name: "hangs"}, nil)
	}()
	h.becomes("hangs", banger.Starting)

	queue := func(ctx context.Context, name string) chan error {
		waits, done := make(chan struct{}), make(chan error, 1)
		var once atomic.Bool
		go func() {
			_, err := h.client.VMStart(ctx, banger.NameRequest{Name: name}, func(p banger.Progress) {
				if p.Step == "wait for a boot slot for "+name && once.CompareAndSwap(false, true) {
					close(waits)
				}
			})
			done <- err
		}()
		select {
		case <-waits:
		case err := <-done:
			t.Fatalf("%s did not wait: %v", name, err)
		case <-time.After(patience):
			t.Fatalf("%s does not say that it waits", name)
		}
		return done
	}
	for _, name := range []string{"canceled", "stopped", "removed", "up"} {
		h.mustCreate(name, true)
	}
	ctx, cancel := context.WithCancel(t.Context())
	canceled := queue(ctx, "canceled")
	stopped, removed, up := queue(t.Context(), "stopped"), queue(t.Context(), "removed"), queue(t.Context(), "up")
	cancel()
	wantKind(t, <-canceled, banger.Canceled)
	_, err := h.client.VMStop(t.Context(), banger.VMStopRequest{Name: "stopped"})
	h.must(err)
	wantKind(t, <-stopped, banger.Conflict, `vm "stopped" was stopped meanwhile`)
	h.remove("removed")
	wantKind(t, <-removed, banger.NotFound, "removed")
	for _, name := range []string{"canceled", "stopped", "up"} {
		if rec := h.show(name); rec.State != banger.Created {
			t.Errorf("%s is %s", name, rec.State)
		}
	}
	_, err = h.client.VMStop(t.Context(), banger.VMStopRequest{Name: "hangs", Force: true})
	h.must(err)
	h.must(<-up)
	h.remove("hangs")
	h.remove("canceled")
	h.remove("stopped")
	h.remove("up")
	h.eventually(func() error {
		h.d.slots.mu.Lock()
		defer h.d.slots.mu.Unlock()
		if h.d.slots.free != 1 || len(h.d.slots.queue) > 0 {
			return fmt.Errorf("%d slots are free, %d wait", h.d.slots.free, len(h.d.slots.queue))
		}
		return nil
	})
	h.clean()
}

// A boot that takes long does not keep others from theirs.
func TestBootQueueGoesOn(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open(func(d *Daemon) { d.slotTime = 10 * time.Millisecond })
	h.d.slots.free = 1
	h.script("hangs", script{Guest: "silent"})
	h.mustCreate("hangs", true)
	go func() {
		_, _ = h.client.VMStart(context.WithoutCancel(t.Context()), banger.NameRequest{Name: "hangs"}, nil)
	}()
	h.becomes("hangs", banger.Starting)
	h.mustCreate("web", false)
	h.remove("hangs")
	h.remove("web")
	h.clean()
}
