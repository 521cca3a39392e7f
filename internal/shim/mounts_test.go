package shim

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"banger"
	"banger/internal/guest/sshd"
	"banger/internal/hello"
	"banger/internal/state"
	"banger/internal/vmm"
	"banger/internal/vmm/fakevmm"
)

// version is the first thing that a 9P client says, and the answer to it.
const (
	version  = "\x15\x00\x00\x00\x64\xff\xff\x00\x00\x02\x00\x08\x009P2000.L"
	answered = "\x15\x00\x00\x00\x65\xff\xff\x00\x00\x02\x00\x08\x009P2000.L"
)

// shake does what a kernel does first with a folder.
func shake(stream net.Conn) error {
	if _, err := io.WriteString(stream, version); err != nil {
		return err
	}
	b := make([]byte, len(answered))
	if _, err := io.ReadFull(stream, b); err != nil || string(b) != answered {
		return errors.Join(err, errors.New("no server"))
	}
	return nil
}

// withMounts is a rig whose machine has a folder of the host.
func withMounts(t *testing.T, source string) *rig {
	r := prepare(t)
	r.spec.Mounts = []banger.Mount{{Source: source, Target: "/work", ReadOnly: true}}
	if err := state.WriteRecord(filepath.Join(r.dir, state.BootFile), r.spec); err != nil {
		t.Fatal(err)
	}
	return r
}

// A machine runs once its folders are mounted, at each of its boots.
func TestMounts(t *testing.T) {
	r := withMounts(t, t.TempDir())
	var mounted atomic.Int32
	over := make(chan struct{})
	defer close(over)
	now := make(chan *fakevmm.Guest, 2) // the one that is up
	r.run(&fakevmm.Driver{Agent: func(ctx context.Context, g *fakevmm.Guest) {
		if _, _, err := sshd.Ask(ctx, g, hello.Boot); err != nil {
			return
		}
		now <- g
		srv := &sshd.Server{
			Mount: func(m hello.Mount, stream net.Conn) (<-chan struct{}, error) {
				if m != (hello.Mount{Target: "/work", ReadOnly: true}) {
					t.Errorf("ordered %+v", m)
				}
				err := shake(stream)
				mounted.Add(1)
				return over, err
			},
			Shutdown: func(string) error {
				time.AfterFunc(10*time.Millisecond, func() { g.End(vmm.Exit{Guest: vmm.GuestShutdown}) })
				return nil
			},
		}
		_ = srv.Serve(ctx, g)
	}})
	c := r.dial()
	for boot := range int32(2) {
		r.expect(c, Running)
		if got := mounted.Load(); got != boot+1 {
			t.Errorf("running with %d mounts", got)
		}
		if g := <-now; boot == 0 {
			g.End(vmm.Exit{Guest: vmm.GuestReset})
			r.expect(c, Starting)
		}
	}
	if err := c.Stop(patience); err != nil {
		t.Fatal(err)
	}
	r.expect(c, Ended)
}

func TestMountsRefused(t *testing.T) {
	r := withMounts(t, t.TempDir())
	r.run(&fakevmm.Driver{Agent: func(ctx context.Context, g *fakevmm.Guest) {
		srv := &sshd.Server{Mount: func(hello.Mount, net.Conn) (<-chan struct{}, error) {
			return nil, errors.New("the kernel has no 9p")
		}}
		_ = srv.Serve(ctx, g)
	}})
	s := r.expect(r.dial(), Ended)
	if s.End.State != banger.Failed || s.End.Reason != "the guest could not boot: the kernel has no 9p" {
		t.Errorf("ended: %+v", s.End)
	}
}

func TestMountsVanished(t *testing.T) {
	r := withMounts(t, "/no/such/folder")
	r.run(&fakevmm.Driver{Agent: guest(false)})
	if s := r.ended(); s.End.State != banger.Failed || !strings.Contains(s.End.Reason, `share "/no/such/folder": there is no such folder`) {
		t.Errorf("ended: %+v", s.End)
	}
}
