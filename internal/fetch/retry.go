package fetch

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	defaultTries = 3
	defaultPause = 500 * time.Millisecond
	// maxRetryAfter is how long a server may ask to be left alone before that
	// counts as "not now": nobody waits at a progress bar that does not move.
	maxRetryAfter = 30 * time.Second
)

// Retry says how often and how patiently something is tried again. The zero
// value is three tries, half a second and two seconds apart.
type Retry struct {
	Tries int           // without progress, default 3
	Pause time.Duration // before the second try; each next one is four times as long

	wait func(ctx context.Context, d time.Duration) error // tests replace it
}

// Do calls do until it succeeds, fails in a way that trying again does not
// mend, or has failed Tries times. Failing to connect is final: an absent
// server must be known within seconds, so that another source gets its turn.
func (r Retry) Do(ctx context.Context, do func() error) error {
	for try := 1; ; try++ {
		err := do()
		if err == nil {
			return nil
		}
		if !transient(ctx, err, false) {
			return err
		}
		if err := r.again(ctx, try, err); err != nil {
			return err
		}
	}
}

// again waits for the next try after a transient fault, or returns the error
// to give up with.
func (r Retry) again(ctx context.Context, try int, err error) error {
	tries := r.Tries
	if tries <= 0 {
		tries = defaultTries
	}
	if try >= tries {
		return fmt.Errorf("%w (tried %d times)", bare(err), try)
	}
	pause := r.Pause
	if pause <= 0 {
		pause = defaultPause
	}
	pause <<= 2 * min(max(try-1, 0), 8)
	if asked := retryAfter(err, time.Now()); asked > maxRetryAfter {
		return fmt.Errorf("%w (it asks to come back in %s)", bare(err), asked.Round(time.Second))
	} else if asked > pause {
		pause = asked
	}
	if r.wait != nil {
		return r.wait(ctx, pause)
	}
	return sleep(ctx, pause)
}

// sleep waits before another try: nothing tells when a server recovers.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// retryAfter is how long an answer asks to wait, 0 if it does not. Source: RFC
// 9110, 10.2.3: seconds, or a date.
func retryAfter(err error, now time.Time) time.Duration {
	s := statusOf(err)
	if s == nil {
		return 0
	}
	v := strings.TrimSpace(s.Header.Get("Retry-After"))
	if n, err := strconv.ParseInt(v, 10, 32); err == nil {
		return max(time.Duration(n)*time.Second, 0)
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(t.Sub(now), 0)
	}
	return 0
}
