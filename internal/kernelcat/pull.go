package kernelcat

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"banger"
)

// The names of what Pull puts into a bundle.
const (
	vmlinuxFile = "vmlinux"
	modulesDir  = "modules"
)

// PullOptions are the choices of a pull; the zero value is good.
type PullOptions struct {
	TempDir  string                // existing folder for about 200 MB of working files; empty: os.TempDir
	Progress func(banger.Progress) // called from one goroutine at a time; may be nil
}

// puller is one pull of one entry.
type puller struct {
	entry    Entry
	keyrings []string // of the archive, the first that exists is used
	progress func(banger.Progress)
}

// Pull gets the kernel from the first of its sources that has it and fills
// dir, an existing and empty folder, with vmlinux and modules/ (what is in
// /lib/modules/VERSION). Everything is on disk when it returns, but for the
// entry of dir in its parent. The record is returned, not written. After an
// error dir is empty again and nothing else is left, no process either.
//
// Errors: Unavailable (archive or apt not there), NotFound (no such package),
// Exhausted (no space), Unsupported or Invalid (a package banger cannot use),
// Canceled.
func (e Entry) Pull(ctx context.Context, dir string, o PullOptions) (banger.Kernel, error) {
	p := &puller{entry: e, keyrings: debianKeyrings, progress: o.Progress}
	return p.pull(ctx, dir, o.TempDir)
}

func (p *puller) pull(ctx context.Context, dir, temp string) (banger.Kernel, error) {
	k, err := p.trySources(ctx, dir, temp)
	if err == nil {
		return k, nil
	}
	if ctx.Err() != nil && !banger.IsKind(err, banger.Canceled) {
		err = fail(banger.Canceled, err, "%v", err)
	}
	err = fmt.Errorf("pull kernel %s: %w", p.entry.Name, orExhausted(err))
	if e := banger.AsError(err); e.Kind == banger.Exhausted && e.Hint == "" {
		return banger.Kernel{}, e.WithHint("free some space where %s is", dir)
	}
	return banger.Kernel{}, err
}

func (p *puller) trySources(ctx context.Context, dir, temp string) (banger.Kernel, error) {
	if files, err := os.ReadDir(dir); err != nil {
		return banger.Kernel{}, err
	} else if len(files) > 0 {
		return banger.Kernel{}, banger.Errorf(banger.Invalid, "%s is not empty", dir)
	}
	var errs []error
	for _, s := range p.entry.Sources {
		k, err := p.trySource(ctx, dir, temp, s)
		if err == nil {
			return k, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	if len(errs) == 0 {
		return banger.Kernel{}, banger.Errorf(banger.Unsupported, "the catalog names no source that this build knows")
	}
	if len(errs) == 1 {
		return banger.Kernel{}, errs[0]
	}
	return banger.Kernel{}, errors.Join(errs...)
}

// trySource pulls from one source and empties dir again if that fails.
func (p *puller) trySource(ctx context.Context, dir, temp string, s Source) (k banger.Kernel, err error) {
	if s.Deb == nil {
		return k, banger.Errorf(banger.Unsupported, "a source in the catalog is of a sort that this build does not know")
	}
	tmp, err := os.MkdirTemp(temp, "banger-kernel-*")
	if err != nil {
		return k, err
	}
	defer os.RemoveAll(tmp)
	// Run by root, apt fetches as a user of its own, who has to get there.
	if err := os.Chmod(tmp, 0o711); err != nil {
		return k, err
	}
	if tmp, err = filepath.Abs(tmp); err != nil {
		return k, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return k, err
	}
	defer root.Close()
	defer func() {
		if err != nil {
			err = errors.Join(err, root.RemoveAll(vmlinuxFile), root.RemoveAll(modulesDir))
		}
	}()
	b, err := newBundle(root, tmp)
	if err != nil {
		return k, err
	}
	defer b.close()
	source, err := p.fillFromDeb(ctx, *s.Deb, tmp, b)
	if err != nil {
		return k, err
	}
	return p.finish(b, dir, source)
}

// finish makes vmlinux from the package's kernel and describes the bundle.
func (p *puller) finish(b *bundle, dir, source string) (banger.Kernel, error) {
	p.report("extract vmlinux", 0, 0)
	if b.vmlinuzSize == 0 {
		return banger.Kernel{}, banger.Errorf(banger.Invalid, "%s holds no kernel", source)
	}
	info, err := b.extract()
	if err != nil {
		return banger.Kernel{}, err
	}
	if info.Arch != p.entry.Arch {
		return banger.Kernel{}, banger.Errorf(banger.Invalid, "%s holds a kernel for %s, not %s", source, info.Arch, p.entry.Arch)
	}
	found, err := Features(filepath.Join(dir, modulesDir), bytes.NewReader(b.config), info.PVH)
	if err != nil {
		return banger.Kernel{}, err
	}
	p.report("write to disk", 0, 0)
	if err := b.sync(); err != nil {
		return banger.Kernel{}, err
	}
	return banger.Kernel{
		Name:          p.entry.Name,
		Distro:        p.entry.Distro,
		Arch:          info.Arch,
		KernelVersion: b.version,
		SHA256:        info.SHA256,
		Source:        source,
		ImportedAt:    time.Now().UTC(),
		Size:          info.Size + b.modulesSize,
		Features:      found,
	}, nil
}

// report tells of a step; done and total are bytes.
func (p *puller) report(step string, done, total int64) {
	if p.progress != nil {
		p.progress(banger.Progress{Step: step, Done: done, Total: total})
	}
}

// lines is a writer that calls itself with each full line written to it.
type lines struct {
	each func(string)
	rest string
}

func (l *lines) Write(b []byte) (int, error) {
	l.rest += string(b)
	for {
		line, rest, ok := strings.Cut(l.rest, "\n")
		if !ok {
			break
		}
		l.rest = rest
		l.each(line)
	}
	if len(l.rest) > maxLine {
		l.rest = "" // no line of a program we run is that long
	}
	return len(b), nil
}

// maxLine bounds an unfinished line of a program's output.
const maxLine = 64 << 10
