package daemon

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"banger"
	"banger/internal/hostfile"
	"banger/internal/rootfs"
	"banger/internal/state"
)

// fill makes the image in a folder of its own.
func (s *importSource) fill(ctx context.Context, stage string, im *banger.Image, p progress) error {
	switch {
	case s.found != nil:
		layers, err := takeOCI(stage, im, s.found)
		if err != nil {
			return err
		}
		return buildRootfs(ctx, stage, im, layers, p)
	case s.dir != "":
		return buildRootfs(ctx, stage, im, []rootfs.Layer{rootfs.Dir(s.dir)}, p)
	case s.disk:
		return s.copyDisk(ctx, filepath.Join(stage, state.RootfsFile), im, p)
	}
	return buildRootfs(ctx, stage, im, []rootfs.Layer{{Name: "of the archive", Literal: true, Open: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(&wholeTar{r: s.in}), nil
	}}}, p)
}

// wholeTar is a tar that must end as tars do, in blocks of zeros: a pipe whose
// writer was killed ends like any other, maybe between two files.
type wholeTar struct {
	r     io.Reader
	zeros int64 // at the end of what was read
}

func (t *wholeTar) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	rest := bytes.TrimRight(p[:n], "\x00")
	if len(rest) > 0 {
		t.zeros = 0
	}
	t.zeros += int64(n - len(rest))
	if err == io.EOF && t.zeros < 512 {
		err = banger.Errorf(banger.Invalid, "the tar is cut short: it does not end as tars do")
	}
	return n, err
}

// copyDisk takes a file system as it is.
func (s *importSource) copyDisk(ctx context.Context, path string, im *banger.Image, p progress) (err error) {
	p(banger.Progress{Step: "copy the disk"})
	if s.raw != nil {
		fi, err := s.raw.Stat()
		if err != nil {
			return err
		}
		if _, err := inspectDisk(s.raw, fi.Size(), s.raw.Name()); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if s.raw != nil {
		err = hostfile.Clone(ctx, f, s.raw)
	} else {
		err = copyTold(ctx, &holes{f: f}, s.in, "copy the disk", p)
	}
	if err != nil {
		if ctx.Err() != nil {
			return banger.Errorf(banger.Canceled, "%w", context.Cause(ctx))
		}
		return err
	}
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	disk, err := rootfs.InspectDisk(f, fi.Size(), "FILE")
	if err != nil {
		return err
	}
	if im.FS != "" && im.FS != disk.FS {
		return banger.Errorf(banger.Invalid, "it is a disk, which is taken as it is: %s, not %s", disk.FS, im.FS).
			WithHint("leave out --fs")
	}
	im.FS = disk.FS
	if im.SHA256, err = sumFile(ctx, f, fi.Size(), "read the disk", p); err != nil {
		return err
	}
	if err := errors.Join(f.Chmod(0o444), f.Sync()); err != nil {
		return err
	}
	if fi, err = f.Stat(); err == nil {
		im.Size = fi.Sys().(*syscall.Stat_t).Blocks * 512
	}
	return err
}

// holes writes a file from its start and leaves out what is all zeros.
type holes struct {
	f  *os.File
	at int64
}

func (h *holes) Write(p []byte) (int, error) {
	const block = 4096
	for done := 0; done < len(p); {
		n := min(block-int(h.at%block), len(p)-done)
		b := p[done : done+n]
		if len(bytes.TrimLeft(b, "\x00")) > 0 {
			if _, err := h.f.WriteAt(b, h.at); err != nil {
				return done, err
			}
		}
		done += n
		h.at += int64(n)
	}
	return len(p), nil
}

// end gives the file its length, holes at its end too.
func (h *holes) end() error { return h.f.Truncate(h.at) }

// copyTold copies a stream, ends with ctx, and tells how far it is. A file with
// holes gets its length.
func copyTold(ctx context.Context, w io.Writer, r io.Reader, step string, p progress) error {
	const tellEvery = 16 << 20
	var done, told int64
	buf := make([]byte, 1<<20)
	for {
		if ctx.Err() != nil {
			return banger.Errorf(banger.Canceled, "%w", context.Cause(ctx))
		}
		n, err := r.Read(buf)
		if _, werr := w.Write(buf[:n]); werr != nil {
			return werr
		}
		if done += int64(n); done-told >= tellEvery {
			told = done
			p(banger.Progress{Step: step, Done: done})
		}
		if err == io.EOF {
			if h, ok := w.(*holes); ok {
				return h.end()
			}
			return nil
		}
		if err != nil {
			if ctx.Err() != nil {
				return banger.Errorf(banger.Canceled, "%w", context.Cause(ctx))
			}
			return err
		}
	}
}

// sumFile is the digest of a file of so many bytes, in hex.
func sumFile(ctx context.Context, f *os.File, size int64, step string, p progress) (string, error) {
	sum := sha256.New()
	err := copyTold(ctx, sum, io.NewSectionReader(f, 0, size), step, func(e banger.Progress) {
		e.Total = size
		p(e)
	})
	return hex.EncodeToString(sum.Sum(nil)), err
}
