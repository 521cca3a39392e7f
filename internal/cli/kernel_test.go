package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"banger"
	"banger/internal/api"
	"banger/internal/state"
)

// serve plays the daemon of a command line with the routes.
func serve(t *testing.T, c *CLI, routes ...api.Route) {
	t.Helper()
	layout, err := state.Locate(c.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	if err := layout.MakeRun(); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", layout.Socket())
	if err != nil {
		t.Fatal(err)
	}
	routes = append(routes, api.Unary("system.version", func(context.Context, banger.NameRequest) (banger.VersionInfo, error) {
		return c.Version, nil
	}))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		s := &api.Server{Routes: routes, UID: os.Getuid(), Log: slog.New(slog.DiscardHandler)}
		done <- s.Serve(ctx, l)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// What the command lines that add a kernel ask the daemon for.
func TestKernelRequests(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if resolved, err := os.Getwd(); err != nil {
		t.Fatal(err)
	} else {
		dir = resolved
	}
	for line, want := range map[string]any{
		"kernel pull debian-6.1": banger.KernelPullRequest{Name: "debian-6.1"},
		"kernel pull deb://linux-image-amd64?suite=trixie --name t --kernel-arg a --kernel-arg b=c,d -f": banger.KernelPullRequest{
			Name: "deb://linux-image-amd64?suite=trixie", As: "t", Args: []string{"a", "b=c,d"}, Force: true},
		"kernel import mine --from sub/../x":                   banger.KernelImportRequest{Name: "mine", From: filepath.Join(dir, "x")},
		"kernel import mine --from .":                          banger.KernelImportRequest{Name: "mine", From: dir},
		"kernel import --from /srv/root mine --kernel-arg a=1": banger.KernelImportRequest{Name: "mine", From: "/srv/root", Args: []string{"a=1"}},
		"kernel import --from-host":                            banger.KernelImportRequest{FromHost: true},
		"kernel import h --from-host --force":                  banger.KernelImportRequest{Name: "h", FromHost: true, Force: true},
	} {
		c, out, errs := newCLI(t)
		var got []any
		take := func(r any, p func(banger.Progress)) (banger.Kernel, error) {
			got = append(got, r)
			p(banger.Progress{Step: "copy"})
			p(banger.Progress{Notice: true, Step: "something is odd"})
			return banger.Kernel{Name: "new"}, nil
		}
		serve(t, c,
			api.Stream("kernel.pull", func(_ context.Context, r banger.KernelPullRequest, p func(banger.Progress)) (banger.Kernel, error) {
				return take(r, p)
			}),
			api.Stream("kernel.import", func(_ context.Context, r banger.KernelImportRequest, p func(banger.Progress)) (banger.Kernel, error) {
				return take(r, p)
			}))
		if code := c.Run(t.Context(), strings.Fields(line)); code != 0 || out.String() != "new\n" || errs.String() != "banger: something is odd\n" {
			t.Errorf("banger %s: code %d, %q, %q", line, code, out, errs)
		}
		if len(got) != 1 || !reflect.DeepEqual(got[0], want) {
			t.Errorf("banger %s: asked %+v, want %+v", line, got, want)
		}
	}
}

func TestKernelImportMistakes(t *testing.T) {
	for _, line := range []string{
		"kernel import", "kernel import x", "kernel import --from /x", "kernel import x y --from /x",
		"kernel import x --from /x --from-host", "kernel import x --from", "kernel pull", "kernel pull a --as b",
	} {
		c, out, errs := newCLI(t)
		if code := c.Run(t.Context(), strings.Fields(line)); code != exitUsage || !strings.Contains(errs.String(), "hint: banger kernel") || out.Len() > 0 {
			t.Errorf("banger %s: code %d, %q, %q", line, code, out, errs)
		}
	}
}

// What can be pulled and what is there, as tables and as JSON.
func TestKernelLists(t *testing.T) {
	c, out, errs := newCLI(t)
	offers := []banger.KernelOffer{
		{Name: "debian-6.1", Catalog: "builtin", Arch: "x86_64", Description: "from the package", State: "available"},
		{Name: "generic-6.12", Catalog: "builtin", Arch: "x86_64", KernelVersion: "6.12.9", Size: 21 << 20, Description: "built in", State: "outdated"},
	}
	kernels := []banger.Kernel{
		{Name: "generic-6.12", Arch: "x86_64", KernelVersion: "6.12.8", Size: 60 << 20, Source: "import:/srv/x", ImportedAt: time.Now()},
		{Name: "odd", Problem: "its vmlinux\x1b[2J\nis missing"},
	}
	serve(t, c,
		api.Unary("kernel.catalog", func(context.Context, struct{}) (banger.Offers[banger.KernelOffer], error) {
			return banger.Offers[banger.KernelOffer]{Offers: offers}, nil
		}),
		api.List("kernel.list", func(context.Context, banger.KernelListRequest) ([]banger.Kernel, error) { return kernels, nil }))
	for line, want := range map[string]string{
		"kernel ls --available": `NAME +VERSION +ARCH +SIZE +STATE +DESCRIPTION
debian-6\.1 +- +x86_64 +- +available +from the package
generic-6\.12 +6\.12\.9 +x86_64 +21 MiB +outdated +built in
`,
		"kernel ls": `NAME +VERSION +ARCH +SIZE +AGE +SOURCE
generic-6\.12 +6\.12\.8 +x86_64 +60 MiB +\d+s +import:/srv/x
odd +- +- +- +- +broken: its vmlinux\?\[2J is missing
`,
		"kernel ls -q":             "generic-6\\.12\nodd\n",
		"kernel ls --available -q": "debian-6\\.1\ngeneric-6\\.12\n",
	} {
		out.Reset()
		if code := c.Run(t.Context(), strings.Fields(line)); code != 0 || !regexp.MustCompile("^"+want+"$").MatchString(out.String()) {
			t.Errorf("banger %s: code %d, %s%s", line, code, out, errs)
		}
	}
	out.Reset()
	var got banger.Offers[banger.KernelOffer]
	if code := c.Run(t.Context(), []string{"kernel", "ls", "--available", "--json"}); code != 0 || json.Unmarshal(out.Bytes(), &got) != nil || !slices.Equal(got.Offers, offers) {
		t.Errorf("as JSON: code %d, %s", code, out)
	}
}

// What a shell offers behind kernel pull and kernel import.
func TestKernelCompletions(t *testing.T) {
	c, out, _ := newCLI(t)
	serve(t, c, api.Unary("kernel.catalog", func(context.Context, struct{}) (banger.Offers[banger.KernelOffer], error) {
		return banger.Offers[banger.KernelOffer]{Offers: []banger.KernelOffer{{Name: "debian-6.1"}}}, nil
	}))
	for line, want := range map[string]string{
		"kernel pull ":               fmt.Sprintf("debian-6.1\n:%d\n", cobra.ShellCompDirectiveNoFileComp),
		"kernel import x --from ":    fmt.Sprintf(":%d\n", cobra.ShellCompDirectiveFilterDirs),
		"kernel import --from-host ": fmt.Sprintf(":%d\n", cobra.ShellCompDirectiveNoFileComp),
	} {
		out.Reset()
		words := append([]string{cobra.ShellCompNoDescRequestCmd}, strings.Split(line, " ")...)
		if code := c.Run(t.Context(), words); code != 0 || out.String() != want {
			t.Errorf("banger %s: code %d, %q, want %q", line, code, out, want)
		}
	}
}
