package agent

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"banger/internal/hello"
)

// connection serves one connection to the CONNECT socket.
func (t *Transport) connection(ctx context.Context, c net.Conn) error {
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if err := c.SetDeadline(time.Now().Add(lineWait)); err != nil {
		return err
	}
	port, err := hello.ReadConnect(c)
	if err != nil {
		return err
	}
	mux, err := t.wait(ctx)
	if err != nil {
		return err
	}
	st, err := mux.Open()
	if err != nil {
		return err
	}
	over := make(chan struct{})
	defer close(over)
	go func() { // nothing else wakes a client that has nothing to say
		select {
		case <-mux.CloseChan():
			c.Close()
		case <-over:
		}
	}()
	if err := greet(c, st, port); err != nil {
		c.Close()
		end(st)
		return err
	}
	splice(c, st)
	return nil
}

// greet passes the CONNECT on and the answer back.
func greet(c, st net.Conn, port uint32) error {
	if err := st.SetDeadline(time.Now().Add(answerWait)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(st, "CONNECT %d\n", port); err != nil {
		return err
	}
	n, err := hello.ReadOK(st)
	if err != nil {
		return err
	}
	if err := st.SetDeadline(time.Time{}); err != nil {
		return err
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		return err
	}
	_, err = fmt.Fprintf(c, "OK %d\n", n)
	return err
}

// end closes a stream and waits until the guest has, too, or yamux has given
// the guest up (StreamCloseTimeout): only then its place in yamux is free.
func end(st net.Conn) {
	_ = st.SetReadDeadline(time.Time{})
	_ = st.Close()
	_, _ = io.Copy(io.Discard, st)
}

// splice copies both ways and passes on the end of each direction by itself;
// yamux lets a stream be read that was closed here.
func splice(c, st net.Conn) {
	var up sync.WaitGroup
	up.Go(func() {
		// Not io.Copy: it would leave the size of the pieces to c.
		_, _ = io.CopyBuffer(struct{ io.Writer }{st}, struct{ io.Reader }{c}, make([]byte, hello.MaxFrame))
		_ = st.Close()
	})
	_, err := io.Copy(c, st)
	if cw, ok := c.(interface{ CloseWrite() error }); ok && err == nil {
		err = cw.CloseWrite()
	}
	if err != nil {
		c.Close() // the client is gone
		end(st)
	}
	up.Wait()
}
