package banger

import "context"

// NameRequest names one object: a kernel, an image, or a VM by its name, its
// ID or an unambiguous prefix of at least four digits of its ID.
type NameRequest struct {
	Name  string `json:"name"`
	Force bool   `json:"force,omitempty"`
}

// KernelPullRequest asks for a kernel of the catalog or of a source.
type KernelPullRequest struct {
	Name  string   `json:"name"`            // NAME or CATALOG/NAME of the catalogs, or a source: deb://PACKAGE, oci://REF, ...
	As    string   `json:"as,omitempty"`    // its name here; default: that of the catalog, or one made of the source
	Args  []string `json:"args,omitempty"`  // words added to its command line in every boot
	Force bool     `json:"force,omitempty"` // replace one that is there
}

// KernelImportRequest asks for a copy of a kernel of this host.
type KernelImportRequest struct {
	Name     string   `json:"name,omitempty"`      // its name here; default, of the host's own kernel: host-VERSION
	From     string   `json:"from,omitempty"`      // absolute path of the folder that it is in
	FromHost bool     `json:"from_host,omitempty"` // instead of From: the kernel that this host runs
	Args     []string `json:"args,omitempty"`      // words added to its command line in every boot
	Force    bool     `json:"force,omitempty"`     // replace one that is there
}

// KernelVerifyRequest asks whether a kernel is what it was, and what it can do.
type KernelVerifyRequest struct {
	Name   string `json:"name"`
	NoBoot bool   `json:"no_boot,omitempty"` // only compare its file with its record
}

// VMCreateRequest asks for a new VM.
type VMCreateRequest struct {
	Spec    VMSpec `json:"spec"`
	NoStart bool   `json:"no_start,omitempty"`
	// Ephemeral ties the VM to the calling process: it is removed when that
	// process ends, however it ends.
	Ephemeral bool `json:"ephemeral,omitempty"`
}

// VMAwaitRequest asks to wait for something in a VM that runs.
type VMAwaitRequest struct {
	Name    string   `json:"name"`
	WaitFor []string `json:"wait_for"` // as in VMSpec
}

// VMStopRequest asks for the end of a VM's machine.
type VMStopRequest struct {
	Name    string `json:"name"`
	Seconds int    `json:"seconds,omitempty"` // grace before it is killed, default 30
	Force   bool   `json:"force,omitempty"`   // kill at once
}

// VMResizeRequest makes a VM's disk larger.
type VMResizeRequest struct {
	Name string `json:"name"`
	Disk int64  `json:"disk"` // bytes
}

// VMRenameRequest gives a VM another name.
type VMRenameRequest struct {
	Name string `json:"name"`
	New  string `json:"new"`
}

// VMPruneRequest asks for the end of VMs that do not run.
type VMPruneRequest struct {
	DryRun bool `json:"dry_run,omitempty"` // only say which
}

// VersionInfo tells which daemon answers.
type VersionInfo struct {
	Version string `json:"version"`
	Build   string `json:"build"` // content ID of the binary
	PID     int    `json:"pid"`
}

// SystemInfo is what banger knows of itself and its host.
type SystemInfo struct {
	VersionInfo
	Root    string   `json:"root"`
	Cache   string   `json:"cache"`
	Run     string   `json:"run"`
	Config  string   `json:"config"` // the configuration file, whether it is there or not
	Kernels int      `json:"kernels"`
	Images  int      `json:"images"`
	VMs     int      `json:"vms"`
	Running int      `json:"running"`
	Drivers []Driver `json:"drivers"`
	// ConfigError says what is wrong with the configuration, nil: nothing.
	ConfigError *Error `json:"config_error,omitempty"`
}

// Driver is one way to run machines on this host.
type Driver struct {
	Name        string `json:"name"`
	Path        string `json:"path,omitempty"`
	Version     string `json:"version,omitempty"`
	Accel       string `json:"accel,omitempty"`
	AccelReason string `json:"accel_reason,omitempty"`
	Problem     string `json:"problem,omitempty"` // why it cannot be used
}

// KernelListRequest asks for the kernels of the store.
type KernelListRequest struct {
	// Brief leaves out what no table shows: checksums, arguments, catalogs.
	Brief bool `json:"brief,omitempty"`
}

// KernelList lists the kernels of the store, also those with a bad record.
func (c *Client) KernelList(ctx context.Context, r KernelListRequest) ([]Kernel, error) {
	return callList[Kernel](ctx, c, "kernel.list", r)
}

// KernelCatalog lists what KernelPull can get by name. All catalogs are asked;
// those that cannot be read are among the problems. Kind: invalid (configuration).
func (c *Client) KernelCatalog(ctx context.Context) (Offers[KernelOffer], error) {
	return call[Offers[KernelOffer]](ctx, c, "kernel.catalog", nil)
}

// KernelShow describes one kernel. Kinds: not_found, conflict (bad record).
func (c *Client) KernelShow(ctx context.Context, name string) (Kernel, error) {
	return call[Kernel](ctx, c, "kernel.show", NameRequest{Name: name})
}

// KernelPull gets a kernel of the catalog or of a source. Kinds: not_found, exists, invalid, unsupported, unavailable, exhausted.
func (c *Client) KernelPull(ctx context.Context, r KernelPullRequest, progress func(Progress)) (Kernel, error) {
	return stream[Kernel](ctx, c, "kernel.pull", r, progress)
}

// KernelImport copies a kernel of this host, which the daemon's user may read.
// Kinds: not_found (no folder, or no kernel in it), exists, invalid, unsupported,
// unavailable (it must not be read), conflict (it changed meanwhile), exhausted.
func (c *Client) KernelImport(ctx context.Context, r KernelImportRequest, progress func(Progress)) (Kernel, error) {
	return stream[Kernel](ctx, c, "kernel.import", r, progress)
}

// KernelVerify reads a kernel's file again and boots it once in a machine that
// is thrown away, to see what it can do. Kinds: not_found, conflict (the file is
// not the one of the record), unsupported, unavailable (it does not boot).
func (c *Client) KernelVerify(ctx context.Context, r KernelVerifyRequest, progress func(Progress)) (KernelReport, error) {
	return stream[KernelReport](ctx, c, "kernel.verify", r, progress)
}

// KernelDelete removes a kernel. Kinds: not_found, conflict (in use, without Force).
func (c *Client) KernelDelete(ctx context.Context, r NameRequest) error {
	return c.Call(ctx, "kernel.delete", r, nil)
}

// VMList lists the VMs, also those with a bad record.
func (c *Client) VMList(ctx context.Context) ([]VM, error) {
	return callList[VM](ctx, c, "vm.list", nil)
}

// VMShow describes one VM. Kinds: not_found, invalid (ambiguous ID prefix).
func (c *Client) VMShow(ctx context.Context, name string) (VM, error) {
	return call[VM](ctx, c, "vm.show", NameRequest{Name: name})
}

// VMCreate makes a VM and, unless told otherwise, starts it and waits until it
// is reachable; if that goes wrong, nothing is left of it.
// Kinds: not_found (image, kernel), exists (name), invalid, unsupported, unavailable, exhausted.
func (c *Client) VMCreate(ctx context.Context, r VMCreateRequest, progress func(Progress)) (VM, error) {
	return stream[VM](ctx, c, "vm.create", r, progress)
}

// VMStart starts a VM and waits until it is reachable. One that runs is left as
// it is. With Force it may take more memory than the host has, from now on.
// Kinds: not_found, conflict (it is paused, or was stopped meanwhile), exhausted, unavailable.
func (c *Client) VMStart(ctx context.Context, r NameRequest, progress func(Progress)) (VM, error) {
	return stream[VM](ctx, c, "vm.start", r, progress)
}

// VMAwait waits until a VM that runs has what is asked for, as long as its boot
// may take. Kinds: conflict (it does not run), invalid, unsupported, unavailable (it did not come).
func (c *Client) VMAwait(ctx context.Context, r VMAwaitRequest, progress func(Progress)) (VM, error) {
	return stream[VM](ctx, c, "vm.await", r, progress)
}

// VMStop stops a VM and waits until it has ended. One that does not run is left as it is.
func (c *Client) VMStop(ctx context.Context, r VMStopRequest) (VM, error) {
	return call[VM](ctx, c, "vm.stop", r)
}

// VMRestart stops a VM, if it runs, as VMStop does, and starts it. Once it has
// begun it goes on without the caller, and without this daemon.
func (c *Client) VMRestart(ctx context.Context, r VMStopRequest, progress func(Progress)) (VM, error) {
	return stream[VM](ctx, c, "vm.restart", r, progress)
}

// VMPause stops the virtual CPUs of a VM that runs. Kind: conflict (it does not run).
func (c *Client) VMPause(ctx context.Context, name string) (VM, error) {
	return call[VM](ctx, c, "vm.pause", NameRequest{Name: name})
}

// VMResume lets a VM that is paused go on, and sets its clock. Kind: conflict (it is not).
func (c *Client) VMResume(ctx context.Context, name string) (VM, error) {
	return call[VM](ctx, c, "vm.resume", NameRequest{Name: name})
}

// VMResize makes a VM's disk larger: at once where it runs, else at its next start.
// Kinds: not_found, invalid (it would shrink), conflict (it is neither running nor
// stopped), unsupported (its VMM cannot).
func (c *Client) VMResize(ctx context.Context, r VMResizeRequest) (VM, error) {
	return call[VM](ctx, c, "vm.resize", r)
}

// VMRename gives a VM another name; its host name follows at its next start.
// Kinds: exists, invalid.
func (c *Client) VMRename(ctx context.Context, r VMRenameRequest) (VM, error) {
	return call[VM](ctx, c, "vm.rename", r)
}

// VMWait waits until a VM has no machine and gets none again.
func (c *Client) VMWait(ctx context.Context, name string) (VM, error) {
	return call[VM](ctx, c, "vm.wait", NameRequest{Name: name})
}

// VMPrune removes the VMs that have stopped or failed, with their disks.
func (c *Client) VMPrune(ctx context.Context, r VMPruneRequest) ([]VM, error) {
	return call[[]VM](ctx, c, "vm.prune", r)
}

// VMDelete removes a VM with its disk. Kinds: not_found, conflict (it runs, without Force).
func (c *Client) VMDelete(ctx context.Context, r NameRequest) error {
	return c.Call(ctx, "vm.delete", r, nil)
}

// SystemVersion tells which daemon answers.
func (c *Client) SystemVersion(ctx context.Context) (VersionInfo, error) {
	return call[VersionInfo](ctx, c, "system.version", nil)
}

// SystemInfo describes the daemon and its host.
func (c *Client) SystemInfo(ctx context.Context) (SystemInfo, error) {
	return call[SystemInfo](ctx, c, "system.info", nil)
}

// SystemShutdown ends the daemon; VMs run on. Kind: conflict (busy, without Force).
func (c *Client) SystemShutdown(ctx context.Context, r NameRequest) error {
	return c.Call(ctx, "system.shutdown", r, nil)
}

func call[T any](ctx context.Context, c *Client, name string, in any) (out T, err error) {
	err = c.Call(ctx, name, in, &out)
	return out, err
}

func stream[T any](ctx context.Context, c *Client, name string, in any, progress func(Progress)) (out T, err error) {
	err = c.Stream(ctx, name, in, &out, progress)
	return out, err
}
