package hello

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// ReadConnect reads the line "CONNECT <port>\n" that begins a stream, and not
// a byte more. The form is Firecracker's, docs/vsock.md.
func ReadConnect(r io.Reader) (port uint32, err error) {
	return readPort(r, "CONNECT ")
}

// ReadOK reads the line "OK <port>\n" that answers it, and not a byte more. An
// io.EOF means that the guest has nothing on that port.
func ReadOK(r io.Reader) (port uint32, err error) {
	return readPort(r, "OK ")
}

func readPort(r io.Reader, word string) (uint32, error) {
	var line [len("CONNECT 4294967295\n")]byte
	for n := range line {
		if _, err := io.ReadFull(r, line[n:n+1]); err != nil {
			return 0, fmt.Errorf("read %s: %w", word[:len(word)-1], err)
		}
		if line[n] != '\n' {
			continue
		}
		digits, ok := bytes.CutPrefix(line[:n], []byte(word))
		port, err := strconv.ParseUint(string(digits), 10, 32)
		if !ok || err != nil {
			return 0, fmt.Errorf("read %s: got %q", word[:len(word)-1], line[:n])
		}
		return uint32(port), nil
	}
	return 0, errors.New("read " + word[:len(word)-1] + ": line too long")
}
