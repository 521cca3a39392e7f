package daemon

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"banger"
	"banger/internal/dockerfile"
	"banger/internal/imagecat"
	"banger/internal/oci"
	"banger/internal/rootfs"
	"banger/internal/state"
)

// builder is one build on its way.
type builder struct {
	d       *Daemon
	r       banger.ImageBuildRequest
	p       progress
	file    string // name of the Dockerfile, for errors
	scratch string // a folder that goes when the build has ended
	now     time.Time

	context *os.Root // nil: there is none
	ignore  dockerfile.Ignore
	plan    *dockerfile.Plan
	bases   map[string]*buildBase
	stages  map[*dockerfile.Stage]*buildStage
	origin  banger.ImageOrigin
}

// imageBuild makes an image by the steps of a Dockerfile. Steps that were run
// before, on the same, are not run again.
func (d *Daemon) imageBuild(ctx context.Context, r banger.ImageBuildRequest, p progress) (im banger.Image, err error) {
	if r.Name, err = imageName(r.Name); err != nil {
		return im, err
	}
	if err := state.ValidateName("image", r.Name); err != nil {
		return im, err
	}
	if err := checkFS(r.FS); err != nil {
		return im, err
	}
	if err := d.checkKernel(r.Kernel); err != nil {
		return im, err
	}
	unlock, err := d.lockBuild(ctx, r.Name, p)
	if err != nil {
		return im, err
	}
	defer unlock()
	d.builds.Add(1)
	defer d.builds.Add(-1)
	b := &builder{d: d, r: r, p: p, now: time.Now().UTC().Truncate(time.Second),
		bases: map[string]*buildBase{}, stages: map[*dockerfile.Stage]*buildStage{}}
	if b.scratch, err = os.MkdirTemp(d.Layout.Scratch(), "build-"); err != nil {
		return im, state.Classify(err)
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if im, err = b.build(ctx); err != nil {
		return im, state.Classify(fmt.Errorf("build image %q: %w", r.Name, err))
	}
	return im, nil
}

// lockBuild keeps builds of one name apart, and tells who has to wait.
func (d *Daemon) lockBuild(ctx context.Context, name string, p progress) (unlock func(), err error) {
	key := "build/" + name
	if unlock := d.keys.TryLock(key); unlock != nil {
		return unlock, nil
	}
	p(banger.Progress{Notice: true, Step: "another build of " + name + " is under way; waiting for it"})
	return d.keys.Lock(ctx, key)
}

func (b *builder) close() error {
	var errs []error
	for _, s := range b.stages {
		errs = append(errs, s.close())
	}
	for _, base := range b.bases {
		errs = append(errs, base.close())
	}
	if b.context != nil {
		errs = append(errs, b.context.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(b.scratch))...)
}

// build is one build, top to bottom.
func (b *builder) build(ctx context.Context) (banger.Image, error) {
	// 1. What is to be done, as far as the text tells. What cannot be done is
	// refused here.
	if err := b.makePlan(ctx); err != nil {
		return banger.Image{}, err
	}
	// 2. What each step is made of, and by that its key.
	for _, s := range b.plan.Stages {
		if err := b.addStage(ctx, s); err != nil {
			return banger.Image{}, err
		}
	}
	target := b.stages[b.plan.Stages[len(b.plan.Stages)-1]]
	if err := b.sign(target); err != nil {
		return banger.Image{}, err
	}
	// 3. Is it there already?
	if im, done, err := b.again(ctx); done || err != nil {
		return im, err
	}
	// 4. The layers of the target, and of what it needs.
	if err := target.materialize(ctx); err != nil {
		return banger.Image{}, err
	}
	// 5. The image.
	return b.finish(ctx, target)
}

// makePlan reads the Dockerfile, or makes one up.
func (b *builder) makePlan(ctx context.Context) (err error) {
	if b.r.Platform != "" {
		if err := dockerfile.CheckPlatform(b.r.Platform, runtime.GOARCH); err != nil {
			return err
		}
	}
	if b.r.FromImage != "" {
		b.file = "build"
		return b.planFromImage(ctx)
	}
	text, err := b.readDockerfile()
	if err != nil {
		return err
	}
	f, err := dockerfile.Parse(b.file, text)
	if err != nil {
		return err
	}
	b.plan, err = f.Plan(dockerfile.Options{Args: b.r.Args, Target: b.r.Target, Arch: runtime.GOARCH,
		Base: func(ref string) (dockerfile.Config, error) {
			base, err := b.base(ctx, ref)
			if err != nil {
				return dockerfile.Config{}, err
			}
			return base.config, nil
		}})
	if err != nil {
		return err
	}
	for _, w := range b.plan.Warnings {
		b.p(banger.Progress{Notice: true, Step: w})
	}
	return nil
}

// maxDockerfile bounds what is read of a Dockerfile or a .dockerignore, in bytes.
const maxDockerfile = 1 << 20

// readDockerfile opens the context, and reads the Dockerfile and what it ignores.
func (b *builder) readDockerfile() (text []byte, err error) {
	for _, path := range []string{b.r.Context, b.r.File} {
		if path != "" && !filepath.IsAbs(path) {
			return nil, banger.Errorf(banger.Invalid, "%q is not an absolute path", path)
		}
	}
	if b.r.Context != "" {
		b.context, err = os.OpenRoot(b.r.Context)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, banger.Errorf(banger.NotFound, "there is no folder %q", b.r.Context)
		}
		if err != nil {
			return nil, banger.Errorf(banger.Invalid, "open the build context: %w", err)
		}
	}
	path := b.r.File
	if path == "" && b.r.Text == "" {
		if b.context == nil {
			return nil, banger.Errorf(banger.Invalid, "neither a Dockerfile nor a build context given")
		}
		path = filepath.Join(b.r.Context, "Dockerfile")
	}
	b.file, text = "Dockerfile", []byte(b.r.Text)
	if path != "" {
		b.file = filepath.Base(path)
		if text, err = readText(path); errors.Is(err, fs.ErrNotExist) {
			return nil, banger.Errorf(banger.NotFound, "there is no Dockerfile %q", path).WithHint("name it: banger image build -f FILE CONTEXT")
		} else if err != nil {
			return nil, err
		}
	}
	return text, b.readIgnore(path)
}

// readIgnore reads the file beside the Dockerfile that is named after it, else
// the one of the context.
func (b *builder) readIgnore(path string) error {
	var paths []string
	if path != "" {
		paths = append(paths, path+".dockerignore")
	}
	if b.context != nil {
		paths = append(paths, filepath.Join(b.r.Context, ".dockerignore"))
	}
	for _, p := range paths {
		text, err := readText(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			b.ignore, err = dockerfile.ParseIgnore(filepath.Base(p), text)
		}
		return err
	}
	return nil
}

func readText(path string) ([]byte, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Size() > maxDockerfile {
		return nil, banger.Errorf(banger.Invalid, "%s is no regular file of up to %d bytes", path, maxDockerfile)
	}
	return os.ReadFile(path)
}

// sign names the whole build by what goes into it.
func (b *builder) sign(target *buildStage) error {
	config, err := json.Marshal([]any{target.last(), target.Config, target.Author})
	if err != nil {
		return err
	}
	sum := sha256.Sum256(config)
	b.origin.Key, b.origin.Base = hex.EncodeToString(sum[:]), "scratch"
	if root := target.root(); root != nil {
		b.origin.Base, b.origin.Digest = root.ref, root.image.Digest
	}
	return nil
}

// again answers a build of what is there, and refuses one that could not take
// the name in the end.
func (b *builder) again(ctx context.Context) (im banger.Image, done bool, err error) {
	name := b.r.Name
	unlock, err := b.d.keys.Lock(ctx, "image/"+name)
	if err != nil {
		return im, false, err
	}
	defer unlock()
	if !b.d.images.Has(name) {
		return im, false, nil
	}
	im, err = b.d.images.Get(name)
	switch {
	case b.r.Force && err != nil:
	case err != nil:
		return im, false, err
	case im.Built == nil && !b.r.Force:
		return im, false, banger.Errorf(banger.Exists, "an image named %q is already there, and no build made it", name).
			WithHint("take another name, or replace it with --force")
	case im.Built != nil && im.Built.Key == b.origin.Key && !b.r.NoCache && cmp.Or(im.FS, rootfs.FSExt4) == cmp.Or(b.r.FS, rootfs.FSExt4):
		b.say("%s is up to date: nothing that goes into it has changed", name)
		if b.r.Kernel != "" && b.r.Kernel != im.Kernel {
			im.Kernel = b.r.Kernel
			err = state.WriteRecord(b.d.images.Path(name, state.ManifestFile), im)
		}
		return im, err == nil, err
	}
	b.d.refs.Lock()
	defer b.d.refs.Unlock()
	if users := b.d.imageUsers(name); len(users) > 0 {
		return im, false, inUse(name, users)
	}
	return im, false, ctx.Err()
}

// finish makes the image of the target's layers.
func (b *builder) finish(ctx context.Context, target *buildStage) (banger.Image, error) {
	blobs, config, err := target.allBlobs(ctx)
	if err != nil {
		return banger.Image{}, err
	}
	history := target.history
	if root := target.root(); root != nil && config == nil {
		history = append([]oci.BuildStep{{Created: root.image.CreatedAt, By: root.image.Source, Comment: "banger"}}, history...)
	}
	composed, err := oci.Compose(b.d.Layout.Blobs(), oci.Composition{Arch: hostArch(), Created: b.now, Author: target.Author,
		Config: target.Config, Base: config, Layers: blobs, Steps: history})
	if err != nil {
		return banger.Image{}, err
	}
	defer composed.Close()
	unlock, err := b.d.keys.Lock(ctx, "image/"+b.r.Name)
	if err != nil {
		return banger.Image{}, err
	}
	defer unlock()
	return b.d.addImage(true, func(stage string) (banger.Image, error) {
		im := banger.Image{Name: b.r.Name, Source: "build:" + b.origin.Base, Kernel: b.r.Kernel, FS: b.r.FS, CreatedAt: b.now, Built: &b.origin}
		if root := target.root(); root != nil {
			im.Kernel = cmp.Or(im.Kernel, root.image.Kernel)
		}
		layers, err := takeOCI(stage, &im, composed)
		if err != nil {
			return im, err
		}
		if len(layers) == 0 {
			layers = []rootfs.Layer{{Name: "scratch", Open: emptyTar}}
		}
		return im, buildRootfs(ctx, stage, &im, layers, b.p)
	})
}

// say tells a line of the build.
func (b *builder) say(format string, args ...any) {
	b.p(banger.Progress{Output: true, Step: fmt.Sprintf(format, args...)})
}

// planFromImage is the plan of a build without a Dockerfile.
func (b *builder) planFromImage(ctx context.Context) error {
	base, err := b.base(ctx, b.r.FromImage)
	if err != nil {
		return err
	}
	packages := b.r.Packages
	if packages == nil {
		packages = banger.DefaultPackages()
	}
	for _, name := range packages {
		if !imagecat.IsPackage(name) {
			return banger.Errorf(banger.Invalid, "%q is no name of a Debian package", name)
		}
	}
	s := &dockerfile.Stage{Base: dockerfile.Source{Image: b.r.FromImage}, Config: base.config}
	env := append(slices.Clone(base.config.Env), "DEBIAN_FRONTEND=noninteractive")
	if len(packages) > 0 {
		script := "set -e\napt-get update\napt-get install -y --no-install-recommends " + strings.Join(packages, " ") +
			"\napt-get clean\nrm -rf /var/lib/apt/lists/*"
		s.Steps = append(s.Steps, dockerfile.Step{Text: "apt-get install " + strings.Join(packages, " "),
			Op: &dockerfile.Run{Argv: []string{"/bin/sh", "-c", script}, Env: env, Dir: "/"}})
	}
	if b.r.Script != "" {
		sum := sha256.Sum256([]byte(b.r.Script))
		b.origin.Script = hex.EncodeToString(sum[:])
		run := &dockerfile.Run{Argv: []string{dockerfile.ScriptDir + "/script"}, Env: env, Dir: "/",
			Files: []dockerfile.File{{Name: "script", Data: b.r.Script}}}
		if !strings.HasPrefix(b.r.Script, "#!") {
			run.Argv = append([]string{"/bin/sh", "-e"}, run.Argv...)
		}
		s.Steps = append(s.Steps, dockerfile.Step{Text: "run the script, sha256 " + b.origin.Script[:12], Op: run})
	}
	b.origin.Packages = packages
	b.plan = &dockerfile.Plan{Stages: []*dockerfile.Stage{s}}
	return nil
}
