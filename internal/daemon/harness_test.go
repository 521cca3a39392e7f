package daemon

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"banger"
	"banger/internal/agent"
	"banger/internal/state"
)

// patience is how long a test waits for what must come.
const patience = 15 * time.Second

// host is a host with a kernel and an image, and at most one daemon at a time.
type host struct {
	t      *testing.T
	base   string // in the command line of every process that belongs to this host
	layout state.Layout
	log    *safeBuffer

	d      *Daemon // in this process
	served chan error
	child  *exec.Cmd // or in another
	client *banger.Client
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// newHost makes a host without a daemon. At the end of the test nothing that
// belongs to it is there any more, whatever the test did.
func newHost(t *testing.T) *host {
	t.Helper()
	// Sockets have short paths, and most of the time would go into fsync.
	base, err := os.MkdirTemp("/dev/shm", "bd-")
	if err != nil {
		base, err = os.MkdirTemp("/tmp", "bd-")
	}
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, base: base, log: &safeBuffer{}}
	h.layout = testDaemon(base, io.Discard).Layout
	if err := h.layout.Make(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.close()
		h.crash()
		for _, pid := range h.processes() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if err := os.RemoveAll(base); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the daemon's log:\n%s", h.log)
		}
	})
	// An agent that is not root can run programs as itself alone.
	h.must(os.Mkdir(base+"/etc", 0o700))
	passwd := fmt.Sprintf("root:x:%d:%d::/:/bin/sh\n", os.Getuid(), os.Getgid())
	h.must(os.WriteFile(base+"/etc/passwd", []byte(passwd), 0o600))
	h.addKernel("kernel")
	h.addImage("image")
	return h
}

func (h *host) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) addKernel(name string) {
	h.t.Helper()
	modules := filepath.Join(h.layout.Kernels(), name, state.ModulesDir)
	h.must(os.MkdirAll(modules, 0o700))
	builtin := ""
	for _, m := range []string{"virtio_mmio", "virtio_blk", "ext4", "overlay", "virtio_console", "virtio_net", "virtio_rng"} {
		builtin += "kernel/" + m + ".ko\n"
	}
	h.must(os.WriteFile(filepath.Join(modules, "modules.builtin"), []byte(builtin), 0o600))
	h.must(os.WriteFile(filepath.Join(h.layout.Kernels(), name, state.VmlinuxFile), []byte("kernel"), 0o600))
	h.must(state.WriteRecord(filepath.Join(h.layout.Kernels(), name, state.ManifestFile),
		banger.Kernel{Name: name, Arch: hostArch(), SHA256: strings.Repeat("5a", 32)}))
}

func (h *host) addImage(name string) {
	h.t.Helper()
	h.must(os.MkdirAll(filepath.Join(h.layout.Images(), name), 0o700))
	h.must(os.WriteFile(filepath.Join(h.layout.Images(), name, state.RootfsFile), []byte("image"), 0o600))
	h.must(state.WriteRecord(filepath.Join(h.layout.Images(), name, state.ManifestFile), banger.Image{Name: name, Arch: hostArch()}))
}

// script says what the machine of the VM does.
func (h *host) script(name string, s script) {
	h.t.Helper()
	b, err := json.Marshal(s)
	h.must(err)
	h.must(os.WriteFile(filepath.Join(h.layout.Root, "script-"+name), b, 0o600))
}

// open starts a daemon in this process; with changes it is not as it is made.
func (h *host) open(changes ...func(*Daemon)) {
	h.t.Helper()
	d := testDaemon(h.base, h.log)
	for _, f := range changes {
		f(d)
	}
	h.must(d.Open(context.Background()))
	l, err := d.Listen()
	h.must(err)
	h.d, h.served = d, make(chan error, 1)
	go func() { h.served <- d.Serve(l) }()
	h.client = &banger.Client{Socket: h.layout.Socket()}
}

// close ends the daemon of this process as a signal does.
func (h *host) close() {
	h.t.Helper()
	if h.d == nil {
		return
	}
	h.client.Close()
	h.d.stop(errDown)
	if err := <-h.served; err != nil {
		h.t.Error(err)
	}
	if err := h.d.Close(); err != nil {
		h.t.Error(err)
	}
	h.d = nil
}

// spawn starts a daemon in a process of its own that kills itself at the step.
// It returns what kept the daemon from serving. args are those of daemonMain.
func (h *host) spawn(step string, args ...string) *banger.Error {
	h.t.Helper()
	cmd := exec.Command("/proc/self/exe", append([]string{"daemon", h.base, step}, args...)...)
	cmd.Stderr = h.log
	if len(args) > 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	}
	out, err := cmd.StdoutPipe()
	h.must(err)
	h.must(cmd.Start())
	h.child = cmd
	h.client = &banger.Client{Socket: h.layout.Socket()}
	var e banger.Event
	if err := json.NewDecoder(bufio.NewReader(out)).Decode(&e); err != nil {
		h.t.Fatalf("the daemon says nothing: %v\n%s", err, h.log)
	}
	return e.Error
}

// crash kills the daemon of its own process, if it has not done so itself.
func (h *host) crash() {
	if h.child != nil {
		h.client.Close()
		_ = h.child.Process.Kill()
		_ = h.child.Wait()
		h.child = nil
	}
}

// died waits for a daemon that kills itself.
func (h *host) died() {
	h.t.Helper()
	h.client.Close()
	err := h.child.Wait()
	h.child = nil
	if err == nil || err.Error() != "signal: killed" {
		h.t.Fatalf("the daemon was to be killed: %v", err)
	}
}

func (h *host) create(name string, noStart bool) (banger.VM, error) {
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	return h.client.VMCreate(ctx, banger.VMCreateRequest{Spec: testSpec(name), NoStart: noStart}, nil)
}

func (h *host) mustCreate(name string, noStart bool) banger.VM {
	h.t.Helper()
	rec, err := h.create(name, noStart)
	h.must(err)
	return rec
}

func (h *host) start(name string) (banger.VM, error) {
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	return h.client.VMStart(ctx, banger.NameRequest{Name: name}, nil)
}

func (h *host) stop(r banger.VMStopRequest) (banger.VM, error) {
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	return h.client.VMStop(ctx, r)
}

func (h *host) remove(name string) {
	h.t.Helper()
	h.must(h.client.VMDelete(h.t.Context(), banger.NameRequest{Name: name, Force: true}))
}

func (h *host) show(name string) banger.VM {
	h.t.Helper()
	rec, err := h.client.VMShow(h.t.Context(), name)
	h.must(err)
	return rec
}

// becomes waits until the VM is in the state.
func (h *host) becomes(name string, s banger.VMState) banger.VM {
	h.t.Helper()
	var rec banger.VM
	h.eventually(func() error {
		if rec = h.show(name); rec.State != s {
			return fmt.Errorf("vm %s is %s (%s), not %s", name, rec.State, rec.Reason, s)
		}
		return nil
	})
	return rec
}

// disk is the VM's record on disk.
func (h *host) disk(id string) (rec banger.VM) {
	h.t.Helper()
	h.must(state.ReadRecord(filepath.Join(h.layout.VM(id), state.VMFile), &rec))
	return rec
}

// eventually asks until the answer is nil: what other processes do raises no
// event here.
func (h *host) eventually(f func() error) {
	h.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			h.t.Fatal(err)
		}
	}
}

// processes are the pids of this host's shims and VMMs whose command lines have the words.
func (h *host) processes(words ...string) (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		line, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		ours := strings.Contains(string(line), h.base+"/") && (h.child == nil || pid != h.child.Process.Pid) &&
			!strings.HasPrefix(string(line), "owner")
		for _, w := range words {
			ours = ours && strings.Contains(string(line), w)
		}
		if ours {
			pids = append(pids, pid)
		}
	}
	return pids
}

// clean wants nothing to be left of any VM.
func (h *host) clean() {
	h.t.Helper()
	h.eventually(func() error {
		if pids := h.processes(); len(pids) > 0 {
			return fmt.Errorf("processes %v are left", pids)
		}
		for dir, may := range map[string]string{
			h.layout.VMs(): "", h.layout.Run: "daemon.sock", h.layout.Scratch(): "",
			h.layout.Kernels(): "kernel", h.layout.Images(): "image",
		} {
			entries, err := os.ReadDir(dir)
			if err != nil {
				return err
			}
			for _, e := range entries {
				if !strings.Contains(may, e.Name()) {
					return fmt.Errorf("%s is left in %s", e.Name(), dir)
				}
			}
		}
		return nil
	})
}

// guestEnds has the guest power off or reboot by itself.
func (h *host) guestEnds(rec banger.VM, how string) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	c, err := h.dial(ctx, rec)
	h.must(err)
	defer c.Close()
	h.must(c.Shutdown(ctx, how))
}

func (h *host) dial(ctx context.Context, rec banger.VM) (*agent.Client, error) {
	h.t.Helper()
	signer, err := agent.LoadOrCreateUserKey(h.layout.UserKey())
	h.must(err)
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(rec.HostKey))
	h.must(err)
	return agent.Dial(ctx, rec.Agent, agent.Options{User: "root", Signer: signer, HostKey: key})
}

// exec runs a program in the guest, as banger exec does.
func (h *host) exec(rec banger.VM, argv ...string) (string, error) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	c, err := h.dial(ctx, rec)
	if err != nil {
		return "", err
	}
	defer c.Close()
	var out bytes.Buffer
	exit, err := c.Run(ctx, agent.Request{Argv: argv, Dir: "/", Stdout: &out})
	if err == nil && exit.Code != 0 {
		err = fmt.Errorf("exit code %d", exit.Code)
	}
	return out.String(), err
}

// wantKind wants an error of the kind whose text has all the words.
func wantKind(t *testing.T, err error, kind banger.Kind, words ...string) {
	t.Helper()
	if !banger.IsKind(err, kind) {
		t.Errorf("got %v (%s), want %s", err, kindOf(err), kind)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error()+"\n"+banger.AsError(err).Hint, w) {
			t.Errorf("got %q, hint %q, want %q in it", err, banger.AsError(err).Hint, w)
		}
	}
}

func kindOf(err error) banger.Kind {
	if err == nil {
		return "none"
	}
	return banger.AsError(err).Kind
}

// wake lets processes go on that have stopped themselves, once they have.
func (h *host) wake(word string) {
	h.t.Helper()
	for _, pid := range h.processes(word) {
		h.eventually(func() error {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			if err == nil && !bytes.Contains(stat, []byte(") T ")) {
				err = fmt.Errorf("process %d does not stop: %s", pid, stat)
			}
			return err
		})
		h.must(syscall.Kill(pid, syscall.SIGCONT))
	}
}
