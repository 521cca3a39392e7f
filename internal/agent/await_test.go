package agent

import (
	"context"
	"errors"
	"strings"
	"testing"

	"banger"
)

// awaits gives a client of an agent that looks so.
func awaits(t *testing.T, look func(context.Context, string) (string, error)) *Client {
	t.Helper()
	r := newRig(t)
	r.look = look
	r.boot()
	return r.dial()
}

func TestAwait(t *testing.T) {
	n := 0
	c := awaits(t, func(_ context.Context, want string) (string, error) {
		answers := []string{"a", "a", "b\x1b[2J", ""}
		n++
		return answers[n-1], map[bool]error{true: errors.New("asked for " + want)}[want != "tcp:80"]
	})
	var seen []string
	if err := c.Await(t.Context(), "tcp:80", func(s string) { seen = append(seen, s) }); err != nil || strings.Join(seen, ",") != `a,b\x1b[2J` {
		t.Errorf("seen %q, %v", seen, err)
	}
}

func TestAwaitRefused(t *testing.T) {
	c := awaits(t, func(context.Context, string) (string, error) { return "", errors.New("no \x07such thing") })
	err := c.Await(t.Context(), "x", func(string) {})
	if !banger.IsKind(err, banger.Unavailable) || !strings.Contains(err.Error(), `wait for x: no \asuch thing`) {
		t.Errorf("got %v", err)
	}
}

// Who does not want to wait any longer does not, and the guest looks no more.
func TestAwaitGivenUp(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan struct{})
	c := awaits(t, func(look context.Context, _ string) (string, error) {
		select {
		case <-ended:
		default:
			context.AfterFunc(look, func() { close(ended) })
		}
		return "nothing", nil
	})
	enough := errors.New("enough")
	if err := c.Await(ctx, "tcp:80", func(string) { cancel(enough) }); !errors.Is(err, enough) {
		t.Errorf("got %v", err)
	}
	<-ended
}
