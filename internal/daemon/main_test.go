package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/guest/sshd"
	"banger/internal/hello"
	"banger/internal/hostmem"
	"banger/internal/shim"
	"banger/internal/state"
	"banger/internal/vmm"
	"banger/internal/vmm/fakevmm"
)

// TestMain plays the parts of other processes when the test binary is run as
// one: the shim, as the daemon runs it; a daemon that can be killed; the owner
// of a VM.
func TestMain(m *testing.M) {
	parts := map[string]func([]string) error{"shim": shimMain, "daemon": daemonMain, "owner": ownerMain}
	if len(os.Args) > 2 && parts[os.Args[1]] != nil {
		if err := parts[os.Args[1]](os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	// A process with the race detector sleeps for a second at its end.
	_ = os.Setenv("GORACE", "atexit_sleep_ms=0")
	flag.Parse()
	_ = flag.Set("test.parallel", "8") // whatever the processors: most of the time a test waits
	os.Exit(m.Run())
}

// script is what the machine of one VM does: the file script-NAME in the state
// root. Without one the machine boots and its agent answers.
type script struct {
	Refuse    bool          // the VMM does not start
	Hang      bool          // it hangs in its start
	DieAfter  time.Duration // it ends so long after its start
	Code      int           // with this code
	Console   string        // what the guest prints
	Flood     bool          // and then prints for ever
	Guest     string        // up (or empty), deaf, silent, stuck, garbage or fail
	FailText  string        // what pid 1 dies of, for fail
	ShimHangs bool          // the shim does not even begin

	etc string // of the guest: its root is whoever runs the tests
}

func (s script) driver() *fakevmm.Driver {
	d := &fakevmm.Driver{
		Process: []string{"sleep", "60"}, Hang: s.Hang, DieAfter: s.DieAfter, Exit: vmm.Exit{Code: s.Code},
		Console: []byte(s.Console), Flood: s.Flood, Deaf: s.Guest == "deaf",
	}
	if s.Refuse {
		d.Refuse = banger.Errorf(banger.Unavailable, "no such VMM").WithHint("apt-get install vmm")
	}
	switch s.Guest {
	case "", "up", "deaf":
		d.Agent = s.guest
	case "silent":
		d.Agent = fakevmm.Silent
	case "stuck":
		d.Agent = fakevmm.Stuck
	case "garbage":
		d.Agent = fakevmm.Garbage([]byte("\xff\x00garbage\nbanger1 go\nbanger1 hello x y\n"))
	case "fail":
		d.Agent = func(ctx context.Context, g *fakevmm.Guest) {
			if _, _, err := hello.Ask(ctx, g, hello.Boot); err == nil {
				_ = hello.Fail(g, s.FailText)
				g.End(vmm.Exit{Guest: vmm.GuestShutdown})
			}
		}
	}
	return d
}

// guest is pid 1 and the agent, without a machine around them.
func (s script) guest(ctx context.Context, g *fakevmm.Guest) {
	if _, _, err := sshd.Ask(ctx, g, hello.Boot); err != nil {
		return
	}
	srv := &sshd.Server{Version: "test", Init: "test", Etc: s.etc, SetClock: func(time.Time) error { return nil }, Grow: func() error { return nil }, Shutdown: func(how string) error {
		if s.Guest != "deaf" {
			// After the answer has left: a machine that is off sends none.
			time.AfterFunc(10*time.Millisecond, func() {
				g.End(vmm.Exit{Guest: map[string]string{hello.Poweroff: vmm.GuestShutdown, hello.Reboot: vmm.GuestReset}[how]})
			})
		}
		return nil
	}}
	srv.Look = func(_ context.Context, want string) (string, error) { // a file of that name says that it is there
		if _, err := os.Stat(filepath.Join(s.etc, want)); err != nil {
			return "nobody \x1b[2Jlistens", nil
		}
		return "", nil
	}
	_ = srv.Serve(ctx, g)
}

// shimMain is what cmd/banger does for "banger shim DIR", with the fake VMM.
func shimMain(args []string) error {
	dir := args[0]
	var spec shim.Spec
	_ = state.ReadRecord(filepath.Join(dir, state.BootFile), &spec)
	root := filepath.Dir(filepath.Dir(dir))
	s := script{etc: filepath.Join(filepath.Dir(root), "etc")}
	b, err := os.ReadFile(filepath.Join(root, "script-"+spec.Hello.Hostname))
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if s.ShimHangs {
		_ = unix.Kill(os.Getpid(), unix.SIGSTOP)
	}
	f := os.NewFile(3, "shim socket")
	l, err := net.FileListener(f)
	_ = f.Close()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return (&shim.Shim{Dir: dir, Driver: s.driver()}).Run(ctx, l.(*net.UnixListener))
}

// testDaemon is a daemon that needs no program for guests.
func testDaemon(base string, log io.Writer) *Daemon {
	return &Daemon{
		Layout:  state.Layout{Root: base + "/s", Cache: base + "/c", Run: base + "/r", Config: base + "/config.toml"},
		Version: banger.VersionInfo{Version: "test", PID: os.Getpid()}, Driver: &fakevmm.Driver{},
		Log:  slog.New(slog.NewTextHandler(log, nil)),
		obey: 500 * time.Millisecond,
		mem: func() (hostmem.Memory, error) {
			return hostmem.Memory{Total: 1 << 40, Available: 1 << 40, Bound: "the host"}, nil
		},
		guest: func() ([]byte, string, error) { return []byte("guest"), "0123456789abcdef0123456789abcdef", nil },
	}
}

// daemonMain is a daemon below args[0] that kills itself at the step args[1].
// With args[2] its state root is a tmpfs with these mount options, with args[3]
// its cache is another one. When it serves, or cannot, it says so on stdout.
func daemonMain(args []string) error {
	d := testDaemon(args[0], os.Stderr)
	var err error
	if len(args) > 2 {
		err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	}
	for i, dir := range []string{d.Layout.Root, d.Layout.Cache} {
		if len(args) > 2+i {
			err = errors.Join(err, unix.Mount("tmpfs", dir, "tmpfs", 0, args[2+i]))
		}
	}
	if err != nil {
		err = banger.Errorf(banger.Unsupported, "mount a tmpfs: %w", err)
	}
	d.step = func(name string) {
		if name == args[1] {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		}
	}
	var l net.Listener
	if err == nil {
		err = d.Open(context.Background())
	}
	if err == nil {
		l, err = d.Listen()
	}
	_ = json.NewEncoder(os.Stdout).Encode(banger.Event{Error: banger.AsError(err)})
	if err != nil {
		return err
	}
	return errors.Join(d.Serve(l), d.Close())
}

// ownerMain makes an ephemeral VM at the socket args[0] by the name args[1],
// tells of it, and lives until its stdin ends.
func ownerMain(args []string) error {
	c := &banger.Client{Socket: args[0]}
	rec, err := c.VMCreate(context.Background(), banger.VMCreateRequest{Spec: testSpec(args[1]), Ephemeral: true}, nil)
	_ = json.NewEncoder(os.Stdout).Encode(struct {
		VM    banger.VM
		Error *banger.Error
	}{rec, banger.AsError(err)})
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}

func testSpec(name string) banger.VMSpec {
	return banger.VMSpec{Name: name, Image: "image", Kernel: "kernel", Net: "none", Disk: 64 << 20, BootTimeout: 30}
}
