package rootfs

import (
	"errors"
	"fmt"
	"io"
	"math/bits"
	"syscall"

	"banger"
)

// allocator hands out runs of blocks, upwards from the block descriptors and
// around their copies.
type allocator struct {
	next int64
	max  int64
	head int64 // blocks that are kept free for the copies, where a group has them; 0 if there are none
}

// take gives n blocks in one run.
func (a *allocator) take(n int64) (int64, error) {
	start, _, err := a.takeSome(n, n)
	return start, err
}

// takeSome gives at least min and at most want blocks in one run.
func (a *allocator) takeSome(min, want int64) (start, n int64, err error) {
	start = a.next
	for a.end(start)-start < min {
		if start = a.end(start) + a.head; start >= a.max {
			return 0, 0, invalid("the image is larger than %d bytes", a.max*blockSize)
		}
	}
	n = a.end(start) - start
	if n > want {
		n = want
	}
	a.next = start + n
	return start, n, nil
}

// end is how far a run from b can reach: to the next copies, or all the way. It
// is not above b where b is in the place of copies.
func (a *allocator) end(b int64) int64 {
	if a.head == 0 {
		return a.max
	}
	g := b / blocksPerGroup
	if b >= g*blocksPerGroup+a.head {
		g++
	}
	for ; g*blocksPerGroup < a.max; g++ {
		if hasCopies(g) {
			return g * blocksPerGroup
		}
	}
	return a.max
}

// bitmap marks blocks in use.
type bitmap []byte

// mark sets n bits from start, growing the map as needed.
func (m *bitmap) mark(start, n int64) {
	if need := (start + n + 7) / 8; need > int64(len(*m)) {
		*m = append(*m, make([]byte, max(need-int64(len(*m)), int64(len(*m))))...)
	}
	for b := start; b < start+n; {
		if b&7 == 0 && start+n-b >= 8 {
			(*m)[b>>3] = 0xff
			b += 8
			continue
		}
		(*m)[b>>3] |= 1 << (b & 7)
		b++
	}
}

// has reports whether bit b is set.
func (m bitmap) has(b int64) bool { return b>>3 < int64(len(m)) && m[b>>3]&(1<<(b&7)) != 0 }

// zeros counts the bits that are not set.
func (m bitmap) zeros() int {
	n := 0
	for _, b := range m {
		n += 8 - bits.OnesCount8(b)
	}
	return n
}

// blockWriter gathers blocks that follow each other into few large writes.
type blockWriter struct {
	w     io.WriterAt
	start int64 // block of buf[0]
	buf   []byte
}

// put writes data, padded with zeros to whole blocks, at a block.
func (b *blockWriter) put(block int64, data []byte) error {
	if block != b.start+int64(len(b.buf))/blockSize || len(b.buf) >= writeSize {
		if err := b.flush(); err != nil {
			return err
		}
		b.start = block
	}
	b.buf = append(b.buf, data...)
	b.buf = append(b.buf, make([]byte, -len(data)&(blockSize-1))...)
	return nil
}

// flush writes what is held back.
func (b *blockWriter) flush() error {
	if len(b.buf) == 0 {
		return nil
	}
	_, err := b.w.WriteAt(b.buf, b.start*blockSize)
	b.buf = b.buf[:0]
	return diskError(err)
}

// writeSize is how much is gathered before it is written.
const writeSize = 1 << 20

// diskError classes an error of writing an output file.
func diskError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		return banger.Errorf(banger.Exhausted, "%w", err).WithHint("make room on that file system; df -h shows what is left")
	}
	return banger.Errorf(banger.Internal, "%w", err)
}

// outputError says what was being made, and gives err the one error type.
func outputError(what string, err error) error {
	if err == nil {
		return nil
	}
	return banger.AsError(fmt.Errorf("%s: %w", what, err))
}
