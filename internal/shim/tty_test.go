package shim

import (
	"bytes"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"banger/internal/state"
)

// Viewers see what the guest says from then on, all of them type, and one that
// does not read holds up neither the guest nor the others nor the end.
func TestTTY(t *testing.T) {
	dir := t.TempDir()
	tt, err := openTTY(dir)
	if err != nil {
		t.Fatal(err)
	}
	dial := func() net.Conn {
		c, err := net.Dial("unix", filepath.Join(dir, state.TTYSocket))
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(8 * time.Second))
		t.Cleanup(func() { c.Close() })
		return c
	}
	viewers := func(n int) {
		t.Helper()
		for end := time.Now().Add(8 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			tt.mu.Lock()
			got := len(tt.viewers)
			tt.mu.Unlock()
			if got == n {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%d viewers, want %d", got, n)
			}
		}
	}
	_, _ = tt.Write([]byte("before"))
	stuck, one, two := dial(), dial(), dial()
	viewers(3)
	for i, c := range []net.Conn{one, two} {
		key := []byte{byte('a' + i)}
		if _, err := c.Write(key); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 1)
		if _, err := io.ReadFull(tt.input, got); err != nil || !bytes.Equal(got, key) {
			t.Fatalf("typed %q, %v", got, err)
		}
	}
	_, _ = tt.Write([]byte("hello"))
	for _, c := range []net.Conn{one, two} {
		got := make([]byte, 5)
		if _, err := io.ReadFull(c, got); err != nil || string(got) != "hello" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	one.Close()
	viewers(2)
	flood := bytes.Repeat([]byte("x"), 64<<10)
	for range 2 * viewerQueue { // returns, though nobody reads
		_, _ = tt.Write(flood)
	}
	for range maxViewers {
		dial()
	}
	viewers(maxViewers)
	go func() { _, _ = io.Copy(io.Discard, two) }()
	stuck.Close()
	tt.close()
	if _, err := net.Dial("unix", filepath.Join(dir, state.TTYSocket)); err == nil {
		t.Error("the socket is still there")
	}
}
