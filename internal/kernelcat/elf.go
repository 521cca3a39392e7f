package kernelcat

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"runtime"

	"banger"
)

// Bounds on what is read of an ELF file: all are far above what Linux has, and
// far below what a made-up file could make this program allocate.
const (
	maxHeaders = 4096    // program or section headers
	maxNotes   = 1 << 20 // bytes of one note segment
	maxSection = 1 << 20 // bytes of one section that is read as a whole
)

var errELF = errors.New("corrupt ELF file")

// machines maps the ELF machine to the name that uname -m gives it.
var machines = map[elf.Machine]string{
	elf.EM_X86_64:  "x86_64",
	elf.EM_AARCH64: "aarch64",
}

// elfFile reads the few parts of a little-endian ELF64 file that a kernel
// needs. debug/elf is not meant for files nobody vouches for; this is.
type elfFile struct {
	r      io.ReaderAt
	size   int64
	header elf.Header64
}

func openELF(r io.ReaderAt, size int64) (*elfFile, error) {
	f := &elfFile{r: r, size: size}
	b, err := f.bytes(0, uint64(binary.Size(f.header)), maxSection)
	if err != nil {
		return nil, err
	}
	if _, err := binary.Decode(b, binary.LittleEndian, &f.header); err != nil {
		return nil, errELF
	}
	id := f.header.Ident
	if string(id[:4]) != elf.ELFMAG || elf.Class(id[elf.EI_CLASS]) != elf.ELFCLASS64 || elf.Data(id[elf.EI_DATA]) != elf.ELFDATA2LSB {
		return nil, banger.Errorf(banger.Invalid, "not a 64-bit little-endian ELF file")
	}
	return f, nil
}

// arch is the machine as uname -m, or its ELF name if banger has none.
func (f *elfFile) arch() string {
	m := elf.Machine(f.header.Machine)
	if a := machines[m]; a != "" {
		return a
	}
	return m.String()
}

// bytes reads a part of the file that lies inside it and within the limit.
func (f *elfFile) bytes(off, n, limit uint64) ([]byte, error) {
	if n > limit || off > uint64(f.size) || n > uint64(f.size)-off {
		return nil, errELF
	}
	b := make([]byte, n)
	if _, err := f.r.ReadAt(b, int64(off)); err != nil {
		return nil, err
	}
	return b, nil
}

// table reads a table of n headers of the given size.
func (f *elfFile) table(off uint64, n, entry uint16, want int) ([]byte, error) {
	if n == 0 {
		return nil, nil
	}
	if n > maxHeaders || int(entry) != want {
		return nil, errELF
	}
	return f.bytes(off, uint64(n)*uint64(entry), maxHeaders*uint64(want))
}

// note finds a note by its owner and type in the note segments.
func (f *elfFile) note(owner string, kind uint32) ([]byte, bool, error) {
	var p elf.Prog64
	size := binary.Size(p)
	b, err := f.table(f.header.Phoff, f.header.Phnum, f.header.Phentsize, size)
	if err != nil {
		return nil, false, err
	}
	for ; len(b) >= size; b = b[size:] {
		if _, err := binary.Decode(b, binary.LittleEndian, &p); err != nil {
			return nil, false, errELF
		}
		if elf.ProgType(p.Type) != elf.PT_NOTE {
			continue
		}
		notes, err := f.bytes(p.Off, p.Filesz, maxNotes)
		if err != nil {
			return nil, false, err
		}
		if desc, ok := findNote(notes, owner, kind); ok {
			return desc, true, nil
		}
	}
	return nil, false, nil
}

// findNote walks notes: name size, descriptor size and type, 4 bytes each,
// then the name with its NUL and the descriptor, both padded to 4 bytes.
func findNote(b []byte, owner string, kind uint32) ([]byte, bool) {
	for len(b) >= 12 {
		ns := uint64(binary.LittleEndian.Uint32(b))
		ds := uint64(binary.LittleEndian.Uint32(b[4:]))
		ty := binary.LittleEndian.Uint32(b[8:])
		b = b[12:]
		desc := (ns + 3) &^ 3
		if desc > uint64(len(b)) || ds > uint64(len(b))-desc {
			return nil, false
		}
		if ty == kind && string(bytes.TrimRight(b[:ns], "\x00")) == owner {
			return b[desc : desc+ds], true
		}
		b = b[min((desc+ds+3)&^3, uint64(len(b))):]
	}
	return nil, false
}

// section reads the section of that name; none is no error.
func (f *elfFile) section(name string) ([]byte, error) {
	var s elf.Section64
	size := binary.Size(s)
	b, err := f.table(f.header.Shoff, f.header.Shnum, f.header.Shentsize, size)
	if err != nil {
		return nil, err
	}
	at := func(i int) error {
		if i*size >= len(b) {
			return errELF
		}
		_, err := binary.Decode(b[i*size:], binary.LittleEndian, &s)
		return err
	}
	if len(b) == 0 {
		return nil, nil
	}
	if err := at(int(f.header.Shstrndx)); err != nil {
		return nil, errELF
	}
	names, err := f.bytes(s.Off, s.Size, maxSection)
	if err != nil {
		return nil, err
	}
	for i := range int(f.header.Shnum) {
		if err := at(i); err != nil {
			return nil, err
		}
		if uint64(s.Name) >= uint64(len(names)) {
			continue
		}
		n, _, _ := bytes.Cut(names[s.Name:], []byte{0})
		if string(n) == name && elf.SectionType(s.Type) != elf.SHT_NOBITS {
			return f.bytes(s.Off, s.Size, maxSection)
		}
	}
	return nil, nil
}

// HostArch is the architecture of this host, as uname -m.
func HostArch() string {
	switch runtime.GOARCH {
	case "amd64":
		return "x86_64"
	case "arm64":
		return "aarch64"
	}
	return runtime.GOARCH
}

// CheckHost checks that a kernel for arch, as uname -m, can run on this host.
// The error is Unsupported.
func CheckHost(arch string) error {
	host := HostArch()
	if arch == host {
		return nil
	}
	return banger.Errorf(banger.Unsupported, "the kernel is for %s, this host is %s", arch, host).
		WithHint("take a kernel for %s: banger kernel ls --available", host)
}
