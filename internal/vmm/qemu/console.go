package qemu

import (
	"bytes"
	"io"
	"strings"
	"sync"
	"unicode"
)

// tailSize is how much of QEMU's own error output is kept.
const tailSize = 4 << 10

// maxPanic bounds the line of the console that is looked at for a panic.
const maxPanic = 512

// panicMark begins the kernel's last words (linux/kernel/panic.c).
const panicMark = "Kernel panic - not syncing: "

// console copies the serial output to w and remembers the last panic line. It
// never fails, so that the guest's output never backs up for good.
type console struct {
	w     io.Writer // nil after its first error
	line  []byte    // the line so far, at most maxPanic bytes
	panic string    // the kernel's words
}

func (c *console) Write(p []byte) (int, error) {
	if c.w != nil {
		if _, err := c.w.Write(p); err != nil {
			c.w = nil
		}
	}
	for part := range bytes.Lines(p) {
		c.line = append(c.line, part[:min(len(part), maxPanic-len(c.line))]...)
		if part[len(part)-1] == '\n' {
			c.endLine()
		}
	}
	return len(p), nil
}

func (c *console) endLine() {
	if _, words, ok := bytes.Cut(c.line, []byte(panicMark)); ok {
		c.panic = printable(words)
	}
	c.line = c.line[:0]
}

// printable drops what could act on a terminal: the guest chose the bytes.
func printable(b []byte) string {
	s := strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, strings.ToValidUTF8(string(b), ""))
	return strings.TrimSpace(s)
}

// tail keeps the last tailSize bytes written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p[max(0, len(p)-tailSize):]...)
	if n := len(t.b) - tailSize; n > 0 {
		t.b = append(t.b[:0], t.b[n:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.ToValidUTF8(strings.TrimSpace(string(t.b)), "?")
}
