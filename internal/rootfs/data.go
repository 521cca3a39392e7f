package rootfs

import (
	"bytes"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// unit is the piece of a file that is looked at for zeros: a unit of zeros
// becomes a hole, so every aligned run of 64 KiB does.
const unit = 64 << 10

var zeroUnit [unit]byte

// dataWriter writes file contents into the image, once, at their final place.
// Each lane has its own.
type dataWriter struct {
	w     io.WriterAt
	lanes *lanes
	lane  int
	next  int64 // the block that buf[used] will be written to
	end   int64 // of the run that the lane has
	buf   []byte
	used  int
}

// add copies size bytes from r into the image and tells where they are. An
// error of r comes as it is, one of writing as *banger.Error.
func (d *dataWriter) add(size int64, r io.Reader) ([]extent, error) {
	var list []extent
	for pos := int64(0); pos < size; pos += unit {
		n := min(size-pos, unit)
		blocks := (n + blockSize - 1) / blockSize
		room, err := d.room(blocks)
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

// room gives a buffer for n blocks, at most laneUnit, that will follow each
// other in the image.
func (d *dataWriter) room(n int64) ([]byte, error) {
	for d.end-d.next < n {
		r, err := d.lanes.next(d.lane)
		if err != nil {
			return nil, err
		}
		if r.start != d.end {
			if err := d.flush(); err != nil {
				return nil, err
			}
			d.next = r.start
		}
		d.end = r.start + r.count
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
	at := d.next*blockSize - int64(d.used)
	_, err := d.w.WriteAt(d.buf[:d.used], at)
	if f, ok := d.w.(*os.File); ok && err == nil {
		// The image is synced at the end, and that is quick if the disk has had
		// something to do meanwhile. What this cannot do is left to the sync.
		_ = unix.SyncFileRange(int(f.Fd()), at, int64(d.used), unix.SYNC_FILE_RANGE_WRITE)
	}
	d.used = 0
	return diskError(err)
}

// close writes the buffer.
func (d *dataWriter) close() error {
	err := d.flush()
	d.lanes.close(d.next)
	d.buf = nil
	return err
}
