package share

import (
	"encoding/binary"
	"strings"

	"golang.org/x/sys/unix"
)

// The types of requests; that of the answer is one more.
const (
	rLerror      = 7
	tStatfs      = 8
	tLopen       = 12
	tLcreate     = 14
	tSymlink     = 16
	tMknod       = 18
	tReadlink    = 22
	tGetattr     = 24
	tSetattr     = 26
	tReaddir     = 40
	tFsync       = 50
	tLock        = 52
	tGetlock     = 54
	tLink        = 70
	tMkdir       = 72
	tRenameat    = 74
	tUnlinkat    = 76
	tVersion     = 100
	tAttach      = 104
	tFlush       = 108
	tWalk        = 110
	tRead        = 116
	tWrite       = 118
	tClunk       = 120
	tRemove      = 122
	headerSize   = 7 // size[4] type[1] tag[2]
	maxNames     = 16
	protocol     = "9P2000.L"
	qidDir       = 0x80
	qidSymlink   = 0x02
	lockSuccess  = 0
	lockUnlocked = 2
)

// decoder takes a request apart. What is not there reads as zero, and short says so.
type decoder struct {
	b     []byte
	short bool
}

func (d *decoder) take(n int) []byte {
	if n > len(d.b) {
		d.short, d.b = true, nil
		return make([]byte, min(n, 8))
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b
}

func (d *decoder) u8() uint8   { return d.take(1)[0] }
func (d *decoder) u16() uint16 { return binary.LittleEndian.Uint16(d.take(2)) }
func (d *decoder) u32() uint32 { return binary.LittleEndian.Uint32(d.take(4)) }
func (d *decoder) u64() uint64 { return binary.LittleEndian.Uint64(d.take(8)) }

func (d *decoder) str() string {
	n := int(d.u16())
	if n > len(d.b) {
		d.short, d.b = true, nil
		return ""
	}
	return string(d.take(n))
}

// encoder puts an answer together, behind room for its header.
type encoder struct{ b []byte }

func (e *encoder) u8(v uint8)   { e.b = append(e.b, v) }
func (e *encoder) u16(v uint16) { e.b = binary.LittleEndian.AppendUint16(e.b, v) }
func (e *encoder) u32(v uint32) { e.b = binary.LittleEndian.AppendUint32(e.b, v) }
func (e *encoder) u64(v uint64) { e.b = binary.LittleEndian.AppendUint64(e.b, v) }

func (e *encoder) str(s string) {
	e.u16(uint16(len(s)))
	e.b = append(e.b, s...)
}

// qid is a server's name for an object. Its version is 0, which tells newer
// kernels to keep no pages of a file: the host may change it at any time.
func (e *encoder) qid(mode uint32, path uint64) {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		e.u8(qidDir)
	case unix.S_IFLNK:
		e.u8(qidSymlink)
	default:
		e.u8(0)
	}
	e.u32(0)
	e.u64(path)
}

// grow adds n bytes and gives them, to be written into.
func (e *encoder) grow(n int) []byte {
	old := len(e.b)
	if cap(e.b)-old < n {
		e.b = append(make([]byte, 0, old+n), e.b...)
	}
	e.b = e.b[:old+n]
	return e.b[old:]
}

// finish writes the header, and gives the whole message.
func (e *encoder) finish(typ uint8, tag uint16) []byte {
	binary.LittleEndian.PutUint32(e.b, uint32(len(e.b)))
	e.b[4] = typ
	binary.LittleEndian.PutUint16(e.b[5:], tag)
	return e.b
}

// checkName refuses what is not the name of one entry of a folder.
func checkName(name string) error {
	switch {
	case name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00"):
		return unix.EINVAL
	case len(name) > 255:
		return unix.ENAMETOOLONG
	}
	return nil
}
