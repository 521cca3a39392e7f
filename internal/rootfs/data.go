package rootfs

import (
	"bytes"
	"io"
)

// unit is the piece of a file that is looked at for zeros: a unit of zeros
// becomes a hole, so every aligned run of 64 KiB does.
const unit = 64 << 10

// Runs of blocks that a dataWriter reserves at once: enough that two layers
// written at the same time do not interleave, not more than one extent holds.
const (
	minReserve = 4 << 20 / blockSize
	maxReserve = extentMaxLen
)

var zeroUnit [unit]byte

// dataWriter writes file contents into the image, once, at their final place.
// Each worker has its own; they share the allocator.
type dataWriter struct {
	w      io.WriterAt
	blocks *allocator
	next   int64 // the block that buf[used] will be written to
	end    int64 // of the reserved run
	buf    []byte
	used   int
}

// add copies size bytes from r into the image and tells where they are. An
// error of r comes as it is, one of writing as *banger.Error.
func (d *dataWriter) add(size int64, r io.Reader) ([]extent, error) {
	var list []extent
	for pos := int64(0); pos < size; pos += unit {
		n := min(size-pos, unit)
		blocks := (n + blockSize - 1) / blockSize
		room, err := d.room(blocks, (size-pos+blockSize-1)/blockSize)
		if err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(r, room[:n]); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if bytes.Equal(room[:n], zeroUnit[:n]) {
			continue
		}
		clear(room[n:])
		list = appendExtent(list, extent{uint32(pos / blockSize), uint32(d.next), uint32(blocks)})
		d.next += blocks
		d.used += int(blocks * blockSize)
	}
	return list, nil
}

// room gives a buffer for n blocks that will follow each other in the image;
// more is how many the file may still need in all.
func (d *dataWriter) room(n, more int64) ([]byte, error) {
	if d.end-d.next < n {
		want := min(max(more, minReserve), maxReserve)
		if !d.blocks.extend(d.end, want) {
			if err := d.flush(); err != nil {
				return nil, err
			}
			// Near the limit, or before a copy of the superblock, it may be less.
			start, got, err := d.blocks.takeSome(n, want)
			if err != nil {
				return nil, err
			}
			d.next, d.end = start, start+got
		} else {
			d.end += want
		}
	}
	if d.buf == nil {
		d.buf = make([]byte, writeSize)
	}
	if d.used+int(n*blockSize) > len(d.buf) {
		if err := d.flush(); err != nil {
			return nil, err
		}
	}
	return d.buf[d.used : d.used+int(n*blockSize)], nil
}

// flush writes the buffer.
func (d *dataWriter) flush() error {
	if d.used == 0 {
		return nil
	}
	_, err := d.w.WriteAt(d.buf[:d.used], d.next*blockSize-int64(d.used))
	d.used = 0
	return diskError(err)
}

// close writes the buffer and gives back what was reserved and not used.
func (d *dataWriter) close() error {
	err := d.flush()
	d.blocks.release(d.next, d.end)
	d.end = d.next
	d.buf = nil
	return err
}
