package main

import (
	"bytes"
	"debug/elf"
	"errors"
	"io"
)

// readBuildID reads the Go build ID from the note section .note.go.buildid of
// an ELF file: sizes of name and description, type 4, "Go\x00\x00", the ID.
// Source: cmd/internal/buildid/note.go of the Go distribution.
func readBuildID(r io.ReaderAt) (string, error) {
	f, err := elf.NewFile(r)
	if err != nil {
		return "", err
	}
	section := f.Section(".note.go.buildid")
	if section == nil {
		return "", errors.New("no build ID")
	}
	note, err := section.Data()
	if err != nil {
		return "", err
	}
	const header = 16
	if len(note) < header || !bytes.Equal(note[12:15], []byte("Go\x00")) {
		return "", errors.New("bad build ID note")
	}
	n := f.ByteOrder.Uint32(note[4:])
	if int(n) > len(note)-header {
		return "", errors.New("bad build ID note")
	}
	return string(note[header : header+n]), nil
}
