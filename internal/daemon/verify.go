package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"banger"
	"banger/internal/agent"
	"banger/internal/hello"
)

// verifyImage is the root of the machine that a kernel is verified in.
const verifyImage = "scratch"

// kernelVerify compares a kernel's file with its record, boots it in a machine
// that goes again, and has the guest try what the kernel can do.
func (d *Daemon) kernelVerify(ctx context.Context, r banger.KernelVerifyRequest, p progress) (report banger.KernelReport, err error) {
	k, err := d.kernels.Get(r.Name)
	if err != nil {
		return report, err
	}
	p(banger.Progress{Step: "read kernel " + r.Name + " again"})
	if err := d.kernels.Verify(k); err != nil {
		return report, err
	}
	report.Kernel = k
	if r.NoBoot {
		return report, nil
	}
	vm, err := d.vmCreate(ctx, banger.VMCreateRequest{Ephemeral: true, Spec: banger.VMSpec{
		Name: "verify-" + newID()[:6], Image: verifyImage, Kernel: r.Name, Init: "banger"}}, p)
	if err != nil {
		return report, fmt.Errorf("boot kernel %q: %w", r.Name, err)
	}
	v, err := d.find(vm.ID)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, d.remove(v)) }()
	p(banger.Progress{Step: "try what kernel " + r.Name + " can do"})
	found, err := d.probe(ctx, vm)
	if err != nil {
		return report, fmt.Errorf("verify kernel %q: %w", r.Name, err)
	}
	report.Machine, report.Release = v.record().Machine, found.Release
	for _, f := range found.Features {
		report.Features = append(report.Features, banger.KernelFeature{Name: f.Name, For: f.For, Has: f.Has, Why: f.Why})
	}
	if k.KernelVersion != "" && found.Release != k.KernelVersion {
		return report, banger.Errorf(banger.Conflict, "kernel %q says it is %s, its manifest says %s", r.Name, printable([]byte(found.Release)), k.KernelVersion).
			WithHint("banger kernel rm --force %s, then get it again", r.Name)
	}
	return report, nil
}

// probe has the guest program tell what the kernel can do.
func (d *Daemon) probe(ctx context.Context, vm banger.VM) (report hello.Report, err error) {
	c, err := d.dialAgent(ctx, vm)
	if err != nil {
		return report, err
	}
	defer c.Close()
	var out, said bytes.Buffer
	exit, err := c.Run(ctx, agent.Request{Argv: []string{hello.GuestProgram, hello.RoleProbe},
		Stdout: &bounded{w: &out, left: hello.MaxReport}, Stderr: &bounded{w: &said, left: hello.MaxMessage}})
	if err != nil {
		return report, err
	}
	if exit.Code != 0 {
		return report, banger.Errorf(banger.Unavailable, "the guest's probe ended with %d: %s", exit.Code, printable(said.Bytes()))
	}
	if err := json.Unmarshal(out.Bytes(), &report); err != nil {
		return report, banger.Errorf(banger.Unavailable, "read the guest's report: %w", err)
	}
	return report, nil
}

// dialAgent connects to the agent of a VM that runs.
func (d *Daemon) dialAgent(ctx context.Context, vm banger.VM) (*agent.Client, error) {
	return agent.DialRoot(ctx, vm.Agent, d.Layout.UserKey(), vm.HostKey)
}

// bounded passes on what a guest may say, and drops the rest: the guest is not
// trusted, and what it sends must not fill the memory.
type bounded struct {
	w    io.Writer
	left int
}

func (b *bounded) Write(p []byte) (int, error) {
	n := min(len(p), b.left)
	b.left -= n
	if _, err := b.w.Write(p[:n]); err != nil {
		return 0, err
	}
	return len(p), nil
}
