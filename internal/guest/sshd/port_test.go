package sshd

import (
	"context"
	"errors"
	"io"
	"os"
	"testing"
	"time"
)

func TestOpenPortWaits(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := OpenPort(ctx, "banger.test"); !errors.Is(err, os.ErrNotExist) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// The master of a terminal stands in for the port: as long as nobody has the
// other side open, poll gives POLLHUP there too.
func TestWaitHost(t *testing.T) {
	tt, err := openTTY()
	if err != nil {
		t.Fatal(err)
	}
	port, err := newPort(tt.master)
	if err != nil {
		t.Fatal(err)
	}
	defer port.Close()
	if err := port.WaitHost(t.Context()); err != nil { // connected
		t.Fatal(err)
	}
	tt.slave.Close()
	why := errors.New("enough")
	for range 2 { // the wake-up of the first is gone at the second
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(30*time.Millisecond, func() { cancel(why) })
		began := time.Now()
		if err := port.WaitHost(ctx); !errors.Is(err, why) || time.Since(began) < 20*time.Millisecond {
			t.Errorf("got %v after %v", err, time.Since(began))
		}
	}
	done := make(chan error)
	go func() { done <- port.WaitHost(t.Context()) }()
	slave, err := os.OpenFile(tt.name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	_, _ = io.WriteString(slave, "hello\n")
	if err := <-done; err != nil {
		t.Error(err)
	}
}
