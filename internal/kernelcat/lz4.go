package kernelcat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/pierrec/lz4/v4"
)

// A legacy LZ4 stream, as `lz4 -l` writes it and Linux reads it, is
//
//	magic, then blocks: length (4 bytes, little endian), that many bytes
//
// where each block unpacks to at most 8 MiB on its own. A magic where a length
// should be starts a further stream.
// Format: lz4/doc/lz4_Frame_format.md, "Legacy frame"; linux/lib/decompress_unlz4.c.
const (
	lz4Magic    = 0x184c2102
	lz4Block    = 8 << 20
	lz4MaxBlock = lz4Block + lz4Block/255 + 16 // what incompressible data grows to
)

var errLZ4 = errors.New("corrupt LZ4 data")

// unpackLZ4 unpacks a legacy LZ4 stream block by block; it holds one block in
// memory. The library's own Reader copies each block once more, as what the
// next one might refer to, and allows such references, which Linux does not.
func unpackLZ4(w *output, r io.Reader) error {
	var word [4]byte
	if _, err := io.ReadFull(r, word[:]); err != nil || binary.LittleEndian.Uint32(word[:]) != lz4Magic {
		return errLZ4
	}
	dst := make([]byte, min(lz4Block, w.left))
	var src []byte
	for {
		if _, err := io.ReadFull(r, word[:]); err == io.EOF {
			return nil
		} else if err != nil {
			return errLZ4
		}
		n := binary.LittleEndian.Uint32(word[:])
		if n == lz4Magic {
			continue
		}
		if n == 0 || n > lz4MaxBlock {
			return errLZ4
		}
		if int(n) > cap(src) {
			src = make([]byte, n)
		}
		src = src[:n]
		if _, err := io.ReadFull(r, src); err != nil {
			return errLZ4
		}
		m, err := lz4.UncompressBlock(src, dst)
		if err != nil {
			return fmt.Errorf("%w: %w", errLZ4, err)
		}
		if _, err := w.Write(dst[:m]); err != nil {
			return err
		}
	}
}
