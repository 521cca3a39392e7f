// Package parcel is files on their way into or out of a guest: packed into a tar stream, and unpacked below one pinned folder.
//
// Unpack believes nothing that it reads: the stream may be a hostile guest's.
package parcel

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// Limits of what a stream may hold, in bytes.
const (
	maxName = 4095     // of a path, as the kernel has it
	maxLink = 4095     // of a symlink's target
	maxBook = 64 << 20 // of what is remembered of folders until all is in them
	// maxPadding is what may stand behind the end of a stream: tar fills up a record.
	maxPadding = 1 << 20
	maxPieces  = 20_000 // of a file with holes: their list has to fit into a PAX header, 1 MiB for package tar
)

// sparseKey is the PAX record of a file with holes: "size;offset,length;...".
// The entry's data are the pieces alone. GNU's own form would be expanded by
// package tar, whatever the size that a hostile stream gives.
const sparseKey = "BANGER.sparse"

// Report is what became of a copy.
type Report struct {
	Files int64 `json:"files"` // of any kind, folders included
	Bytes int64 `json:"bytes"` // of data, without holes
	// Skipped counts what cannot be copied: devices, sockets, pipes, and the
	// kernel's own file systems. First is the first of them.
	Skipped int64  `json:"skipped,omitempty"`
	First   string `json:"first,omitempty"`
	// Shrunk is the first file that became shorter while it was read, and was
	// filled up with zeros.
	Shrunk string `json:"shrunk,omitempty"`
}

func (r *Report) skip(name string) {
	if r.Skipped++; r.First == "" {
		r.First = name
	}
}

// piece is a part of a file that is no hole.
type piece struct{ offset, length int64 }

// sparse is where the data of a file with holes lie.
type sparse struct {
	size   int64
	pieces []piece
}

func (s sparse) String() string {
	var b strings.Builder
	b.WriteString(strconv.FormatInt(s.size, 10))
	for _, p := range s.pieces {
		fmt.Fprintf(&b, ";%d,%d", p.offset, p.length)
	}
	return b.String()
}

// data is the sum of the pieces.
func (s sparse) data() (n int64) {
	for _, p := range s.pieces {
		n += p.length
	}
	return n
}

var errSparse = errors.New("malformed list of holes")

// parseSparse reads the record. Its pieces are in order, apart and inside of the file.
func parseSparse(text string) (s sparse, err error) {
	first, rest, more := strings.Cut(text, ";")
	if s.size, err = strconv.ParseInt(first, 10, 64); err != nil || s.size < 0 {
		return s, errSparse
	}
	var end int64
	for more {
		var word string
		word, rest, more = strings.Cut(rest, ";")
		a, b, _ := strings.Cut(word, ",")
		offset, err1 := strconv.ParseInt(a, 10, 64)
		length, err2 := strconv.ParseInt(b, 10, 64)
		if err1 != nil || err2 != nil || offset < end || length <= 0 || length > s.size-offset || len(s.pieces) == maxPieces {
			return s, errSparse
		}
		end = offset + length
		s.pieces = append(s.pieces, piece{offset, length})
	}
	return s, nil
}

// SourceName is the last name of a source's path, which it keeps in a folder;
// empty where the path means what is in a folder: "/", ".", "dir/.".
func SourceName(path string) string {
	if path == "." || path == ".." || strings.HasSuffix(path, "/.") || strings.HasSuffix(path, "/..") {
		return ""
	}
	name := filepath.Base(path)
	if name == "/" || name == "." {
		return ""
	}
	return name
}
