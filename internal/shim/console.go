package shim

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"banger/internal/state"
)

// consoleMax is the size at which the console log is put aside: the two files
// together never hold more than twice that, whatever a guest prints.
const consoleMax = 1 << 20

// markEvery is how often the times file gets a line, if something is printed.
const markEvery = time.Second

// timesMax is the size at which the log is put aside for its times: those of a
// guest that prints a byte a second would grow larger than what they are of.
const timesMax = 1 << 20

// console is the bounded log of a serial console: path and, once that was full,
// path.1. Beside each lies a file that says when its bytes came.
type console struct {
	mu        sync.Mutex
	path      string // of the log
	times     string
	f, t      *os.File
	size      int64
	timesSize int64
	marked    time.Time
}

// openConsole begins a new log; what an earlier run of the VM left is put aside.
func openConsole(path string) (*console, error) {
	c := &console{path: path, times: filepath.Join(filepath.Dir(path), state.ConsoleTimes)}
	if err := c.rotate(); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *console) rotate() error {
	f, err := putAside(c.path)
	if err != nil {
		return fmt.Errorf("rotate console log: %w", err)
	}
	t, err := putAside(c.times)
	if err != nil {
		_ = f.Close()
		return fmt.Errorf("rotate console log: %w", err)
	}
	c.close()
	c.f, c.t, c.size, c.timesSize, c.marked = f, t, 0, 0, time.Time{}
	return nil
}

// putAside gives a new file in the place of one, which gets another name.
func putAside(path string) (*os.File, error) {
	if err := os.Rename(path, path+state.RotatedSuffix); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
}

// Write never fails: a full host disk must not stop a guest's console.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if (c.size+int64(len(p)) > consoleMax || c.timesSize > timesMax) && c.size > 0 {
		if c.rotate() != nil {
			return len(p), nil // the next one may find room
		}
	}
	if now := time.Now(); now.Sub(c.marked) >= markEvery {
		n, _ := fmt.Fprintf(c.t, "%d %d\n", now.UnixMilli(), c.size)
		c.timesSize, c.marked = c.timesSize+int64(n), now
	}
	n, _ := c.f.Write(p)
	c.size += int64(n)
	return len(p), nil
}

func (c *console) close() error {
	if c.f == nil {
		return nil
	}
	_ = c.t.Close() // only the log counts
	return c.f.Close()
}

func (c *console) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.close()
}
