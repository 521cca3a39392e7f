package cli

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

func newCLI(t *testing.T) (*CLI, *bytes.Buffer, *bytes.Buffer) {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	stdin, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stdin.Close() })
	var out, errs bytes.Buffer
	return &CLI{Stdin: stdin, Stdout: &out, Stderr: &errs, Getenv: func(k string) string {
		return map[string]string{"BANGER_ROOT": root, "XDG_RUNTIME_DIR": filepath.Dir(root)}[k]
	}}, &out, &errs
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{"512": 512, "512M": 512 << 20, "1.5G": 3 << 29, "2GiB": 2 << 30, "64k": 64 << 10, "1T": 1 << 40, "10MB": 10 << 20} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("parseSize(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "M", "-1", "1X", "1.2.3M", "1e99", "NaN", "0x10", "1 G 2", "inf"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("parseSize(%q) = %d", text, got)
		}
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB", 10 << 30: "10 GiB", 123 << 20: "123 MiB"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestAge(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "0s", 90 * time.Second: "1m", 3 * time.Hour: "3h", 50 * time.Hour: "2d"} {
		if got := age(time.Now().Add(-d)); got != want {
			t.Errorf("age(%s) = %q, want %q", d, got, want)
		}
	}
	if age(time.Time{}) != "-" {
		t.Error("no time has an age")
	}
}

func TestCommandOfAnImage(t *testing.T) {
	entry, cmd := []string{"/entry", "-x"}, []string{"serve"}
	for _, c := range []struct {
		config banger.ImageConfig
		argv   []string
		want   []string
	}{
		{banger.ImageConfig{}, nil, []string{"/bin/sh"}},
		{banger.ImageConfig{Cmd: cmd}, nil, []string{"serve"}},
		{banger.ImageConfig{Cmd: cmd}, []string{"ls"}, []string{"ls"}},
		{banger.ImageConfig{Entrypoint: entry, Cmd: cmd}, nil, []string{"/entry", "-x", "serve"}},
		{banger.ImageConfig{Entrypoint: entry, Cmd: cmd}, []string{"ls"}, []string{"/entry", "-x", "ls"}},
	} {
		if got := command(c.config, c.argv); !slices.Equal(got, c.want) {
			t.Errorf("command(%v, %v) = %v, want %v", c.config, c.argv, got, c.want)
		}
	}
}

func TestFilterVMs(t *testing.T) {
	vms := []banger.VM{{Name: "a", State: banger.Running}, {Name: "b", State: banger.Stopped, Spec: banger.VMSpec{Labels: map[string]string{"tier": "front", "x": ""}}}}
	for filter, want := range map[string]string{
		"state=running": "a", "label=tier": "b", "label=tier=front": "b", "label=tier=back": "", "label=x=": "b", "label=nope": "", "name=b": "b",
	} {
		got, err := filterVMs(vms, []string{filter})
		if err != nil || (want == "") != (len(got) == 0) || len(got) > 0 && (len(got) > 1 || got[0].Name != want) {
			t.Errorf("%s: %v, %v", filter, got, err)
		}
	}
	for _, bad := range []string{"colour=red", "label", "state"} {
		if _, err := filterVMs(vms, []string{bad}); err == nil {
			t.Errorf("the filter %s was taken", bad)
		}
	}
}

func TestPrintOffers(t *testing.T) {
	builtin := banger.Offers[banger.KernelOffer]{Offers: []banger.KernelOffer{{Name: "a", Catalog: "builtin"}}}
	two := banger.Offers[banger.KernelOffer]{Offers: append(builtin.Offers, banger.KernelOffer{Name: "b", Catalog: "acme"}), Problems: []banger.CatalogProblem{
		{Catalog: "down", Message: "no \x1b route", Hint: "plug it in"}, {Catalog: "acme", Cached: true, Message: "no answer"}}}
	for name, tt := range map[string]struct {
		all       banger.Offers[banger.KernelOffer]
		l         list
		json      bool
		out, errs string
	}{
		"built-in alone": {builtin, list{format: "table"}, false, "NAME   X\na      1\n", ""},
		"two": {two, list{format: "table"}, false, "NAME   CATALOG   X\na      builtin   1\nb      acme      1\n",
			"banger: catalog down is left out: no ? route\nhint: plug it in\nbanger: catalog acme is shown as it once was: no answer\n"},
		"names":    {builtin, list{format: "table", quiet: true}, true, "a\n", ""},
		"JSON":     {two, list{format: "table"}, true, `{"offers":[{"name":"a","catalog":"builtin"`, ""},
		"format":   {two, list{format: "json"}, false, `"problems":[{"catalog":"down","message":"no\u001broute","hint":"plugitin"},{"catalog":"acme","cached":true,`, ""},
		"no offer": {banger.Offers[banger.KernelOffer]{}, list{format: "table"}, false, "NAME   X\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			c, out, errs := newCLI(t)
			c.json = tt.json
			err := printOffers(c, nil, tt.l, "X", tt.all, func(o banger.KernelOffer) (string, string, []string) { return o.Name, o.Catalog, []string{"1"} })
			got := out.String()
			if strings.Contains(tt.out, "{") {
				got = strings.Join(strings.Fields(got), "")
			}
			if err != nil || !strings.Contains(got, tt.out) || errs.String() != tt.errs {
				t.Errorf("got %q, stderr %q, %v", got, errs, err)
			}
		})
	}
}

func TestVisibleKeepsNoControlBytes(t *testing.T) {
	if got := visible("a\x1b[31mb\r\x07\u009bc\nd"); got != "a?[31mb???c\nd" {
		t.Errorf("%q", got)
	}
}

func TestUsageMistakes(t *testing.T) {
	for line, hint := range map[string]string{
		"vm creat":         "banger vm --help",
		"nonsense":         "banger --help",
		"vm rm":            "banger vm rm --help",
		"run img uname -a": "put -- before the command",
		"vm create":        "--help",
		"kernel pull a b":  "banger kernel pull --help",
	} {
		c, out, errs := newCLI(t)
		if code := c.Run(t.Context(), strings.Fields(line)); code != exitUsage {
			t.Errorf("banger %s: code %d, %s", line, code, errs)
		}
		if !strings.Contains(errs.String(), hint) || out.Len() > 0 {
			t.Errorf("banger %s: stdout %q, stderr %q", line, out, errs)
		}
	}
}

// TestEveryCommandHasHelp holds the help text to its form.
func TestEveryCommandHasHelp(t *testing.T) {
	c, _, _ := newCLI(t)
	c.signals = newSignals(func(error) {})
	defer c.signals.close()
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Hidden {
			return
		}
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: its line of help is %q", cmd.CommandPath(), cmd.Short)
		}
		if !cmd.HasSubCommands() && cmd.RunE == nil {
			t.Errorf("%s does nothing", cmd.CommandPath())
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(c.root())
}

func TestFirstSignalCancelsThenTheGuestGetsThem(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	s := newSignals(cancel)
	defer s.close()
	ch, stop := s.pass()
	s.take(2)
	if sig := <-ch; sig.String() != "interrupt" || ctx.Err() != nil {
		t.Fatalf("passed %v, context %v", sig, ctx.Err())
	}
	stop()
	s.take(2)
	if ctx.Err() == nil || s.got() != 2 {
		t.Fatalf("not cancelled: %v, signal %d", ctx.Err(), s.got())
	}
}

// TestRunDirectoryOfOthers must not wait for a daemon that cannot be there.
func TestRunDirectoryOfOthers(t *testing.T) {
	c, _, errs := newCLI(t)
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "banger"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "banger"), 0o777); err != nil {
		t.Fatal(err)
	}
	getenv := c.Getenv
	c.Getenv = func(k string) string {
		if k == "XDG_RUNTIME_DIR" {
			return dir
		}
		return getenv(k)
	}
	if code := c.Run(t.Context(), []string{"vm", "ls"}); code != exitFailure || !strings.Contains(errs.String(), "open to others") {
		t.Errorf("code %d, %s", code, errs)
	}
}
