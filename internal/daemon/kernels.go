package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"banger"
	"banger/internal/kernelcat"
	"banger/internal/state"
)

// defaultKernel is used where neither the VM nor its image names one.
const defaultKernel = "debian-6.1"

func (d *Daemon) kernelList(context.Context, none) ([]banger.Kernel, error) { return d.kernels.List() }

func (d *Daemon) kernelShow(_ context.Context, r banger.NameRequest) (banger.Kernel, error) {
	return d.kernels.Get(r.Name)
}

func (d *Daemon) kernelCatalog(context.Context, none) ([]banger.KernelOffer, error) {
	cat, err := kernelcat.Builtin()
	if err != nil {
		return nil, err
	}
	offers := []banger.KernelOffer{}
	for _, e := range cat.Entries {
		offers = append(offers, banger.KernelOffer{Name: e.Name, Distro: e.Distro, Arch: e.Arch,
			Description: e.Description, State: offerState(d.kernels.Has(e.Name))})
	}
	return offers, nil
}

func offerState(pulled bool) string {
	if pulled {
		return "pulled"
	}
	return "available"
}

// kernelPull gets a kernel of the catalog: staged as a whole, then named.
func (d *Daemon) kernelPull(ctx context.Context, r banger.KernelPullRequest, p progress) (k banger.Kernel, err error) {
	if err := state.ValidateName("kernel", r.Name); err != nil {
		return k, err
	}
	unlock, err := d.keys.Lock(ctx, "kernel/"+r.Name)
	if err != nil {
		return k, err
	}
	defer unlock()
	if d.kernels.Has(r.Name) && !r.Force {
		return k, banger.Errorf(banger.Exists, "a kernel named %q is already there", r.Name).
			WithHint("banger kernel show %s, or get it anew: banger kernel pull --force %s", r.Name, r.Name)
	}
	cat, err := kernelcat.Builtin()
	if err != nil {
		return k, err
	}
	entry, err := cat.Lookup(r.Name)
	if errors.Is(err, fs.ErrNotExist) {
		names := []string{}
		for _, e := range cat.Entries {
			names = append(names, e.Name)
		}
		missing := banger.Errorf(banger.NotFound, "no kernel named %q in the catalog", r.Name)
		if near := state.Nearest(r.Name, names); near != "" {
			return k, missing.WithHint("did you mean %s?", near)
		}
		return k, missing.WithHint("banger kernel ls --available")
	}
	if err != nil {
		return k, err
	}
	stage, err := d.kernels.Stage()
	if err != nil {
		return k, err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(stage)
		}
	}()
	k, err = entry.Pull(ctx, stage, kernelcat.PullOptions{TempDir: d.Layout.Scratch(), Progress: p})
	if err != nil {
		return k, state.Classify(fmt.Errorf("pull kernel %q: %w", r.Name, err))
	}
	k.Name, k.ImportedAt = r.Name, time.Now().UTC().Truncate(time.Second)
	if err = d.kernels.Commit(stage, r.Name, k, r.Force); err != nil {
		return k, err
	}
	d.Log.Info("kernel pulled", "kernel", k.Name, "source", k.Source)
	return k, nil
}

func (d *Daemon) kernelDelete(ctx context.Context, r banger.NameRequest) (none, error) {
	unlock, err := d.keys.Lock(ctx, "kernel/"+r.Name)
	if err != nil {
		return none{}, err
	}
	defer unlock()
	d.refs.Lock()
	defer d.refs.Unlock()
	if d.kernels.Has(r.Name) && !r.Force {
		if users := d.kernelUsers(r.Name); len(users) > 0 {
			return none{}, banger.Errorf(banger.Conflict, "kernel %q is used by %s", r.Name, join(users)).
				WithHint("banger kernel rm --force %s", r.Name)
		}
	}
	return none{}, d.kernels.Delete(r.Name)
}

func (d *Daemon) kernelUsers(name string) []string {
	var users []string
	images, _ := d.images.List()
	for _, im := range images {
		if im.Kernel == name {
			users = append(users, "image "+im.Name)
		}
	}
	return append(users, d.vmUsers(func(s banger.VMSpec) bool { return s.Kernel == name })...)
}

// ensureKernel gets the kernel from the catalog if it is not there yet.
func (d *Daemon) ensureKernel(ctx context.Context, name string, p progress) error {
	if d.kernels.Has(name) {
		return nil
	}
	_, err := d.kernelPull(ctx, banger.KernelPullRequest{Name: name}, p)
	if banger.IsKind(err, banger.Exists) {
		return nil // somebody else's pull was faster
	}
	return err
}
