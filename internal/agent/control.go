package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"banger"
	"banger/internal/hello"
)

// maxAnswer bounds what a subsystem of ours may answer, in bytes.
const maxAnswer = 64 << 10

// Health asks the agent how its machine is. Its texts are made printable.
func (c *Client) Health(ctx context.Context) (hello.Health, error) {
	out, err := c.subsystem(ctx, hello.HealthSubsystem, "")
	if err != nil {
		return hello.Health{}, fmt.Errorf("ask for the guest's health: %w", err)
	}
	var h hello.Health
	if err := json.Unmarshal(out, &h); err != nil {
		return hello.Health{}, banger.Errorf(banger.Unavailable, "ask for the guest's health: %s", clean(err.Error()))
	}
	h.Version, h.Init = clean(h.Version), clean(h.Init)
	return h, nil
}

// Shutdown has the guest's init power the machine off or reboot it, as how is
// hello.Poweroff or hello.Reboot. It returns when the guest is on its way.
func (c *Client) Shutdown(ctx context.Context, how string) error {
	if _, err := c.subsystem(ctx, hello.ShutdownSubsystem, how+"\n"); err != nil {
		return fmt.Errorf("shut the guest down: %w", err)
	}
	return nil
}

// SetClock sets the guest's clock, whatever it is now.
func (c *Client) SetClock(ctx context.Context, now time.Time) error {
	if _, err := c.subsystem(ctx, hello.ClockSubsystem, strconv.FormatInt(now.UnixNano(), 10)+"\n"); err != nil {
		return fmt.Errorf("set the guest's clock: %w", err)
	}
	return nil
}

// Grow lets the file system of the machine's own disk have all of that.
func (c *Client) Grow(ctx context.Context) error {
	if _, err := c.subsystem(ctx, hello.GrowSubsystem, ""); err != nil {
		return fmt.Errorf("have the guest grow its file system: %w", err)
	}
	return nil
}

// subsystem runs a subsystem to its end and returns what it answered. What it
// says on stderr is its error. When ctx ends, the connection is closed.
func (c *Client) subsystem(ctx context.Context, name, input string) ([]byte, error) {
	defer c.guard(ctx)()
	out, err := c.converse(name, input)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return out, err
}

func (c *Client) converse(name, input string) ([]byte, error) {
	ch, reqs, err := c.session()
	if err != nil {
		return nil, err
	}
	defer ch.Close()
	if err := ask(ch, "subsystem", ssh.Marshal(struct{ Name string }{name})); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(ch, input); err != nil {
		return nil, banger.Errorf(banger.Unavailable, "%s", clean(err.Error()))
	}
	_ = ch.CloseWrite()
	var out, msg bytes.Buffer
	var copies sync.WaitGroup
	// What is over the bound stays unread and is held up by SSH's window, so
	// the channel is closed for both as soon as one has had its share.
	read := func(w *bytes.Buffer, r io.Reader) {
		if n, _ := io.Copy(w, io.LimitReader(r, maxAnswer)); n == maxAnswer {
			c.Close()
		}
	}
	copies.Go(func() { read(&out, ch) })
	copies.Go(func() { read(&msg, ch.Stderr()) })
	exit, ok := exitOf(reqs)
	copies.Wait()
	if !ok || exit.Code != 0 {
		text := said(msg.Bytes())
		if text == "" {
			text = "no answer"
		}
		return nil, banger.Errorf(banger.Unavailable, "%s", text)
	}
	return out.Bytes(), nil
}

// said is what a subsystem of ours says on stderr.
func said(b []byte) string {
	return clean(string(bytes.TrimPrefix(bytes.TrimSpace(b), []byte("banger: "))))
}
