package state

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrLocked says that another process holds the lock.
var ErrLocked = errors.New("held by another process")

// FileLock is an advisory lock on a file that the kernel gives up with the process.
type FileLock struct{ f *os.File }

// LockFile takes the lock at path. Without wait a lock that is held is ErrLocked.
func LockFile(path string, wait bool) (*FileLock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, Classify(fmt.Errorf("lock: %w", err))
	}
	how := unix.LOCK_EX
	if !wait {
		how |= unix.LOCK_NB
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err == nil {
		return &FileLock{f}, nil
	}
	_ = f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = ErrLocked
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

// Unlock gives the lock up. A close alone would not, while a child that was
// just forked still has the descriptor.
func (l *FileLock) Unlock() {
	_ = unix.Flock(int(l.f.Fd()), unix.LOCK_UN)
	_ = l.f.Close()
}

// Keys is a set of locks by key, within one process. The zero value is ready.
type Keys struct {
	mu   sync.Mutex
	held map[string]chan struct{}
}

// TryLock takes the key if nobody has it, and returns the function that gives it
// up; else nil.
func (k *Keys) TryLock(key string) func() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.held[key]; ok {
		return nil
	}
	return k.take(key)
}

// take takes a key that nobody has; mu is held.
func (k *Keys) take(key string) func() {
	if k.held == nil {
		k.held = map[string]chan struct{}{}
	}
	done := make(chan struct{})
	k.held[key] = done
	return func() {
		k.mu.Lock()
		delete(k.held, key)
		k.mu.Unlock()
		close(done)
	}
}

// Lock waits for the key and returns the function that gives it up, or the
// context's error.
func (k *Keys) Lock(ctx context.Context, key string) (func(), error) {
	for {
		k.mu.Lock()
		busy, ok := k.held[key]
		if !ok {
			defer k.mu.Unlock()
			return k.take(key), nil
		}
		k.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
