package shim

import (
	"fmt"
	"os"
	"sync"

	"banger/internal/state"
)

// consoleMax is the size at which the console log is put aside: the two files
// together never hold more than twice that, whatever a guest prints.
const consoleMax = 1 << 20

// console is the bounded log of a serial console: path and, once that was full, path.1.
type console struct {
	mu   sync.Mutex
	path string
	f    *os.File
	size int64
}

// openConsole begins a new log; what an earlier run of the VM left is put aside.
func openConsole(path string) (*console, error) {
	c := &console{path: path}
	if err := c.rotate(); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *console) rotate() error {
	if c.f != nil {
		_ = c.f.Close()
	}
	if err := os.Rename(c.path, c.path+state.RotatedSuffix); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("rotate console log: %w", err)
	}
	f, err := os.OpenFile(c.path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("open console log: %w", err)
	}
	c.f, c.size = f, 0
	return nil
}

// Write never fails: a full host disk must not stop a guest's console.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.size+int64(len(p)) > consoleMax && c.size > 0 {
		_ = c.rotate()
	}
	n, _ := c.f.Write(p)
	c.size += int64(n)
	return len(p), nil
}

func (c *console) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.f.Close()
}
