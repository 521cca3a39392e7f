package daemon

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"banger"
)

var errGone = errors.New("the caller is gone")

// A create whose caller goes away leaves nothing, wherever it has come to.
// Asked directly, for over the socket the daemon hears of it later.
func TestCreateCanceled(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	var step string
	var leave context.CancelCauseFunc
	h.open(func(d *Daemon) {
		d.step = func(name string) {
			if name == step {
				leave(errGone)
			}
		}
	})
	for _, step = range []string{
		"create: reserved", "create: staged", "create: committed",
		"boot: prepared", "boot: intended", "boot: spawned", "create: running",
	} {
		var ctx context.Context
		ctx, leave = context.WithCancelCause(t.Context())
		_, err := h.d.vmCreate(ctx, banger.VMCreateRequest{Spec: testSpec("web")}, func(banger.Progress) {})
		if !errors.Is(err, errGone) {
			t.Errorf("%s: %v", step, err)
		}
		h.clean()
		if list := h.d.allVMs(); len(list) != 0 {
			t.Errorf("%s: left %+v", step, list)
		}
	}
	step = "create: committed"
	ctx, cancel := context.WithCancelCause(t.Context())
	leave = cancel
	_, err := h.d.vmCreate(ctx, banger.VMCreateRequest{Spec: testSpec("web"), NoStart: true}, func(banger.Progress) {})
	if !errors.Is(err, errGone) {
		t.Errorf("no start: %v", err)
	}
	h.clean()
}

// A start whose caller goes away leaves the VM stopped.
func TestStartCanceled(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	var step string
	var leave context.CancelCauseFunc
	h.open(func(d *Daemon) {
		d.step = func(name string) {
			if name == step {
				leave(errGone)
			}
		}
	})
	h.mustCreate("web", true)
	v, err := h.d.find("web")
	h.must(err)
	for _, step = range []string{"boot: prepared", "boot: intended", "boot: spawned"} {
		var ctx context.Context
		ctx, leave = context.WithCancelCause(t.Context())
		if _, err := h.d.start(ctx, v, func(banger.Progress) {}); !errors.Is(err, errGone) {
			t.Errorf("%s: %v", step, err)
		}
		if rec := h.show("web"); rec.State != banger.Stopped || rec.Reason != "its start was given up" || rec.Machine != nil {
			t.Errorf("%s: %+v", step, rec)
		}
		h.eventually(func() error { return left(h) })
	}
	leave, step = nil, ""
	if _, err := h.start("web"); err != nil {
		t.Error(err)
	}
	h.remove("web")
	h.clean()
}

// The same over the socket, while the guest boots.
func TestClientGoesAway(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.script("old", script{Guest: "silent"})
	h.script("new", script{Guest: "silent"})
	h.open()
	h.mustCreate("old", true)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() {
		_, err := h.client.VMCreate(ctx, banger.VMCreateRequest{Spec: testSpec("new")}, nil)
		ended <- err
	}()
	go func() {
		_, err := h.client.VMStart(ctx, banger.NameRequest{Name: "old"}, nil)
		ended <- err
	}()
	h.eventually(func() error {
		if n := len(h.processes("fakevmm")); n != 2 {
			return fmt.Errorf("%d VMMs", n)
		}
		return nil
	})
	cancel()
	wantKind(t, <-ended, banger.Canceled)
	wantKind(t, <-ended, banger.Canceled)
	h.becomes("old", banger.Stopped)
	h.eventually(func() error {
		list, err := h.client.VMList(t.Context())
		if err != nil || len(list) != 1 {
			return fmt.Errorf("list: %+v, %v", list, err)
		}
		return left(h)
	})
	h.remove("old")
	h.clean()
}

// Who only waits for a boot of somebody else does not end it by going away.
func TestSecondStarterGoesAway(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.script("web", script{ShimHangs: true})
	h.open()
	h.mustCreate("web", true)
	first := make(chan error, 1)
	go func() {
		_, err := h.start("web")
		first <- err
	}()
	h.becomes("web", banger.Starting)
	ctx, cancel := context.WithCancel(t.Context())
	waits := make(chan struct{})
	second := make(chan error, 1)
	go func() {
		_, err := h.client.VMStart(ctx, banger.NameRequest{Name: "web"}, func(banger.Progress) { close(waits) })
		second <- err
	}()
	<-waits
	cancel()
	wantKind(t, <-second, banger.Canceled)
	h.eventually(func() error { // the shim hangs until it is told to go on
		if len(h.processes("shim")) != 1 {
			return errors.New("no shim")
		}
		return nil
	})
	h.wake("shim")
	h.must(<-first)
	if rec := h.show("web"); rec.State != banger.Running {
		t.Errorf("got %+v", rec)
	}
	h.remove("web")
	h.clean()
}

// A daemon that is asked to end undoes what it is at.
func TestShutdownDuringCreate(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.script("new", script{Guest: "silent"})
	h.script("old", script{Guest: "silent"})
	h.open()
	h.mustCreate("kept", false)
	h.mustCreate("old", true)
	ended := make(chan error, 2)
	go func() {
		_, err := h.create("new", false)
		ended <- err
	}()
	go func() {
		_, err := h.start("old")
		ended <- err
	}()
	h.eventually(func() error {
		if n := len(h.processes("fakevmm")); n != 3 {
			return fmt.Errorf("%d VMMs", n)
		}
		return nil
	})
	wantKind(t, h.client.SystemShutdown(t.Context(), banger.NameRequest{}), banger.Conflict, "busy", "banger daemon stop --force")
	h.must(h.client.SystemShutdown(t.Context(), banger.NameRequest{Force: true}))
	wantKind(t, <-ended, banger.Canceled)
	wantKind(t, <-ended, banger.Canceled)
	h.close()
	if n := len(h.processes("fakevmm")); n != 1 {
		t.Errorf("%d VMMs, want that of kept", n)
	}
	h.open()
	list, err := h.client.VMList(t.Context())
	if err != nil || len(list) != 2 || list[0].State != banger.Running || list[1].State != banger.Stopped {
		t.Errorf("list: %+v, %v", list, err)
	}
	h.remove("old")
	h.remove("kept")
	h.clean()
}
