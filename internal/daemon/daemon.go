// Package daemon owns the catalogs, the records and the life cycles: it composes all other parts on the host.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"banger"
	"banger/internal/api"
	"banger/internal/state"
	"banger/internal/vmm"
)

// Daemon serves one user's state root.
type Daemon struct {
	Layout  state.Layout
	Version banger.VersionInfo
	Driver  vmm.Driver
	Log     *slog.Logger

	kernels state.Store[banger.Kernel]
	images  state.Store[banger.Image]
	disks   state.Store[banger.VM]

	lock  *state.FileLock
	tasks sync.WaitGroup // goroutines that outlive the call that began them
	life  context.Context
	stop  context.CancelCauseFunc
	busy  atomic.Int64 // calls of long work under way

	keys state.Keys // one operation at a time on each kernel, image, VM

	// refs makes "is it there" and "who uses it" hold until the record is written.
	refs  sync.Mutex
	mu    sync.Mutex
	vms   map[string]*vm // by ID
	names map[string]bool
}

// Open takes the state root, undoes what a crash left half done and finds the
// VMs that run. A root that another daemon has is a Conflict error.
func (d *Daemon) Open(ctx context.Context) (err error) {
	if err := d.Layout.Make(); err != nil {
		return err
	}
	d.lock, err = state.LockFile(d.Layout.Path(state.DaemonLock), false)
	if errors.Is(err, state.ErrLocked) {
		return banger.Errorf(banger.Conflict, "another daemon serves %s", d.Layout.Root)
	}
	if err != nil {
		return err
	}
	// Again: a daemon that has just gone took the run directory with it.
	if err := d.Layout.MakeRun(); err != nil {
		d.lock.Unlock()
		return err
	}
	d.life, d.stop = context.WithCancelCause(ctx)
	d.vms, d.names = map[string]*vm{}, map[string]bool{}
	d.kernels = state.Store[banger.Kernel]{Dir: d.Layout.Kernels(), File: state.ManifestFile, Noun: "kernel",
		Broken: func(name, problem string) banger.Kernel { return banger.Kernel{Name: name, Problem: problem} }}
	d.images = state.Store[banger.Image]{Dir: d.Layout.Images(), File: state.ManifestFile, Noun: "image",
		Broken: func(name, problem string) banger.Image { return banger.Image{Name: name, Problem: problem} }}
	d.disks = state.Store[banger.VM]{Dir: d.Layout.VMs(), File: state.VMFile, Noun: "vm",
		Broken: func(id, problem string) banger.VM {
			return banger.VM{ID: id, Name: id, State: banger.Broken, Problem: problem}
		}}
	if err := d.sweep(); err != nil {
		d.lock.Unlock()
		return err
	}
	if err := d.adoptAll(); err != nil {
		_ = d.Close()
		return err
	}
	return nil
}

// sweep removes what work that was cut off has left.
func (d *Daemon) sweep() error {
	if err := os.RemoveAll(d.Layout.Scratch()); err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	if err := os.Mkdir(d.Layout.Scratch(), 0o700); err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	errs := []error{d.kernels.Sweep(), d.images.Sweep(), d.disks.Sweep()}
	for _, dir := range []string{d.Layout.BootDisks(), d.Layout.Initrds()} {
		errs = append(errs, state.SweepDir(dir))
	}
	return errors.Join(errs...)
}

// Listen makes the daemon's socket; the lock taken by Open says that one which
// is there already is stale.
func (d *Daemon) Listen() (net.Listener, error) {
	path := d.Layout.Socket()
	if fi, err := os.Lstat(path); err == nil {
		if fi.Mode()&os.ModeSocket == 0 {
			return nil, banger.Errorf(banger.Conflict, "%s is in the way: it is not a socket", path).WithHint("rm %s", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove stale socket: %w", err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}

// Serve answers calls until ctx ends or a client asks for the end.
func (d *Daemon) Serve(l net.Listener) error {
	srv := &api.Server{Routes: d.routes(), UID: os.Getuid(), Log: d.Log}
	d.Log.Info("serving", "socket", d.Layout.Socket(), "build", d.Version.Build)
	return srv.Serve(d.life, l)
}

// Close ends what the daemon does, and leaves the VMs running.
func (d *Daemon) Close() error {
	d.stop(errors.New("the daemon is going down"))
	d.tasks.Wait()
	_ = os.Remove(d.Layout.Run) // fails while machines have their sockets in it
	d.lock.Unlock()
	return nil
}

// routes is the API, in the order of the names.
func (d *Daemon) routes() []api.Route {
	return []api.Route{
		api.Unary("image.catalog", d.imageCatalog),
		api.Unary("image.delete", d.imageDelete),
		api.Unary("image.list", d.imageList),
		api.Stream("image.pull", long(d, d.imagePull)),
		api.Unary("image.show", d.imageShow),
		api.Unary("kernel.catalog", d.kernelCatalog),
		api.Unary("kernel.delete", d.kernelDelete),
		api.Unary("kernel.list", d.kernelList),
		api.Stream("kernel.pull", long(d, d.kernelPull)),
		api.Unary("kernel.show", d.kernelShow),
		api.Unary("system.info", d.systemInfo),
		api.Unary("system.shutdown", d.systemShutdown),
		api.Unary("system.version", d.systemVersion),
		api.Stream("vm.create", long(d, d.vmCreate)),
		api.Unary("vm.delete", d.vmDelete),
		api.Unary("vm.list", d.vmList),
		api.Unary("vm.show", d.vmShow),
		api.Stream("vm.start", long(d, d.vmStart)),
		api.Unary("vm.stop", d.vmStop),
	}
}

type progress = func(banger.Progress)

// none is the input or output of a call that has none.
type none struct{}

// long counts work that a shutdown would cut off.
func long[In, Out any](d *Daemon, f func(context.Context, In, progress) (Out, error)) func(context.Context, In, progress) (Out, error) {
	return func(ctx context.Context, in In, p progress) (Out, error) {
		d.busy.Add(1)
		defer d.busy.Add(-1)
		return f(ctx, in, p)
	}
}
