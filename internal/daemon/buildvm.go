package daemon

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"

	"banger"
	"banger/internal/agent"
	"banger/internal/dockerfile"
	"banger/internal/hello"
	"banger/internal/oci"
)

// The machine that runs steps, where nobody says otherwise. Both are bounds, not
// costs; dpkg is happier with a page cache.
const (
	buildMemory = 2 << 30
	buildDisk   = 32 << 30
	buildCPUs   = 2
)

// buildVM is the machine that runs the steps of one stage.
type buildVM struct {
	b      *builder
	d      *Daemon
	v      *vm
	client *agent.Client
	layers int // in it
	root   *tar.Header

	unsynced bool // its caches may have what is not on their disk yet
}

// bootBuilder starts a machine, with the disk of the caches if steps want it. It is
// the daemon's, which removes it in the end, also after a crash.
func (d *Daemon) bootBuilder(ctx context.Context, spec banger.VMSpec, caches bool, p progress) (_ *buildVM, err error) {
	spec.Init, spec.Net = "banger", "nat"
	spec.CPUs = cmp.Or(spec.CPUs, min(buildCPUs, runtime.NumCPU()))
	spec.Memory, spec.Disk = cmp.Or(spec.Memory, d.memoryThatFits(buildMemory)), cmp.Or(spec.Disk, buildDisk)
	if spec, err = fillSpec(spec); err != nil {
		return nil, err
	}
	image, err := d.ensureImage(ctx, spec.Image, p)
	if err != nil {
		return nil, err
	}
	spec.Kernel = cmp.Or(spec.Kernel, image.Kernel, defaultKernel)
	if spec.Kernel, err = d.ensureKernel(ctx, spec.Kernel, p); err != nil {
		return nil, err
	}
	root, err := d.planRoot(spec, image)
	if err != nil {
		return nil, err
	}
	if root != banger.OverlayRoot {
		return nil, banger.Errorf(banger.Unsupported, "kernel %q cannot run the steps of a build: it has no overlayfs", spec.Kernel).
			WithHint("choose another one with --kernel-ref: banger kernel ls")
	}
	free, err := d.reserve(spec.Name)
	if err != nil {
		return nil, err
	}
	defer free()
	v, err := d.addVM(ctx, banger.VM{ID: newID(), Name: spec.Name, Spec: spec, Root: root, Owner: &d.self})
	if err != nil {
		return nil, err
	}
	b := &buildVM{d: d, v: v}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if caches {
		if v.caches, err = d.takeCaches(ctx, v.record().ID, cachesFull); err != nil {
			return nil, err
		}
	}
	d.at("build: vm added")
	rec, err := d.start(ctx, v, p)
	if banger.IsKind(err, banger.Exhausted) { // here --force means something else
		err = banger.AsError(err).WithHint("stop a VM, or give the steps less: --memory 512M")
	}
	if err != nil {
		return nil, err
	}
	if b.client, err = d.dialAgent(ctx, rec); err != nil {
		return nil, err
	}
	if b.root, err = d.rootOf(image); err != nil {
		return nil, err
	}
	d.at("build: vm runs")
	return b, nil
}

// rootOf is the root directory of an image.
func (d *Daemon) rootOf(image banger.Image) (*tar.Header, error) {
	path, err := d.rootfsOf(image)
	if err != nil {
		return nil, err
	}
	tree, err := openRootfs(path)
	if err != nil {
		return nil, err
	}
	defer tree.close()
	top, err := tree.Lookup("")
	if err != nil {
		return nil, err
	}
	return top.Header, nil
}

// close removes the machine.
func (m *buildVM) close() error {
	caches := ""
	if m.v.caches != "" {
		unlock, err := m.d.keys.Lock(m.d.life, cachesKey)
		if err == nil {
			defer unlock()
		}
	}
	if m.client != nil {
		caches = m.detachCaches()
		_ = m.client.Close()
	}
	return m.d.giveCaches(caches, m.d.remove(m.v))
}

// keep leaves the machine to the user, and says what they can do with it.
func (m *buildVM) keep() (hint string, err error) {
	ctx := m.d.life
	rec := m.v.record()
	if err := m.v.intend(func(r *banger.VM) { r.Owner = nil }); err != nil {
		return "", errors.Join(err, m.close())
	}
	hint = "the VM is kept: banger vm ssh " + rec.Name
	// Best effort: without it the machine is there all the same.
	exit, err := m.order(ctx, hello.BuildOrder{Op: hello.BuildShow, Layer: m.layers}, nil, io.Discard, io.Discard)
	if err == nil && exit.Code == 0 {
		hint += ", then: chroot " + hello.BuildRoot
	}
	_ = m.client.Close()
	return hint + "; when done: banger vm rm --force " + rec.Name, nil
}

// order has the guest carry one order out.
func (m *buildVM) order(ctx context.Context, o hello.BuildOrder, more io.Reader, stdout, stderr io.Writer) (agent.Exit, error) {
	line, err := json.Marshal(o)
	if err != nil {
		return agent.Exit{}, err
	}
	if len(line) >= hello.MaxBuildOrder {
		return agent.Exit{}, banger.Errorf(banger.Invalid, "the command is longer than %d bytes", hello.MaxBuildOrder)
	}
	in := io.Reader(bytes.NewReader(append(line, '\n')))
	if more != nil {
		in = io.MultiReader(in, more)
	}
	return m.client.Run(ctx, agent.Request{Argv: []string{hello.GuestProgram, hello.RoleBuild}, User: "root", Dir: "/",
		Stdin: in, Stdout: stdout, Stderr: stderr})
}

// run runs a command, and gives the layer of what it changed, nil if nothing.
// The tar of the layer goes to also, too.
func (m *buildVM) run(ctx context.Context, op *dockerfile.Run, also io.Writer) (*oci.Blob, error) {
	m.layers++
	o := hello.BuildOrder{Op: hello.BuildRun, Layer: m.layers, Argv: op.Argv, Env: append(op.Env[:len(op.Env):len(op.Env)], op.Proxies...),
		Dir: op.Dir, User: op.User, FilesDir: dockerfile.ScriptDir, NoNetwork: op.NoNetwork}
	for _, f := range op.Files {
		o.Files = append(o.Files, hello.BuildFile{Name: f.Name, Data: f.Data})
	}
	for _, mnt := range op.Mounts {
		o.Mounts = append(o.Mounts, hello.BuildMount{Target: mnt.Target, Cache: mnt.ID, Size: mnt.Size, Mode: mnt.Mode, UID: mnt.UID, GID: mnt.GID})
	}
	if hasCache(op) {
		o.Caches, m.unsynced = m.v.cachesDevice, true
	}
	out := &buildOutput{say: func(line string) { m.b.say("%s", line) }}
	stdout, stderr := out.stream(), out.stream()
	exit, err := m.order(ctx, o, nil, stdout, stderr)
	stdout.end()
	stderr.end()
	if err != nil {
		return nil, err
	}
	if exit.Code != 0 {
		tail := out.tail()
		if tail != "" {
			tail = "; its last lines:\n" + tail
		}
		return nil, banger.Errorf(banger.Invalid, "exit code %d%s", exit.Code, tail)
	}
	blob, err := m.takeLayer(ctx, also)
	m.unsynced = m.unsynced && err != nil
	return blob, err
}

// takeLayer reads the newest layer off the machine's disk, which holds still for that.
func (m *buildVM) takeLayer(ctx context.Context, also io.Writer) (blob *oci.Blob, err error) {
	m.b.p(banger.Progress{Step: "read what the step has changed"})
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	until, done := io.Pipe() // its end thaws the disk
	frozen := make(chan error, 2)
	var said bytes.Buffer
	heard := &lineWaiter{want: hello.BuildFrozen, seen: func() { frozen <- nil }}
	var thawed sync.WaitGroup
	thawed.Go(func() {
		exit, err := m.order(ctx, hello.BuildOrder{Op: hello.BuildFreeze}, until, heard, &bounded{w: &said, left: hello.MaxMessage})
		if err == nil && exit.Code != 0 {
			err = banger.Errorf(banger.Unavailable, "hold the disk of the build: %s", printable(said.Bytes()))
		}
		if err != nil {
			cancel(err)
		}
		frozen <- err
	})
	defer func() {
		_ = done.Close()
		thawed.Wait()
		if cause := context.Cause(ctx); err == nil && cause != nil {
			err = cause
		}
	}()
	select {
	case err = <-frozen:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, err
	}
	disk, err := openRootfs(m.d.diskOf(m.v.record().ID))
	if err != nil {
		return nil, fmt.Errorf("read the disk of the build: %w", err)
	}
	defer disk.close()
	lower := m.root
	if m.layers > 1 {
		top, err := disk.Lookup(hello.BuildUpper(m.layers - 1))
		if err != nil {
			return nil, err
		}
		lower = top.Header
	}
	count := 0
	made, err := oci.WriteBlob(ctx, m.d.Layout.Blobs(), func(w io.Writer) (err error) {
		count, err = disk.WriteDiff(ctx, io.MultiWriter(w, also), hello.BuildUpper(m.layers), lower)
		return err
	})
	if err != nil || count == 0 {
		return nil, err
	}
	return &made, nil
}

// apply gives the machine a layer that was not made in it.
func (m *buildVM) apply(ctx context.Context, blob oci.Blob) error {
	r, err := blob.Layer(m.d.Layout.Blobs()).Open(ctx)
	if err != nil {
		return err
	}
	m.layers++
	var said bytes.Buffer
	src := &faultyReader{r: r}
	exit, err := m.order(ctx, hello.BuildOrder{Op: hello.BuildApply, Layer: m.layers}, src, io.Discard, &bounded{w: &said, left: hello.MaxMessage})
	if err == nil && exit.Code != 0 {
		err = banger.Errorf(banger.Unavailable, "put files into the build's machine: %s", printable(said.Bytes()))
	}
	return errors.Join(src.err, err, r.Close())
}

// faultyReader remembers what went wrong.
type faultyReader struct {
	r   io.Reader
	err error
}

func (f *faultyReader) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err != nil && err != io.EOF {
		f.err = err
	}
	return n, err
}

// lineWaiter calls seen when a line comes by.
type lineWaiter struct {
	want string
	got  []byte
	seen func()
}

func (l *lineWaiter) Write(p []byte) (int, error) {
	if l.seen != nil && len(l.got) <= len(l.want) {
		l.got = append(l.got, p[:min(len(p), len(l.want)+1)]...)
		if strings.HasPrefix(string(l.got), l.want+"\n") {
			l.seen()
			l.seen = nil
		}
	}
	return len(p), nil
}

// What is kept and shown of the output of a step.
const (
	maxOutputLine = 4 << 10
	outputTail    = 12 // lines
)

// buildOutput cuts the output of a step into lines.
type buildOutput struct {
	say func(line string)

	mu   sync.Mutex
	last []string
}

// stream is one of the streams that make up the output.
func (o *buildOutput) stream() *outputStream { return &outputStream{o: o} }

type outputStream struct {
	o    *buildOutput
	line []byte
	cr   bool // the line before ended with a carriage return
}

func (s *outputStream) Write(p []byte) (int, error) {
	for r := bufio.NewReader(bytes.NewReader(p)); ; {
		c, err := r.ReadByte()
		if err != nil {
			return len(p), nil
		}
		switch {
		case c == '\n' && s.cr && len(s.line) == 0: // of \r\n
		case c == '\n' || c == '\r' || len(s.line) >= maxOutputLine:
			s.flush()
			if c != '\n' && c != '\r' {
				s.line = append(s.line, c)
			}
		default:
			s.line = append(s.line, c)
		}
		s.cr = c == '\r'
	}
}

func (s *outputStream) flush() {
	line := visibleText(s.line)
	s.line = s.line[:0]
	s.o.mu.Lock()
	defer s.o.mu.Unlock()
	s.o.last = append(s.o.last, line)
	if n := len(s.o.last); n > outputTail {
		s.o.last = s.o.last[n-outputTail:]
	}
	s.o.say(line)
}

// end tells what came without a line end.
func (s *outputStream) end() {
	if len(s.line) > 0 {
		s.flush()
	}
}

func (o *buildOutput) tail() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.TrimSpace(strings.Join(o.last, "\n"))
}
