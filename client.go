package banger

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
)

// APIVersion is the first element of every path of the daemon's API. It stays
// "v0" until the API is promised.
const APIVersion = "v0"

// maxAnswer bounds an answer. What all catalogs offer may be some tens of megabytes.
const maxAnswer = 64 << 20

// Client talks to the daemon over its unix socket. It is safe for concurrent use.
type Client struct {
	Socket string // path of the daemon's socket

	once sync.Once
	http *http.Client
}

// Event is one line of a streamed answer: lines of progress, or the items of a
// list that grows, then one result or error.
type Event struct {
	Progress *Progress       `json:"progress,omitempty"`
	Item     json.RawMessage `json:"item,omitempty"`
	Result   json.RawMessage `json:"result,omitempty"`
	Error    *Error          `json:"error,omitempty"`
}

// Call asks the daemon for the named operation, for instance "vm.show". in and
// out may be nil. The error is an *Error with the kind that the daemon gave.
func (c *Client) Call(ctx context.Context, name string, in, out any) error {
	resp, err := c.post(ctx, name, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(discard(out)); err != nil {
		return unreachable(ctx, name, err)
	}
	return nil
}

// leastItem is about the size of a short item of a list, in bytes. Room for more
// than there are costs nothing: what is not written to is not there.
const leastItem = 128

// callList is Call for an answer that is a list. It is decoded while it comes,
// one item after the other, and never in memory as a whole.
func callList[T any](ctx context.Context, c *Client, name string, in any) ([]T, error) {
	resp, err := c.post(ctx, name, in)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	room := min(max(resp.ContentLength, 0), maxAnswer) / leastItem
	list, err := decodeList(json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)), make([]T, 0, room))
	if err != nil {
		return nil, unreachable(ctx, name, err)
	}
	return list, nil
}

func decodeList[T any](dec *json.Decoder, list []T) ([]T, error) {
	if t, err := dec.Token(); err != nil || t != json.Delim('[') {
		return nil, cmp.Or(err, fmt.Errorf("the answer is no list"))
	}
	for dec.More() {
		list = append(list, *new(T))
		if err := dec.Decode(&list[len(list)-1]); err != nil {
			return nil, err
		}
	}
	_, err := dec.Token()
	return list, err
}

// Stream is Call for long work: progress is called for each step, if it is not nil.
func (c *Client) Stream(ctx context.Context, name string, in, out any, progress func(Progress)) error {
	return c.Feed(ctx, name, in, out, func(e Event) error {
		if e.Progress != nil && progress != nil {
			progress(*e.Progress)
		}
		return nil
	})
}

// Feed calls each for every line but the last one; an error of it ends the call.
func (c *Client) Feed(ctx context.Context, name string, in, out any, each func(Event) error) error {
	resp, err := c.post(ctx, name, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for dec := json.NewDecoder(resp.Body); ; {
		var e Event
		if err := dec.Decode(&e); err != nil {
			return unreachable(ctx, name, err)
		}
		switch {
		case e.Error != nil:
			return e.Error
		case e.Result != nil:
			return json.Unmarshal(e.Result, discard(out))
		}
		if err := each(e); err != nil {
			return err
		}
	}
}

// Close drops the connections that are kept for later calls.
func (c *Client) Close() {
	if c.http != nil {
		c.http.CloseIdleConnections()
	}
}

func (c *Client) post(ctx context.Context, name string, in any) (*http.Response, error) {
	c.once.Do(func() {
		dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", c.Socket)
		}
		// A list comes in few reads.
		c.http = &http.Client{Transport: &http.Transport{DialContext: dial, DisableCompression: true, ReadBufferSize: 32 << 10}}
	})
	body := []byte("{}")
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return nil, fmt.Errorf("encode %s: %w", name, err)
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://banger/"+APIVersion+"/"+name, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("ask for %s: %w", name, err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, unreachable(ctx, name, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	var e Event
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&e); err != nil || e.Error == nil {
		return nil, Errorf(Internal, "ask for %s: the daemon answered %s", name, resp.Status)
	}
	return nil, e.Error
}

// unreachable is the error of a call that got no answer.
func unreachable(ctx context.Context, name string, err error) error {
	if ctx.Err() != nil {
		return Errorf(Canceled, "%s: %w", name, context.Cause(ctx))
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return Errorf(Unavailable, "%s: the daemon went away before it answered", name).
			WithHint("see what became of it: banger vm ls")
	}
	return Errorf(Unavailable, "reach the daemon: %w", err).WithHint("banger daemon")
}

// discard gives Decode a place for a result nobody wants.
func discard(out any) any {
	if out == nil {
		return new(json.RawMessage)
	}
	return out
}
