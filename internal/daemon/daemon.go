// Package daemon owns the catalogs, the records and the life cycles: it composes all other parts on the host.
package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"banger"
	"banger/internal/api"
	"banger/internal/catalogs"
	"banger/internal/hostmem"
	"banger/internal/imagecat"
	"banger/internal/kernelcat"
	"banger/internal/oci"
	"banger/internal/state"
	"banger/internal/vmm"
)

// lockTime bounds the wait for a lock that is about to be given up.
const lockTime = 500 * time.Millisecond

// Daemon serves one user's state root.
type Daemon struct {
	Layout  state.Layout
	Version banger.VersionInfo
	Driver  vmm.Driver
	Log     *slog.Logger

	kernels                     kernelcat.Local
	kernelsListed, kernelsBrief atomic.Pointer[listed]
	images                      state.Store[banger.Image]
	disks                       state.Store[banger.VM]

	kernelBooks catalogs.Library[kernelcat.CatEntry]
	imageBooks  catalogs.Library[imagecat.Entry]

	// For tests, to be set before Open.
	guest    func() (program []byte, sha256 string, err error) // nil: the one built in, which a plain go test lacks
	obey     time.Duration                                     // 0: obeyTime
	step     func(name string)                                 // called where a kill -9 leaves something half done
	mem      func() (hostmem.Memory, error)                    // nil: that of this host
	slotTime time.Duration                                     // 0: the constant of that name

	self  banger.Process
	lock  *state.FileLock
	tasks sync.WaitGroup // goroutines that outlive the call that began them
	busy  atomic.Int64   // calls of long work under way

	builds atomic.Int64 // under way: the layers of their steps belong to no image yet

	// calls ends first, and the calls undo what they are at; then life ends,
	// and with it the tasks, which the calls need for that.
	calls, life context.Context
	stop, end   context.CancelCauseFunc

	flight oci.Flight // what pulls are getting

	keys state.Keys // one operation at a time on each kernel, image, VM

	// refs makes "is it there" and "who uses it" hold until the record is written.
	refs  sync.Mutex
	slots slots // of boots

	journal *journal // what has happened

	memory   sync.Mutex
	promised map[string]banger.VM // by ID: VMs that are being created or started, and have no machine yet

	mu    sync.Mutex
	vms   map[string]*vm // by ID
	names map[string]bool
}

// Open takes the state root, undoes what a crash left half done and finds the
// VMs that run. A root that another daemon has is a Conflict error.
func (d *Daemon) Open(ctx context.Context) (err error) {
	if d.guest == nil {
		d.guest = builtinGuest
	}
	if d.self, err = processOf(os.Getpid()); err != nil {
		return err
	}
	if d.mem == nil {
		d.mem = func() (hostmem.Memory, error) { return hostmem.Read("/") }
	}
	d.obey = cmp.Or(d.obey, obeyTime)
	d.slots.free = max(minSlots, runtime.NumCPU())
	d.promised = map[string]banger.VM{}
	if err := d.Layout.Make(); err != nil {
		return state.Classify(err)
	}
	if err := d.takeLock(); err != nil {
		return err
	}
	d.calls, d.stop = context.WithCancelCause(ctx)
	d.life, d.end = context.WithCancelCause(context.WithoutCancel(ctx))
	d.vms, d.names = map[string]*vm{}, map[string]bool{}
	d.openEvents(d.Layout.Path(state.EventsFile))
	d.kernels = kernelcat.OpenLocal(d.Layout.Kernels())
	d.openCatalogs()
	d.images = state.Store[banger.Image]{Dir: d.Layout.Images(), File: state.ManifestFile, Noun: "image",
		Broken: func(name, problem string) banger.Image { return banger.Image{Name: name, Problem: problem} }}
	d.disks = state.Store[banger.VM]{Dir: d.Layout.VMs(), File: state.VMFile, Noun: "vm",
		Broken: func(id, problem string) banger.VM {
			return banger.VM{ID: id, Name: id, State: banger.Broken, Problem: problem}
		}}
	// Again: a daemon that has just gone took the run directory with it.
	if err = d.Layout.MakeRun(); err == nil {
		err = d.sweep()
	}
	if err == nil {
		err = d.adoptAll()
	}
	if err == nil {
		err = errors.Join(d.sweepTemporary(), d.sweepCaches())
	}
	if err != nil {
		_ = d.Close()
		return state.Classify(err)
	}
	if err := d.checkConfig(); err != nil { // of the calls that need it; VMs do not
		d.Log.Warn("the configuration is wrong", "err", err)
	}
	return nil
}

// takeLock takes the lock of the state root. A child that a daemon was about to
// start as it died has the lock until its exec: there is no event for that.
func (d *Daemon) takeLock() (err error) {
	for end := time.Now().Add(lockTime); ; time.Sleep(5 * time.Millisecond) {
		d.lock, err = state.LockFile(d.Layout.Path(state.DaemonLock), false)
		if !errors.Is(err, state.ErrLocked) {
			return err
		}
		if time.Now().After(end) {
			return banger.Errorf(banger.Conflict, "another daemon serves %s", d.Layout.Root)
		}
	}
}

// sweep removes what work that was cut off has left.
func (d *Daemon) sweep() error {
	if err := os.RemoveAll(d.Layout.Scratch()); err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	if err := os.Mkdir(d.Layout.Scratch(), 0o700); err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	errs := []error{d.kernels.Sweep(), d.images.Sweep(), d.disks.Sweep(), oci.Sweep(d.Layout.Blobs())}
	for _, dir := range []string{d.Layout.Builds(), d.Layout.Catalogs(), d.Layout.BootDisks(), d.Layout.Initrds(), d.Layout.ModuleDisks()} {
		errs = append(errs, state.SweepDir(dir))
	}
	return errors.Join(errs...)
}

// Listen makes the daemon's socket. One that is there already is stale unless
// somebody answers: the lock taken by Open is that of the state root, and with
// other XDG variables another root may have the same run directory.
func (d *Daemon) Listen() (net.Listener, error) {
	path := d.Layout.Socket()
	if fi, err := os.Lstat(path); err == nil {
		if fi.Mode()&os.ModeSocket == 0 {
			return nil, banger.Errorf(banger.Conflict, "%s is in the way: it is not a socket", path).WithHint("rm %s", path)
		}
		if c, err := net.Dial("unix", path); err == nil {
			_ = c.Close()
			return nil, banger.Errorf(banger.Conflict, "the daemon of another state root serves %s", path).
				WithHint("set BANGER_ROOT, which gives %s a socket of its own", d.Layout.Root)
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
	return srv.Serve(d.calls, l)
}

var errDown = banger.Errorf(banger.Canceled, "the daemon is going down")

// Close ends what the daemon does, and leaves the VMs running.
func (d *Daemon) Close() error {
	d.stop(errDown)
	d.end(errDown)
	d.tasks.Wait()
	d.journal.close()
	_ = os.Remove(d.Layout.Run) // fails while machines have their sockets in it
	d.lock.Unlock()
	return nil
}

// routes is the API, in the order of the names.
func (d *Daemon) routes() []api.Route {
	return []api.Route{
		api.Stream("image.build", long(d, d.imageBuild)),
		api.Unary("image.catalog", d.imageCatalog),
		api.Unary("image.delete", d.imageDelete),
		api.Unary("image.history", d.imageHistory),
		api.Stream("image.import", long(d, d.imageImport)),
		api.List("image.list", d.imageList),
		api.Unary("image.prune", d.imagePrune),
		api.Stream("image.pull", long(d, d.imagePull)),
		api.Stream("image.push", long(d, d.imagePush)),
		api.Unary("image.register", d.imageRegister),
		api.Stream("image.save", long(d, d.imageSave)),
		api.Unary("image.show", d.imageShow),
		api.Unary("image.tag", d.imageTag),
		api.Stream("image.verify", long(d, d.imageVerify)),
		api.Unary("kernel.catalog", d.kernelCatalog),
		api.Unary("kernel.delete", d.kernelDelete),
		api.Stream("kernel.import", long(d, d.kernelImport)),
		api.Encoded("kernel.list", d.kernelList),
		api.Stream("kernel.pull", long(d, d.kernelPull)),
		api.Unary("kernel.show", d.kernelShow),
		api.Stream("kernel.verify", long(d, d.kernelVerify)),
		api.Feed("system.events", d.systemEvents),
		api.Unary("system.info", d.systemInfo),
		api.Unary("system.shutdown", d.systemShutdown),
		api.Unary("system.version", d.systemVersion),
		api.Stream("vm.await", long(d, d.vmAwait)),
		api.Stream("vm.create", long(d, d.vmCreate)),
		api.Unary("vm.delete", d.vmDelete),
		api.List("vm.list", d.vmList),
		api.Unary("vm.pause", d.vmPause),
		api.Unary("vm.prune", d.vmPrune),
		api.Unary("vm.rename", d.vmRename),
		api.Unary("vm.resize", d.vmResize),
		api.Stream("vm.restart", long(d, d.vmRestart)),
		api.Unary("vm.resume", d.vmResume),
		api.Unary("vm.show", d.vmShow),
		api.Stream("vm.start", long(d, d.vmStart)),
		api.List("vm.stats", d.vmStats),
		api.Unary("vm.stop", d.vmStop),
		api.Unary("vm.wait", d.vmWait),
	}
}

// at is a place where a kill -9 leaves something half done.
func (d *Daemon) at(step string) {
	if d.step != nil {
		d.step(step)
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
