package agent

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"banger"
	"banger/internal/hello"
)

func TestDetach(t *testing.T) {
	noLeaks(t)
	r := newRig(t)
	r.boot()
	c := r.dial()
	id, _, err := c.Detach(t.Context(), Request{Argv: []string{"sh", "-c", "echo out; echo err >&2; exit 9"}})
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	exit, err := c.Attach(t.Context(), id, &out, &errs)
	if err != nil || exit.Code != 9 || out.String() != "out\n" || errs.String() != "err\n" {
		t.Errorf("%+v, %v, %q, %q", exit, err, out.String(), errs.String())
	}
	jobs, err := c.Jobs(t.Context())
	if err != nil || len(jobs) != 1 || jobs[0].ID != id || jobs[0].Code != 9 || !strings.HasPrefix(jobs[0].Command, "sh -c echo out") {
		t.Errorf("%+v, %v", jobs, err)
	}
	if _, exit, err := c.Detach(t.Context(), Request{Argv: []string{"/no/such"}}); exit.Code != 127 || err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("%+v, %v", exit, err)
	}
	exit, err = c.Run(t.Context(), Request{Argv: []string{"sleep", "1000"}, Timeout: 50 * time.Millisecond})
	if err != nil || exit.Code != hello.TimedOut {
		t.Errorf("%+v, %v", exit, err)
	}
	id, _, err = c.Detach(t.Context(), Request{Argv: []string{"sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(50*time.Millisecond, func() { cancel(errors.New("enough")) })
	if _, err := c.Attach(ctx, id, nil, nil); err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("error %v", err)
	}
	if err := r.stop(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// What a guest claims as an ID is one, or nothing.
func TestHostile_16Detach(t *testing.T) {
	r := newRig(t)
	fakeGuest(t, r, func(ch ssh.Channel, reqs <-chan *ssh.Request) {
		_ = (<-reqs).Reply(true, nil)
		go ssh.DiscardRequests(reqs)
		_, _ = ch.Write([]byte("\x1b]0;owned\x07" + strings.Repeat("x", 100_000)))
		_, _ = ch.SendRequest("exit-status", false, []byte{0, 0, 0, 0})
		ch.Close()
	})
	id, _, err := r.dial().Detach(t.Context(), Request{Argv: []string{"x"}})
	if id == "" || err == nil {
		if !banger.IsKind(err, banger.Unavailable) || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%v", err)
		}
		return
	}
	t.Errorf("took %q", id)
}
