package cli

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"banger"
	"banger/internal/api"
	"banger/internal/state"
)

// daemonOf serves at the socket of c as the process pid, until stop.
func daemonOf(t *testing.T, c *CLI, pid int, wait func(context.Context) (banger.VM, error)) (stop func()) {
	t.Helper()
	l, err := net.Listen("unix", c.layout.Socket())
	if err != nil {
		t.Fatal(err)
	}
	type none struct{}
	srv := &api.Server{UID: os.Getuid(), Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Routes: []api.Route{
		api.Unary("system.version", func(context.Context, none) (banger.VersionInfo, error) { return banger.VersionInfo{PID: pid}, nil }),
		api.Unary("vm.show", func(context.Context, banger.NameRequest) (banger.VM, error) { return banger.VM{ID: "0123"}, nil }),
		api.Unary("vm.wait", func(ctx context.Context, r banger.NameRequest) (banger.VM, error) {
			if r.Name != "0123" {
				t.Errorf("waits for %q", r.Name)
			}
			return wait(ctx)
		}),
	}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ctx, l) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// A wait outlives its daemon, and is answered by the next one.
func TestWaitOutlivesTheDaemon(t *testing.T) {
	c, out, _ := newCLI(t)
	var err error
	if c.layout, err = state.Locate(c.Getenv); err != nil {
		t.Fatal(err)
	}
	if err := c.layout.MakeRun(); err != nil {
		t.Fatal(err)
	}
	waits := make(chan struct{}, 1)
	stop := daemonOf(t, c, 1, func(ctx context.Context) (banger.VM, error) {
		waits <- struct{}{}
		<-ctx.Done()
		return banger.VM{}, context.Cause(ctx)
	})
	done := make(chan error, 1)
	cmd := c.vmWaitCommand()
	cmd.SetContext(t.Context())
	go func(cmd *cobra.Command) { done <- cmd.RunE(cmd, []string{"web"}) }(cmd)
	<-waits
	stop()
	defer daemonOf(t, c, 2, func(context.Context) (banger.VM, error) { return banger.VM{ID: "0123", ExitCode: 1}, nil })()
	if err := <-done; err != nil || strings.TrimSpace(out.String()) != "1" {
		t.Errorf("printed %q, %v", out, err)
	}
}
