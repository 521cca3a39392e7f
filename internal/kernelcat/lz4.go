package kernelcat

import (
	"encoding/binary"
	"errors"
	"io"
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

// unpackLZ4 unpacks a legacy LZ4 stream block by block; it holds one block in memory.
func unpackLZ4(w io.Writer, r io.Reader) error {
	var word [4]byte
	if _, err := io.ReadFull(r, word[:]); err != nil || binary.LittleEndian.Uint32(word[:]) != lz4Magic {
		return errLZ4
	}
	dst := make([]byte, lz4Block)
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
		m, err := decodeLZ4(dst, src)
		if err != nil {
			return err
		}
		if _, err := w.Write(dst[:m]); err != nil {
			return err
		}
	}
}

// decodeLZ4 decodes one LZ4 block into dst and returns how much of dst it
// filled. Format: lz4/doc/lz4_Block_format.md.
func decodeLZ4(dst, src []byte) (int, error) {
	d, s := 0, 0
	for s < len(src) {
		token := src[s]
		s++
		lit, s2, ok := lz4Length(src, s, int(token>>4))
		if s = s2; !ok || lit > len(src)-s || lit > len(dst)-d {
			return 0, errLZ4
		}
		copy(dst[d:], src[s:s+lit])
		d, s = d+lit, s+lit
		if s == len(src) {
			return d, nil // the last sequence is literals only
		}
		if len(src)-s < 2 {
			return 0, errLZ4
		}
		off := int(binary.LittleEndian.Uint16(src[s:]))
		n, s2, ok := lz4Length(src, s+2, int(token&15))
		s = s2
		n += 4 // the shortest match
		if !ok || off == 0 || off > d || n > len(dst)-d {
			return 0, errLZ4
		}
		// A match may overlap what it writes: then it repeats a pattern, of
		// which each round has twice as much to copy from.
		for from, end := d-off, d+n; d < end; {
			d += copy(dst[d:end], dst[from:d])
		}
	}
	return 0, errLZ4
}

// lz4Length reads the rest of a length whose first four bits are n: 15 means
// that bytes to be added follow, up to and with the first that is not 255.
func lz4Length(src []byte, s, n int) (length, next int, ok bool) {
	if n != 15 {
		return n, s, true
	}
	for ; s < len(src); s++ {
		n += int(src[s])
		if src[s] != 255 {
			return n, s + 1, true
		}
	}
	return 0, s, false
}
