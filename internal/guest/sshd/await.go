package sshd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"banger/internal/hello"
)

// Nothing tells the agent that a program has begun to listen, so it looks again
// and again, the longer it takes the less often.
const (
	firstLook = 10 * time.Millisecond
	lastLook  = 500 * time.Millisecond
)

// await waits for what the client names, for as long as that wants to know.
func (s *session) await() error {
	want, err := readLine(s.ch, hello.MaxAwait)
	if err != nil || s.conn.srv.Look == nil {
		return errors.Join(errors.New("wait: this machine has no way to"), err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		defer cancel()
		_, _ = io.Copy(io.Discard, s.ch) // until the client closes it
	}()
	last := ""
	for wait := firstLook; ; wait = min(2*wait, lastLook) {
		seen, err := s.conn.srv.Look(ctx, want)
		if err != nil {
			return fmt.Errorf("wait for %s: %w", want, err)
		}
		if seen == "" {
			return nil
		}
		if seen != last {
			last = seen
			if _, err := fmt.Fprintf(s.ch, "%.200s\n", seen); err != nil {
				return err
			}
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", want, ctx.Err())
		}
	}
}
