package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"
	"unicode"
	"unicode/utf8"

	"banger/internal/state"
)

// maxPast bounds what is read of one log: the shim keeps a MiB of each.
const maxPast = 4 << 20

// printPast prints the last lines since a time, of the log that was put aside and
// of the one that f is, and leaves f at its end.
func printPast(w io.Writer, f *os.File, path string, tail int, since time.Time) error {
	times := filepath.Join(filepath.Dir(path), state.ConsoleTimes)
	var all []byte
	if old, err := os.Open(path + state.RotatedSuffix); err == nil {
		b, rerr := io.ReadAll(io.LimitReader(old, maxPast))
		_ = old.Close()
		if rerr != nil {
			return fmt.Errorf("read console log: %w", rerr)
		}
		all = sinceTime(b, times+state.RotatedSuffix, since)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxPast))
	if err != nil {
		return fmt.Errorf("read console log: %w", err)
	}
	_, err = w.Write(lastLines(append(all, sinceTime(b, times, since)...), tail))
	return err
}

// sinceTime is the part of a log that came since a time, to the second, from the
// beginning of a line on. times is the file of when its bytes came.
func sinceTime(log []byte, times string, since time.Time) []byte {
	if since.IsZero() {
		return log
	}
	f, err := os.Open(times)
	if err != nil {
		return log // nobody knows, so better all
	}
	defer f.Close()
	marks, err := io.ReadAll(io.LimitReader(f, maxPast))
	if err != nil {
		return log
	}
	for line := range bytes.Lines(marks) {
		when, offset, _ := bytes.Cut(bytes.TrimSpace(line), []byte(" "))
		ms, err1 := strconv.ParseInt(string(when), 10, 64)
		at, err2 := strconv.ParseInt(string(offset), 10, 64)
		if err1 != nil || err2 != nil || at < 0 || at > int64(len(log)) {
			continue
		}
		// What came within a second after a mark has none of its own.
		if ms > since.Add(-time.Second).UnixMilli() {
			return log[bytes.LastIndexByte(log[:at], '\n')+1:]
		}
	}
	return nil
}

// lastLines is the last n lines, all if n is negative.
func lastLines(b []byte, n int) []byte {
	if n < 0 {
		return b
	}
	at := len(b)
	for range n {
		if at = bytes.LastIndexByte(bytes.TrimSuffix(b[:at], []byte("\n")), '\n') + 1; at == 0 {
			break
		}
	}
	return b[at:]
}

// escaper shows the control bytes of a guest's text, so that none reaches the
// terminal. A return before a newline, as serial lines have it, is left out.
type escaper struct {
	w    io.Writer
	kept []byte // what may be the beginning of a character, or a return
}

func (e *escaper) Write(p []byte) (int, error) {
	text := append(e.kept, p...)
	e.kept = nil
	var out []byte
	for len(text) > 0 {
		if text[0] == '\r' && len(text) == 1 || !utf8.FullRune(text) {
			e.kept = bytes.Clone(text)
			break
		}
		r, n := utf8.DecodeRune(text)
		switch {
		case r == '\r' && text[1] == '\n':
		case r == '\n' || r == '\t' || r != utf8.RuneError && unicode.IsPrint(r):
			out = append(out, text[:n]...)
		default:
			for _, b := range text[:n] {
				out = fmt.Appendf(out, `\x%02x`, b)
			}
		}
		text = text[n:]
	}
	if _, err := e.w.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}
