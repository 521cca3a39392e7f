package shim

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"sync"
	"time"
)

// Client is the daemon's connection to one shim.
type Client struct {
	c   net.Conn
	dec *json.Decoder
	mu  sync.Mutex
}

// Dial connects to the shim that listens at path.
func Dial(ctx context.Context, path string) (*Client, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("reach the shim: %w", err)
	}
	return &Client{c: c, dec: json.NewDecoder(c)}, nil
}

// Next waits for the next status. An error means that the shim is gone.
func (c *Client) Next() (Status, error) {
	var s Status
	if err := c.dec.Decode(&s); err != nil {
		return s, fmt.Errorf("hear from the shim: %w", err)
	}
	return s, nil
}

// Stop asks for the end of the machine: gently, and after grace by force.
func (c *Client) Stop(grace time.Duration) error { return c.send(order{Stop: true, Grace: grace}) }

// Kill asks for the end of the machine now.
func (c *Client) Kill() error { return c.send(order{Kill: true}) }

// Pause stops the machine's virtual CPUs; the Status with the Answer of that id
// says what came of it.
func (c *Client) Pause(id int64) error { return c.send(order{ID: id, Pause: true}) }

// Resume lets them go on, in the same way.
func (c *Client) Resume(id int64) error { return c.send(order{ID: id, Go: true}) }

// Grow makes the machine's own disk larger, and the file system on it; the Status
// with the Answer of that id says what came of it.
func (c *Client) Grow(id, size int64) error { return c.send(order{ID: id, Grow: size}) }

// Traffic asks for the machine's counters; the Status with the Traffic of that id has them.
func (c *Client) Traffic(id int64) error { return c.send(order{ID: id, Count: true}) }

func (c *Client) send(o order) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.c.SetWriteDeadline(time.Now().Add(5 * time.Second))
	if err := json.NewEncoder(c.c).Encode(o); err != nil {
		return fmt.Errorf("tell the shim: %w", err)
	}
	return nil
}

// Close hangs up; the machine goes on.
func (c *Client) Close() error { return c.c.Close() }
