package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"banger"
	"banger/internal/vmm"
)

// The sockets in Spec.RunDir. They are bound here and inherited by QEMU as
// listening descriptors: they can be dialled before QEMU runs, and again by path
// from another process should this one end before QEMU does.
const (
	qmpSocket   = "qmp.sock"
	agentSocket = vmm.AgentSocket
)

// maxSocketPath is what sun_path holds with its final zero byte: unix(7).
const maxSocketPath = 107

// listener is one bound socket, ready to be inherited.
type listener struct {
	path string
	file *os.File
}

// listen binds a socket in dir. One that was left by a dead VMM is replaced, one
// that still answers is a Conflict.
func listen(dir, name string) (*listener, error) {
	path := filepath.Join(dir, name)
	if len(path) > maxSocketPath {
		return nil, banger.Errorf(banger.Invalid, "run directory %q: its sockets' paths are longer than %d bytes", dir, maxSocketPath)
	}
	addr := &net.UnixAddr{Name: path, Net: "unix"}
	ln, err := net.ListenUnix("unix", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		var conn net.Conn
		if conn, err = net.Dial("unix", path); err == nil {
			_ = conn.Close()
			return nil, banger.Errorf(banger.Conflict, "run directory %q: a machine runs there already", dir)
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, fmt.Errorf("probe old socket: %w", err)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove old socket: %w", err)
		}
		ln, err = net.ListenUnix("unix", addr)
	}
	if err != nil {
		return nil, fmt.Errorf("bind socket: %w", err)
	}
	defer ln.Close()
	ln.SetUnlinkOnClose(false) // the duplicate in file lives on
	file, err := ln.File()
	if err != nil {
		_ = os.Remove(path)
		return nil, fmt.Errorf("duplicate socket: %w", err)
	}
	return &listener{path, file}, nil
}

// release closes our descriptor; QEMU has its own by then, or will never have one.
func (l *listener) release() { _ = l.file.Close() }

func (l *listener) remove() { _ = os.Remove(l.path) }

// seat admits one client at a time to the agent's stream.
type seat struct {
	path string
	mu   sync.Mutex
	used bool
}

func (s *seat) dial(ctx context.Context) (net.Conn, error) {
	s.mu.Lock()
	taken := s.used
	s.used = true
	s.mu.Unlock()
	if taken {
		// QEMU would leave a second client waiting without a word.
		return nil, banger.Errorf(banger.Conflict, "dial agent port: it has a client already")
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", s.path)
	if err != nil {
		s.free()
		return nil, banger.Errorf(banger.Unavailable, "dial agent port: %w", err)
	}
	return &seatConn{UnixConn: conn.(*net.UnixConn), free: sync.OnceFunc(s.free)}, nil
}

func (s *seat) free() {
	s.mu.Lock()
	s.used = false
	s.mu.Unlock()
}

// seatConn gives its seat back when it is closed.
type seatConn struct {
	*net.UnixConn
	free func()
}

func (c *seatConn) Close() error {
	err := c.UnixConn.Close()
	c.free()
	return err
}
