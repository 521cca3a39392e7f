package daemon

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"banger"
	"banger/internal/agent"
	"banger/internal/guestbin"
	"banger/internal/hello"
	"banger/internal/kernelcat"
	"banger/internal/network"
	"banger/internal/rootfs"
	"banger/internal/shim"
	"banger/internal/state"
	"banger/internal/vmm"
)

// errNoAnswer is the end of a boot that was waited for long enough.
var errNoAnswer = errors.New("the guest did not answer")

// start boots a VM and waits until its agent answers. A VM that runs is left
// as it is. When the boot goes wrong or the caller goes away, the machine is ended.
func (d *Daemon) start(ctx context.Context, v *vm, p progress) (banger.VM, error) {
	unlock, err := d.keys.Lock(ctx, "vm/"+v.record().ID)
	if err != nil {
		return banger.VM{}, err
	}
	if !alive(v.record().State) {
		err = d.boot(ctx, v)
	}
	unlock() // from here on the machine can be stopped
	if err != nil {
		return v.record(), fmt.Errorf("start vm %q: %w", v.record().Name, err)
	}
	p(banger.Progress{Step: "boot " + v.record().Name})
	limit := time.Duration(v.record().Spec.BootTimeout) * time.Second
	wait, cancel := context.WithTimeoutCause(ctx, limit, banger.Errorf(banger.Unavailable, "%w within %s", errNoAnswer, limit))
	defer cancel()
	rec, err := v.wait(wait, func(rec banger.VM) bool { return rec.State != banger.Starting })
	if err == nil && rec.State == banger.Running {
		d.Log.Info("vm running", "vm", rec.Name, "accel", rec.Machine.Accel, "boot", v.timeline())
		return rec, nil
	}
	if err != nil { // time out, or the caller went away: the machine is not to run
		v.abandon(err)
	}
	return v.record(), v.bootError(err)
}

// abandon ends a machine whose boot is not waited for any longer.
func (v *vm) abandon(why error) {
	_ = v.update(func(r *banger.VM) { r.State = banger.Stopping })
	v.end(true, 0)
	if _, err := v.wait(v.d.life, func(r banger.VM) bool { return !alive(r.State) }); err != nil {
		return // the daemon goes down; the next one ends it
	}
	_ = v.update(func(r *banger.VM) { r.State, r.Reason = banger.Failed, why.Error() })
}

// bootError says why a boot did not come to its end, with the guest's last words.
func (v *vm) bootError(err error) error {
	rec := v.record()
	v.mu.Lock()
	end := v.status.End
	v.mu.Unlock()
	if err == nil && end != nil && end.Error != nil {
		return fmt.Errorf("start vm %q: %w", rec.Name, end.Error)
	}
	if err == nil {
		err = banger.Errorf(banger.Unavailable, "%s", rec.Reason)
	} else if errors.Is(err, errNoAnswer) {
		err = banger.Errorf(banger.Unavailable, "%w: %s", err, v.timeline().Reached())
	}
	if banger.IsKind(err, banger.Canceled) || !banger.IsKind(err, banger.Unavailable) {
		return fmt.Errorf("start vm %q: %w", rec.Name, err)
	}
	lines := consoleTail(rec.Console)
	if lines != "" {
		lines = "; the last lines of its console:\n" + lines
	}
	return banger.Errorf(banger.Unavailable, "start vm %q: %w%s", rec.Name, err, lines).
		WithHint("the whole console: banger vm logs %s", rec.Name)
}

func (v *vm) timeline() shim.Timeline {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.status.Boot
}

// boot is the host's side of one boot, top to bottom, up to the point where a
// shim holds the machine. The guest's side is internal/guest/boot.go.
func (d *Daemon) boot(ctx context.Context, v *vm) error {
	rec := v.record()

	// 1. The kernel and the image as they are now.
	kernel, err := d.kernels.Get(rec.Spec.Kernel)
	if err != nil {
		return err
	}
	image, err := d.images.Get(rec.Spec.Image)
	if err != nil {
		return err
	}

	// 2. What all VMs with this kernel and this banger share: boot disk and initrd.
	bootDisk, err := d.bootDisk(ctx)
	if err != nil {
		return err
	}
	initrd, err := d.initrd(ctx, kernel)
	if err != nil {
		return err
	}

	// 3. The machine: three disks, so that nothing of the image is copied.
	dir, run := d.Layout.VM(rec.ID), d.Layout.VMRun(rec.ID)
	spec := shim.Spec{
		Machine: vmm.Spec{
			ID: rec.ID, CPUs: rec.Spec.CPUs, Memory: rec.Spec.Memory, Accel: rec.Spec.Accel, RunDir: run,
			Kernel: d.kernels.Path(kernel.Name, state.VmlinuxFile), Initrd: initrd,
			Disks: []vmm.Disk{
				{Path: bootDisk, ReadOnly: true},
				{Path: d.images.Path(image.Name, state.RootfsFile), ReadOnly: true},
				{Path: filepath.Join(dir, state.DiskFile)},
			},
		},
		UserKey: d.Layout.UserKey(), HostKey: rec.HostKey,
	}

	// 4. What the guest is told when it asks.
	if spec.Hello, err = d.helloConfig(rec, image); err != nil {
		return err
	}
	if err := d.addNetwork(&spec, rec.Spec.Net); err != nil {
		return err
	}

	// 5. The intent, then the shim.
	if err := os.RemoveAll(run); err != nil {
		return err
	}
	if err := os.MkdirAll(run, 0o700); err != nil {
		return err
	}
	_ = os.Remove(filepath.Join(dir, state.ExitFile))
	if err := state.WriteRecord(filepath.Join(dir, state.BootFile), spec); err != nil {
		return err
	}
	if err := v.update(func(r *banger.VM) { r.State, r.Reason, r.StoppedAt = banger.Starting, "", time.Time{} }); err != nil {
		return err
	}
	if err := d.spawnShim(ctx, v); err != nil {
		_ = v.update(func(r *banger.VM) { r.State, r.Reason = banger.Failed, err.Error() })
		return err
	}
	return nil
}

// bootDisk makes the disk with the guest binary, once per guest binary.
func (d *Daemon) bootDisk(ctx context.Context) (string, error) {
	sum, err := guestbin.SHA256()
	if err != nil {
		return "", err
	}
	return d.cached(ctx, filepath.Join(d.Layout.BootDisks(), sum[:16]+".img"), func(path string) error {
		guest, err := guestbin.Bytes()
		if err != nil {
			return err
		}
		return rootfs.BootDisk(path, bytes.NewReader(guest), int64(len(guest)))
	})
}

// initrd makes the initrd of a kernel whose drivers are modules, once per kernel and guest binary.
func (d *Daemon) initrd(ctx context.Context, k banger.Kernel) (string, error) {
	sum, err := guestbin.SHA256()
	if err != nil {
		return "", err
	}
	path := filepath.Join(d.Layout.Initrds(), k.SHA256[:min(16, len(k.SHA256))]+"-"+sum[:16]+".cpio")
	return d.cached(ctx, path, func(path string) error {
		dir := d.kernels.Path(k.Name, state.ModulesDir)
		names, err := kernelcat.InitrdModules(k.Name, dir)
		if err != nil {
			return err
		}
		modules, err := moduleFiles(dir, names)
		if err != nil {
			return err
		}
		guest, err := guestbin.Bytes()
		if err != nil {
			return err
		}
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		return rootfs.Initrd(f, rootfs.File{Size: int64(len(guest)), Open: func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(guest)), nil
		}}, modules)
	})
}

// moduleFiles are kernel modules as files of an initrd.
func moduleFiles(dir string, names []string) ([]rootfs.File, error) {
	var files []rootfs.File
	for _, name := range names {
		path := filepath.Join(dir, name)
		fi, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		files = append(files, rootfs.File{Name: filepath.Base(name), Size: fi.Size(), Open: func() (io.ReadCloser, error) { return os.Open(path) }})
	}
	return files, nil
}

// cached gives the path of a file that is made once, by the first who needs it.
func (d *Daemon) cached(ctx context.Context, path string, fill func(tmp string) error) (string, error) {
	unlock, err := d.keys.Lock(ctx, path)
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	dir, err := os.MkdirTemp(d.Layout.Scratch(), "make-")
	if err != nil {
		return "", state.Classify(err)
	}
	defer os.RemoveAll(dir)
	tmp := filepath.Join(dir, filepath.Base(path))
	if err := fill(tmp); err != nil {
		return "", state.Classify(fmt.Errorf("make %s: %w", filepath.Base(path), err))
	}
	if err := os.Rename(tmp, path); err != nil {
		return "", err
	}
	return path, nil
}

// helloConfig is what the guest gets to know: who it is, who may come in, what its image wants.
func (d *Daemon) helloConfig(rec banger.VM, image banger.Image) (hello.Config, error) {
	private, err := os.ReadFile(filepath.Join(d.Layout.VM(rec.ID), state.HostKeyFile))
	if err != nil {
		return hello.Config{}, fmt.Errorf("read host key: %w", err)
	}
	user, err := agent.LoadOrCreateUserKey(d.Layout.UserKey())
	if err != nil {
		return hello.Config{}, err
	}
	machineID := sha256.Sum256([]byte("banger machine-id " + rec.ID))
	return hello.Config{
		Version: d.Version.Version, ID: rec.ID, Hostname: rec.Name, MachineID: hex.EncodeToString(machineID[:16]),
		HostKey: string(private), AuthorizedKeys: []string{string(ssh.MarshalAuthorizedKey(user.PublicKey()))},
		Init: rec.Spec.Init, Env: image.Config.Env, WorkingDir: image.Config.WorkingDir, User: image.Config.User,
	}, nil
}

// addNetwork puts the user-mode network into the machine and into what the guest is told.
func (d *Daemon) addNetwork(spec *shim.Spec, mode string) error {
	if mode != "nat" {
		return nil
	}
	u, err := network.NewUser("/etc/resolv.conf")
	if err != nil {
		return err
	}
	spec.Machine.Net = &vmm.Net{Guest: u.Guest, Gateway: u.Gateway, DNS: u.DNS, MAC: u.MAC}
	spec.Hello.Net = &hello.Net{MAC: u.MAC.String(), Address: u.Guest.String(), Gateway: u.Gateway.String(),
		DNS: addresses(u.DNS), Search: u.Search}
	return nil
}

func addresses(list ...netip.Addr) []string {
	var s []string
	for _, a := range list {
		s = append(s, a.String())
	}
	return s
}

// spawnShim starts the shim in a session of its own, so that no signal meant
// for the daemon reaches it, and follows it. The shim inherits its listening
// socket: there is no moment at which it cannot be reached.
func (d *Daemon) spawnShim(ctx context.Context, v *vm) error {
	rec := v.record()
	path := filepath.Join(d.Layout.VMRun(rec.ID), state.ShimSocket)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return fmt.Errorf("listen for the shim: %w", err)
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	socket, err := l.File()
	if err != nil {
		return err
	}
	defer socket.Close()
	log, err := os.OpenFile(filepath.Join(d.Layout.VM(rec.ID), state.ShimLog), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command("/proc/self/exe", "shim", d.Layout.VM(rec.ID))
	cmd.Args[0] = "banger"
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, []*os.File{socket}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the shim: %w", err)
	}
	go func() { _ = cmd.Wait() }() // no task: it outlives the daemon
	c, err := shim.Dial(ctx, path)
	if err != nil {
		_ = cmd.Process.Kill()
		return err
	}
	v.follow(c)
	return nil
}

// tailLines is how many lines of the console an error shows.
const tailLines = 8

// consoleTail is the end of the console log, fit to be printed.
func consoleTail(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(max(0, size-4096), io.SeekStart)
	}
	b, _ := io.ReadAll(io.LimitReader(f, 4096))
	printable := func(r rune) rune {
		if r < ' ' && r != '\n' || r == 0x7f {
			return -1
		}
		return r
	}
	lines := strings.Split(strings.TrimSpace(strings.Map(printable, string(b))), "\n")
	return strings.Join(lines[max(0, len(lines)-tailLines):], "\n")
}
