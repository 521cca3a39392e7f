package daemon

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"banger"
	"banger/internal/dockerfile"
	"banger/internal/hello"
	"banger/internal/rootfs"
	"banger/internal/state"
)

// The disk that has the directories of RUN --mount=type=cache, of all builds. It
// is a guest's, and the host never reads it: a machine whose steps want it takes
// it along under a name of its own, so that there are never two that write to it,
// and gives it back in the end. A build that finds none has an empty one, and the
// last one that gives back wins.
const (
	cachesSize = 16 << 30         // of its file system: it takes what is in it
	cachesFull = 12 << 30         // bytes on the host's disk with which it begins anew
	cachesSync = 10 * time.Second // for the guest to write it, when the build is over
)

// cachesOf is the disk while a VM has it.
func (d *Daemon) cachesOf(id string) string {
	name, ext, _ := strings.Cut(state.CachesFile, ".")
	return filepath.Join(d.Layout.Builds(), name+"-"+id+"."+ext)
}

func (d *Daemon) caches() string { return filepath.Join(d.Layout.Builds(), state.CachesFile) }

// cachesKey is held while a disk changes hands: who builds again right after an
// interrupt is to have what the build before is about to give back.
const cachesKey = "build caches"

// takeCaches gives a VM the disk that is there, if it takes less than full bytes,
// or an empty one.
func (d *Daemon) takeCaches(ctx context.Context, id string, full int64) (path string, err error) {
	unlock, err := d.keys.Lock(ctx, cachesKey)
	if err != nil {
		return "", err
	}
	defer unlock()
	path = d.cachesOf(id)
	err = os.Rename(d.caches(), path)
	if err == nil && sizeOnDisk(path) < full {
		return path, nil
	}
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", state.Classify(err)
	}
	return path, state.Classify(rootfs.Empty(path, cachesSize))
}

// sizeOnDisk is how many bytes a file takes, which of a sparse one are less than it has.
func sizeOnDisk(path string) int64 {
	fi, err := os.Lstat(path)
	if err != nil {
		return 0
	}
	return fi.Sys().(*syscall.Stat_t).Blocks * 512
}

// sweepCaches removes disks that no VM has any more.
func (d *Daemon) sweepCaches() error {
	found, err := filepath.Glob(d.cachesOf("*"))
	for _, path := range found {
		if !slices.ContainsFunc(d.allVMs(), func(rec banger.VM) bool { return d.cachesOf(rec.ID) == path }) {
			err = errors.Join(err, os.Remove(path))
		}
	}
	return err
}

// pruneCaches removes the disk, unless a machine has it.
func (d *Daemon) pruneCaches(dry bool) ([]banger.Pruned, error) {
	if _, err := os.Lstat(d.caches()); err != nil {
		return nil, nil
	}
	it := banger.Pruned{Kind: prunedCaches, Name: state.CachesFile, Size: sizeOnDisk(d.caches()), Why: "builds do without them"}
	return []banger.Pruned{it}, removeUnless(dry, d.caches())
}

// wantsCaches reports whether a step of the build has a cache.
func (b *builder) wantsCaches() bool {
	for _, s := range b.plan.Stages {
		for _, step := range s.Steps {
			if op, ok := step.Op.(*dockerfile.Run); ok && hasCache(op) {
				return true
			}
		}
	}
	return false
}

func hasCache(op *dockerfile.Run) bool {
	return slices.ContainsFunc(op.Mounts, func(m dockerfile.Mount) bool { return m.Type == "cache" })
}

// detachCaches takes the machine's disk of caches out of its removal, if it is
// whole: what was written since the last step that worked is written out now. One
// that the guest could not mount it cannot mount again either, and goes with the
// machine. That has it open until it ends; then it can be given back.
func (m *buildVM) detachCaches() (path string) {
	if m.v.caches == "" {
		return ""
	}
	if m.unsynced {
		ctx, cancel := context.WithTimeout(m.d.life, cachesSync)
		defer cancel()
		client, err := m.d.dialAgent(ctx, m.v.record()) // the one there is went with a caller that went
		if err != nil {
			return ""
		}
		_ = m.client.Close()
		m.client = client
		exit, err := m.order(ctx, hello.BuildOrder{Op: hello.BuildFreeze, Caches: m.v.cachesDevice}, nil, io.Discard, io.Discard)
		if err != nil || exit.Code != 0 {
			return ""
		}
	}
	path = m.d.cachesOf(newID())
	if os.Rename(m.v.caches, path) != nil {
		return ""
	}
	return path
}

// giveCaches gives a disk back that no machine has any more.
func (d *Daemon) giveCaches(path string, err error) error {
	switch {
	case path == "":
		return err
	case err != nil: // nobody knows whether the machine is gone
		return errors.Join(err, os.Remove(path))
	}
	return os.Rename(path, d.caches())
}
