package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// maxMessage bounds one line of QMP. The longest that QEMU answers us is some
// hundred bytes; a VMM gone wrong must not fill our memory.
const maxMessage = 1 << 20

// writeTimeout is long: see qmp.write.
const writeTimeout = 5 * time.Second

// message is any one line that QEMU sends. Format: QEMU Machine Protocol
// Specification, docs/interop/qmp-spec.txt: one JSON object a line.
//
//	greeting {"QMP": {"version": {"qemu": {"major": 7, ...}}, "capabilities": [...]}}
//	reply    {"return": ..., "id": 1}  or  {"error": {"class": "", "desc": ""}, "id": 1}
//	event    {"event": "SHUTDOWN", "data": {...}, "timestamp": {...}}
type message struct {
	Greeting *struct {
		Version struct {
			QEMU    version `json:"qemu"`
			Package string  `json:"package"`
		} `json:"version"`
	} `json:"QMP"`
	Return json.RawMessage `json:"return"`
	Error  *qmpError       `json:"error"`
	ID     *int64          `json:"id"`
	Event  string          `json:"event"`
	Data   json.RawMessage `json:"data"`
}

type version struct {
	Major, Minor, Micro int
}

func (v version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Micro) }

// qmpError is QEMU's refusal of one command; the connection is still good.
type qmpError struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

func (e *qmpError) Error() string { return e.Desc }

func decodeMessage(line []byte) (message, error) {
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return message{}, fmt.Errorf("decode QMP message: %w", err)
	}
	kinds := 0
	for _, is := range []bool{m.Greeting != nil, m.Return != nil, m.Error != nil, m.Event != ""} {
		if is {
			kinds++
		}
	}
	if kinds != 1 {
		return message{}, fmt.Errorf("decode QMP message: want one of QMP, return, error and event, got %d", kinds)
	}
	return m, nil
}

// qmp is a client of one QEMU. Its methods may be called from any goroutine.
type qmp struct {
	conn    net.Conn
	onEvent func(name string, data json.RawMessage) // called by the reader, one at a time

	greeted  chan struct{} // closed when greeting is set
	greeting message

	writing sync.Mutex

	mu      sync.Mutex
	nextID  int64
	pending map[int64]chan message // replies waited for
	err     error                  // why the reader ended

	done chan struct{} // closed when the reader has ended
}

// newQMP takes over the connection; the reader runs until Close or its end.
func newQMP(conn net.Conn, onEvent func(string, json.RawMessage)) *qmp {
	c := &qmp{
		conn: conn, onEvent: onEvent,
		greeted: make(chan struct{}), pending: map[int64]chan message{}, done: make(chan struct{}),
	}
	go c.read()
	return c
}

func (c *qmp) read() {
	sc := bufio.NewScanner(c.conn)
	sc.Buffer(make([]byte, 4096), maxMessage)
	err := io.EOF
	for err == io.EOF && sc.Scan() {
		var m message
		if m, err = decodeMessage(sc.Bytes()); err == nil {
			err = c.handle(m)
		}
		if err == nil {
			err = io.EOF // so far
		}
	}
	if sc.Err() != nil {
		err = sc.Err()
	}
	_ = c.conn.Close()
	c.mu.Lock()
	c.err = err
	c.mu.Unlock()
	close(c.done)
}

func (c *qmp) handle(m message) error {
	switch {
	case m.Event != "":
		c.onEvent(m.Event, m.Data)
	case m.Greeting != nil:
		select {
		case <-c.greeted:
			return errors.New("second QMP greeting")
		default:
		}
		c.greeting = m
		close(c.greeted)
	case m.ID != nil:
		c.mu.Lock()
		reply := c.pending[*m.ID]
		delete(c.pending, *m.ID)
		c.mu.Unlock()
		if reply != nil {
			reply <- m // has room for the one reply
		}
	}
	// An error without an id answers a line that QEMU could not parse. We write
	// whole lines only, so nobody waits for it.
	return nil
}

// open waits for the greeting and leaves negotiation mode.
func (c *qmp) open(ctx context.Context) error {
	select {
	case <-c.greeted:
	case <-c.done:
		return c.ended()
	case <-ctx.Done():
		return fmt.Errorf("wait for QMP greeting: %w", context.Cause(ctx))
	}
	return c.execute(ctx, "qmp_capabilities", nil)
}

// execute is executeWith for a command without arguments.
func (c *qmp) execute(ctx context.Context, command string, result any) error {
	return c.executeWith(ctx, command, nil, result)
}

// executeWith runs one command and decodes what it returns into result, unless
// that is nil. A refusal of QEMU is a *qmpError.
func (c *qmp) executeWith(ctx context.Context, command string, arguments map[string]any, result any) error {
	reply := make(chan message, 1)
	c.mu.Lock()
	c.nextID++
	id := c.nextID
	c.pending[id] = reply
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.pending, id)
		c.mu.Unlock()
	}()
	line, err := json.Marshal(struct {
		Execute   string         `json:"execute"`
		Arguments map[string]any `json:"arguments,omitempty"`
		ID        int64          `json:"id"`
	}{command, arguments, id})
	if err != nil {
		return err
	}
	if err := c.write(append(line, '\n')); err != nil {
		return fmt.Errorf("QMP %s: %w", command, err)
	}
	select {
	case m := <-reply:
		if m.Error != nil {
			return fmt.Errorf("QMP %s: %w", command, m.Error)
		}
		if result == nil {
			return nil
		}
		if err := json.Unmarshal(m.Return, result); err != nil {
			return fmt.Errorf("QMP %s: decode reply: %w", command, err)
		}
		return nil
	case <-c.done:
		return fmt.Errorf("QMP %s: %w", command, c.ended())
	case <-ctx.Done():
		return fmt.Errorf("QMP %s: %w", command, context.Cause(ctx))
	}
}

// write sends one line. The socket holds thousands of them, so one that does
// not fit means a QEMU that reads nothing any more; half a line may be out then
// and the connection is of no more use.
func (c *qmp) write(line []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	err := c.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	if err == nil {
		_, err = c.conn.Write(line)
	}
	if err != nil {
		_ = c.conn.Close()
	}
	return err
}

// ended is why the connection is over. Only valid after done.
func (c *qmp) ended() error {
	if c.hungUp() {
		return errors.New("QEMU closed the connection")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// hungUp reports whether the connection ended as that of a VMM that ends does,
// not by a broken protocol. Only valid after done.
func (c *qmp) hungUp() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err == io.EOF || errors.Is(c.err, net.ErrClosed) || errors.Is(c.err, syscall.ECONNRESET)
}

// Close ends the connection and the reader. It is idempotent.
func (c *qmp) Close() {
	_ = c.conn.Close()
	<-c.done
}
