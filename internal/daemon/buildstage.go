package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"banger"
	"banger/internal/dockerfile"
	"banger/internal/oci"
	"banger/internal/rootfs"
)

// maxBuildLayers is how many layers the steps of one image may make beside those
// of its base: what rootfs and overlay-based engines take.
const maxBuildLayers = 120

// buildStage is one stage of a build.
type buildStage struct {
	*dockerfile.Stage
	b *builder

	// What it begins with is one of the two; neither is scratch.
	base *buildBase
	from *buildStage

	first  string   // the key of what it begins with
	keys   []string // of the files behind each step
	inputs []input  // of each step

	// From materialize on:
	done    bool
	blobs   []oci.Blob // over those of root
	history []oci.BuildStep
	view    *rootfs.View // of the blobs that were seen so far; nil: nobody has asked
	seen    int
	vm      *buildVM  // nil: none runs
	whole   *openTree // the finished stage as a file system, if somebody copies from it
}

// input is what a step copies.
type input struct {
	selection *dockerfile.Selection // from the context
	download  string                // path of what a URL gave
	base      *buildBase
	stage     *buildStage
}

// addStage finds out what the steps of a stage are made of.
func (b *builder) addStage(ctx context.Context, st *dockerfile.Stage) (err error) {
	s := &buildStage{Stage: st, b: b}
	b.stages[st] = s
	switch {
	case st.Base.Stage != nil:
		s.from = b.stages[st.Base.Stage]
		s.first = s.from.last()
	case st.Base.Image != "":
		if s.base, err = b.base(ctx, st.Base.Image); err == nil {
			err = runsHere(s.base.image)
		}
		if err == nil { // what banger does not read is refused before anything boots
			_, err = s.base.tree()
		}
		if err != nil {
			return b.at(st.Line, err)
		}
		s.first = s.base.key
	default:
		sum := sha256.Sum256([]byte("scratch"))
		s.first = hex.EncodeToString(sum[:])
	}
	key, layers := s.first, 0
	for _, step := range st.Steps {
		in, digest, err := b.input(ctx, step)
		if err != nil {
			return b.at(step.Line, err)
		}
		if step.Op != nil {
			layers++
		}
		key = step.Key(key, digest)
		s.keys, s.inputs = append(s.keys, key), append(s.inputs, in)
	}
	if layers > maxBuildLayers {
		return b.at(st.Line, banger.Errorf(banger.Invalid, "%d steps that make layers, more than %d", layers, maxBuildLayers))
	}
	return nil
}

// at says where in the Dockerfile something went wrong.
func (b *builder) at(line int, err error) error {
	if err == nil || line == 0 {
		return err
	}
	return fmt.Errorf("%s:%d: %w", b.file, line, err)
}

// input finds the files that a step copies, and names their contents.
func (b *builder) input(ctx context.Context, step dockerfile.Step) (in input, digest string, err error) {
	op, ok := step.Op.(*dockerfile.Copy)
	if !ok {
		return in, "", nil
	}
	switch {
	case op.Checksum != "": // settles what it is; it is got when the step is made
		return in, op.Checksum, nil
	case op.URL != "":
		in.download, digest, err = b.download(ctx, op)
		return in, digest, err
	case op.From.Stage != nil:
		in.stage = b.stages[op.From.Stage]
		return in, "stage " + in.stage.last(), nil
	case op.From.Image != "":
		in.base, err = b.base(ctx, op.From.Image)
		if err != nil {
			return in, "", err
		}
		return in, "image " + in.base.key, nil
	case len(op.Sources) == 0:
		return in, "", nil
	case b.context == nil:
		return in, "", banger.Errorf(banger.Invalid, "%s: there is no build context to copy from", step.Text).
			WithHint("give a folder: banger image build -f FILE CONTEXT")
	}
	in.selection, err = dockerfile.Select(ctx, b.context.FS(), b.ignore, op.Sources)
	if err != nil {
		return in, "", err
	}
	return in, in.selection.Digest, nil
}

// last is the key of the stage's files in the end.
func (s *buildStage) last() string {
	if len(s.keys) == 0 {
		return s.first
	}
	return s.keys[len(s.keys)-1]
}

// root is the image below all stages, nil for scratch.
func (s *buildStage) root() *buildBase {
	for s.from != nil {
		s = s.from
	}
	return s.base
}

// materialize makes sure of the stage's layers: those of the cache, and from the
// first that is not in it on by running the steps.
func (s *buildStage) materialize(ctx context.Context) (err error) {
	if s.done {
		return nil
	}
	if s.from != nil {
		if err := s.from.materialize(ctx); err != nil {
			return err
		}
		s.blobs, s.history = slices.Clone(s.from.blobs), slices.Clone(s.from.history)
		// The first who goes on has the machine, and what is known of the tree.
		s.vm, s.view, s.seen = s.from.vm, s.from.view, s.from.seen
		s.from.vm, s.from.view = nil, nil
	}
	s.tell(0, s.baseText(), false)
	missed := s.b.r.NoCache
	for i, step := range s.Steps {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		rec, hit := buildRecord{}, false
		if step.Op != nil && !missed {
			rec, hit = s.b.d.buildRecord(s.keys[i])
			missed = !hit
		}
		s.tell(i+1, step.Text, hit)
		if step.Op != nil && !hit {
			if rec, err = s.execute(ctx, i); err != nil {
				return s.failed(ctx, step, err)
			}
		}
		if rec.Blob != nil {
			s.blobs = append(s.blobs, *rec.Blob)
		}
		s.history = append(s.history, oci.BuildStep{Created: s.b.now, By: step.Text, Comment: "banger image build", Empty: rec.Blob == nil})
	}
	s.done = true
	if s.isBase() {
		return nil
	}
	s.view = nil
	return s.stopVM()
}

// isBase reports whether another stage begins with this one.
func (s *buildStage) isBase() bool {
	return slices.ContainsFunc(s.b.plan.Stages, func(other *dockerfile.Stage) bool { return other.Base.Stage == s.Stage })
}

func (s *buildStage) baseText() string {
	switch {
	case s.base != nil:
		return "FROM " + s.base.ref
	case s.from != nil:
		return "FROM " + s.from.Name
	}
	return "FROM scratch"
}

// tell tells a step's header, which every line of its output comes behind.
func (s *buildStage) tell(i int, text string, cached bool) {
	where := fmt.Sprintf("%d/%d", i+1, len(s.Steps)+1)
	if s.Name != "" {
		where = s.Name + " " + where
	}
	if cached {
		s.b.say("[%s] CACHED %s", where, text)
		return
	}
	s.b.say("[%s] %s", where, text)
}

// failed says which step an error is of.
func (s *buildStage) failed(ctx context.Context, step dockerfile.Step, err error) error {
	err = s.b.at(step.Line, fmt.Errorf("%s: %w", step.Text, err))
	if s.vm == nil || !s.b.r.KeepOnError || ctx.Err() != nil {
		return err
	}
	hint, kerr := s.vm.keep()
	s.vm = nil
	if kerr != nil {
		return errors.Join(err, kerr)
	}
	return banger.AsError(err).WithHint("%s", hint)
}

// execute carries one step out and notes what it made.
func (s *buildStage) execute(ctx context.Context, i int) (rec buildRecord, err error) {
	step := s.Steps[i]
	rec.Step = step.Text
	if op, ok := step.Op.(*dockerfile.Run); ok {
		if s.vm == nil {
			if s.vm, err = s.boot(ctx); err != nil {
				return rec, err
			}
		}
		if rec.Blob, err = s.runStep(ctx, op); err != nil {
			return rec, err
		}
	} else {
		rec.Blob, err = s.place(ctx, i)
		if err == nil && s.vm != nil && rec.Blob != nil {
			err = s.vm.apply(ctx, *rec.Blob)
		}
	}
	if err != nil {
		return rec, err
	}
	s.b.d.at("build: step made")
	return rec, s.b.d.writeBuildRecord(s.keys[i], rec)
}

// runStep runs a command. Where the view knows all layers so far, it gets to
// know the new one while that is made: to read a large layer again takes seconds.
func (s *buildStage) runStep(ctx context.Context, op *dockerfile.Run) (*oci.Blob, error) {
	if s.view == nil && len(s.blobs) > 0 || s.seen < len(s.blobs) {
		return s.vm.run(ctx, op, io.Discard)
	}
	view, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	r, w := io.Pipe()
	applied := make(chan error, 1)
	go func() {
		err := view.Apply(ctx, r)
		_ = r.CloseWithError(err) // the writer is not to wait for ever
		applied <- err
	}()
	blob, err := s.vm.run(ctx, op, w)
	_ = w.CloseWithError(err)
	aerr := <-applied
	switch {
	case err != nil:
		return nil, err
	case blob == nil: // what the tar told, if there was one, is how it was before
		return nil, nil
	case aerr != nil:
		return nil, aerr
	}
	s.seen++
	return blob, nil
}

// layers are all layers of the stage so far, for a root file system.
func (s *buildStage) layers() ([]rootfs.Layer, error) {
	var layers []rootfs.Layer
	if root := s.root(); root != nil {
		var err error
		if layers, err = root.layers(); err != nil {
			return nil, err
		}
	}
	layers = append(layers, s.b.d.blobLayers(s.blobs)...)
	if len(layers) == 0 {
		layers = []rootfs.Layer{{Name: "scratch", Open: emptyTar}}
	}
	return layers, nil
}

// allBlobs are all layers of the finished stage, and the config whose history
// is that of those below its own.
func (s *buildStage) allBlobs(ctx context.Context) (blobs []oci.Blob, config []byte, err error) {
	if root := s.root(); root != nil {
		if blobs, config, err = root.blobs(ctx, s.b.p); err != nil {
			return nil, nil, err
		}
	}
	return append(slices.Clone(blobs), s.blobs...), config, nil
}

// tree is the finished stage, to be copied from.
func (s *buildStage) tree(ctx context.Context) (*rootfs.Tree, error) {
	if err := s.materialize(ctx); err != nil {
		return nil, err
	}
	if len(s.blobs) == 0 && s.root() != nil {
		return s.root().tree()
	}
	if s.whole == nil {
		layers, err := s.layers()
		if err != nil {
			return nil, err
		}
		path := filepath.Join(s.b.scratch, fmt.Sprintf("stage-%d.img", s.Index))
		if _, err := rootfs.Build(ctx, path, layers, rootfs.Options{Progress: s.b.p}); err != nil {
			return nil, err
		}
		if s.whole, err = openRootfs(path); err != nil {
			return nil, err
		}
	}
	return s.whole.Tree, nil
}

// look gives the view of the stage as it is now.
func (s *buildStage) look(ctx context.Context) (*rootfs.View, error) {
	if s.view == nil {
		var tree *rootfs.Tree
		if root := s.root(); root != nil {
			var err error
			if tree, err = root.tree(); err != nil {
				return nil, err
			}
		}
		s.view, s.seen = rootfs.NewView(tree), 0
	}
	for ; s.seen < len(s.blobs); s.seen++ {
		r, err := s.blobs[s.seen].Layer(s.b.d.Layout.Blobs()).Open(ctx)
		if err != nil {
			return nil, err
		}
		err = s.view.Apply(ctx, r)
		if err = errors.Join(err, r.Close()); err != nil {
			return nil, err
		}
	}
	return s.view, nil
}

func (s *buildStage) stopVM() error {
	if s.vm == nil {
		return nil
	}
	vm := s.vm
	s.vm = nil
	return vm.close()
}

func (s *buildStage) close() error { return errors.Join(s.stopVM(), s.whole.close()) }
