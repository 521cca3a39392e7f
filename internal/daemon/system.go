package daemon

import (
	"context"
	"runtime"
	"strings"

	"banger"
)

func (d *Daemon) systemVersion(context.Context, none) (banger.VersionInfo, error) {
	return d.Version, nil
}

func (d *Daemon) systemInfo(ctx context.Context, _ none) (banger.SystemInfo, error) {
	info := banger.SystemInfo{VersionInfo: d.Version, Root: d.Layout.Root, Cache: d.Layout.Cache, Run: d.Layout.Run,
		Config: d.Layout.Config, ConfigError: banger.AsError(d.checkConfig())}
	kernels, err := d.kernels.Names()
	if err != nil {
		return info, err
	}
	images, err := d.images.Names()
	if err != nil {
		return info, err
	}
	info.Kernels, info.Images = len(kernels), len(images)
	for _, v := range d.allVMs() {
		info.VMs++
		if v.State == banger.Running {
			info.Running++
		}
	}
	info.Drivers = []banger.Driver{d.driver(ctx)}
	return info, nil
}

func (d *Daemon) driver(ctx context.Context) banger.Driver {
	probe, err := d.Driver.Probe(ctx)
	drv := banger.Driver{Name: probe.Name, Path: probe.Path, Version: probe.Version, Accel: probe.Accel, AccelReason: probe.AccelReason}
	if err != nil {
		drv.Problem = err.Error()
		if e := banger.AsError(err); e.Hint != "" {
			drv.Problem += "; run: " + e.Hint
		}
	}
	return drv
}

// systemShutdown ends the daemon; what it is busy with would be lost, so then
// only by force.
func (d *Daemon) systemShutdown(_ context.Context, r banger.NameRequest) (none, error) {
	if d.busy.Load() > 0 && !r.Force {
		return none{}, banger.Errorf(banger.Conflict, "the daemon is busy with a pull or a start").
			WithHint("banger daemon stop --force")
	}
	d.Log.Info("asked to shut down")
	d.stop(errDown)
	return none{}, nil
}

// hostArch is the host's machine as uname -m has it.
func hostArch() string {
	if runtime.GOARCH == "arm64" {
		return "aarch64"
	}
	return "x86_64"
}

// join is a list for a sentence.
func join(words []string) string {
	if len(words) > 5 {
		words = append(words[:5:5], "others")
	}
	return strings.Join(words, ", ")
}
