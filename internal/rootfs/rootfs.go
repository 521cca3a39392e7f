// Package rootfs merges image layers into a read-only root file system, ext4 or
// EROFS, without root, and writes the small disks and the initrd of a boot.
//
// File contents go straight from the tar streams to their final place in the
// image; only headers are kept in memory, merged there, and written last. No
// path of a layer is ever used on the host.
package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"syscall"

	"banger"
)

// Layer is one layer of an image, the lowest first.
type Layer struct {
	Name string // for Progress, for instance the digest
	Size int64  // bytes of the layer as transferred where known, else 0; larger layers are started first
	// Literal is set for the tar of a whole tree, not of the changes to another
	// one: names with the prefix .wh. are then names like any other.
	Literal bool
	// Open gives the uncompressed tar stream. It is read to its end, because a
	// verifying reader reports a bad digest only there. Reads must end when
	// ctx does. Open may be called from several goroutines, once per layer.
	Open func(ctx context.Context) (io.ReadCloser, error)
}

// Options of Build. The zero value is valid.
type Options struct {
	FS       string                // FSExt4, the default, or FSErofs
	Workers  int                   // layers read at the same time, default and at most 4
	Limits   Limits                // zero fields mean the defaults
	Progress func(banger.Progress) // may be nil; calls never overlap
}

// Stats tells what Build made.
type Stats struct {
	Entries   int   // inodes of the image
	Size      int64 // length of the image in bytes
	Allocated int64 // bytes that the image takes on the host's disk
}

// Build merges the layers into a new image at path, a read-only file which must
// not exist. It takes as much space as its contents. A copy of one of ext4 can
// be mounted read-write: there is an empty journal, and once the copy is longer
// Linux grows it while it is mounted (resize2fs does so too). The image is on
// the disk when Build returns; after an error or a cancel there is no file. The
// same layers, sizes and limits give the same bytes, with any number of workers.
// What is refused does not depend on the file system: EROFS holds all that ext4
// holds, and nothing is put into it that ext4 does not hold.
//
// Errors are *banger.Error: Invalid for contents that are refused, Exhausted
// when the disk is full, Exists, Canceled, and those of the layers' readers.
func Build(ctx context.Context, path string, layers []Layer, o Options) (Stats, error) {
	stats, err := build(ctx, path, layers, o)
	if err != nil && ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
		err = banger.Errorf(banger.Canceled, "%w", err)
	}
	return stats, outputError("build root file system", err)
}

func build(ctx context.Context, path string, layers []Layer, o Options) (Stats, error) {
	var stats Stats
	err := create(path, 0o444, func(f *os.File) error {
		w, err := merge(ctx, f, layers, o)
		if err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return diskError(err)
		}
		info, err := f.Stat()
		if err != nil {
			return diskError(err)
		}
		stats = Stats{Entries: w.count(), Size: info.Size()}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			stats.Allocated = st.Blocks * 512
		}
		return nil
	})
	return stats, err
}

// merge writes the image into an empty file.
func merge(ctx context.Context, f *os.File, layers []Layer, o Options) (format, error) {
	limits := o.Limits.withDefaults()
	if len(layers) == 0 {
		return nil, invalid("the image has no layers")
	}
	if len(layers) > limits.Layers {
		return nil, invalid("the image has %d layers, more than %d", len(layers), limits.Layers)
	}
	if o.Workers < 1 {
		o.Workers = maxLanes
	}
	w, err := newFormat(o.FS, f, limits)
	if err != nil {
		return nil, err
	}
	b := &builder{ctx: ctx, layers: layers, options: o, space: w.room(), budget: newBudget(limits)}
	entries, err := b.readAll()
	if err != nil {
		return nil, err
	}
	b.tell(banger.Progress{Step: "write file system"})
	t := newTree(limits)
	for i := range entries {
		if err := t.apply(ctx, i, entries[i]); err != nil {
			return nil, err
		}
		entries[i] = nil
	}
	return w, w.finish(ctx, t.root)
}

// create makes a file with fill, or leaves nothing. The mode is set at the
// end, so that a finished image cannot be opened for writing by mistake.
func create(path string, mode os.FileMode, fill func(*os.File) error) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return banger.Errorf(banger.Exists, "%w", err)
	}
	if err != nil {
		return diskError(err)
	}
	defer func() {
		if e := f.Close(); err == nil {
			err = diskError(e)
		}
		if err != nil {
			_ = os.Remove(path)
		}
	}()
	if err := fill(f); err != nil {
		return err
	}
	return diskError(f.Chmod(mode))
}

// builder reads the layers of one Build.
type builder struct {
	ctx     context.Context
	layers  []Layer
	options Options
	space   *space
	budget  *budget
	mu      sync.Mutex // of the calls of Progress
}

func (b *builder) tell(p banger.Progress) {
	if b.options.Progress == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.options.Progress(p)
}

// readAll reads all layers, some at a time. The first error stops the others.
func (b *builder) readAll() ([][]entry, error) {
	ctx, cancel := context.WithCancelCause(b.ctx)
	defer cancel(nil)
	ofLane, sizes := assign(b.layers)
	lanes := newLanes(&b.space.blocks, sizes...)
	queue := make(chan int, len(ofLane))
	for lane := range ofLane {
		queue <- lane
	}
	close(queue)

	entries := make([][]entry, len(b.layers))
	var wg sync.WaitGroup
	for range min(b.options.Workers, len(ofLane)) {
		wg.Go(func() {
			for lane := range queue {
				data := b.space.newData(lanes, lane)
				for _, i := range ofLane[lane] {
					var err error
					if ctx.Err() == nil {
						entries[i], err = b.read(ctx, i, data)
					}
					if err != nil {
						cancel(err) // only the first call counts
					}
				}
				if err := data.close(); err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	lanes.finish()
	return entries, context.Cause(ctx)
}

// read reads one layer and closes it.
func (b *builder) read(ctx context.Context, i int, data *dataWriter) ([]entry, error) {
	l := b.layers[i]
	step := fmt.Sprintf("write layer %d/%d", i+1, len(b.layers))
	if l.Name != "" {
		step += " " + l.Name
	}
	b.tell(banger.Progress{Step: step, Total: l.Size})
	r, err := l.Open(ctx)
	if err != nil {
		return nil, fmt.Errorf("open layer %d: %w", i+1, err)
	}
	src := &source{ctx: ctx, r: r, budget: b.budget, literal: l.Literal}
	src.tell = func(n int64) { b.tell(banger.Progress{Step: step, Done: n, Total: l.Size}) }
	entries, err := readLayer(src, data)
	if e := r.Close(); err == nil {
		err = e
	}
	if err != nil {
		return nil, fmt.Errorf("layer %d: %w", i+1, err)
	}
	b.tell(banger.Progress{Step: step, Done: src.read, Total: src.read})
	return entries, nil
}
