package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/crypto/ssh"

	"banger"
	"banger/internal/hello"
	"banger/internal/parcel"
)

// CopyTo has the guest unpack a tar stream as the user (user[:group], empty is
// root). When ctx ends, its cause is the error, and the guest stops.
func (c *Client) CopyTo(ctx context.Context, user string, to parcel.Target, data io.Reader) (parcel.Report, error) {
	return c.copy(ctx, parcel.Order{User: user, Unpack: &to}, func(nc net.Conn) error {
		_, err := io.CopyBuffer(&onlyWriter{nc}, &source{r: data}, make([]byte, hello.MaxFrame))
		if err == nil {
			err = nc.(interface{ CloseWrite() error }).CloseWrite()
		}
		if own := (*sourceError)(nil); errors.As(err, &own) {
			return own.error
		}
		return nil // the guest has hung up, and says why
	})
}

// CopyFrom has the guest pack files as the user, and gives the tar stream to
// use, which must not believe any of it.
func (c *Client) CopyFrom(ctx context.Context, user string, from parcel.Source, use func(io.Reader) error) (parcel.Report, error) {
	return c.copy(ctx, parcel.Order{User: user, Pack: &from}, func(nc net.Conn) error { return use(nc) })
}

// onlyWriter hides what io.Copy would use instead of its buffer.
type onlyWriter struct{ io.Writer }

// source marks the errors of what is read, to tell them from those of the guest.
type source struct{ r io.Reader }

type sourceError struct{ error }

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		err = &sourceError{err}
	}
	return n, err
}

func (c *Client) copy(ctx context.Context, o parcel.Order, move func(net.Conn) error) (parcel.Report, error) {
	defer c.guard(ctx)()
	report, err := c.transfer(ctx, o, move)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return report, err
}

// transfer orders a copy and moves its data.
func (c *Client) transfer(ctx context.Context, o parcel.Order, move func(net.Conn) error) (none parcel.Report, err error) {
	ch, reqs, err := c.session()
	if err != nil {
		return none, err
	}
	defer ch.Close()
	go ssh.DiscardRequests(reqs)
	if err := ask(ch, "subsystem", ssh.Marshal(struct{ Name string }{hello.CopySubsystem})); err != nil {
		return none, err
	}
	line, err := json.Marshal(o)
	if err != nil {
		return none, err
	}
	if len(line) >= parcel.MaxOrder {
		return none, banger.Errorf(banger.Invalid, "copy: the names are too long")
	}
	answers := bufio.NewReaderSize(io.LimitReader(ch, 2*parcel.MaxOrder), parcel.MaxOrder)
	if _, err := ch.Write(append(line, '\n')); err != nil {
		return none, unanswered(err)
	}
	var t parcel.Ticket
	if err := c.answer(ch, answers, &t); err != nil {
		return none, err
	}
	data, err := connect(ctx, c.socket, hello.DataPort)
	if err != nil {
		return none, err
	}
	defer data.Close()
	defer context.AfterFunc(ctx, func() { data.Close() })()
	if _, err := fmt.Fprintf(data, "%.*s\n", hello.TokenSize, t.Token); err != nil {
		return none, unanswered(err)
	}
	return c.finish(ch, answers, data, move)
}

// finish moves the data and waits for the guest's last word.
func (c *Client) finish(ch ssh.Channel, answers *bufio.Reader, data net.Conn, move func(net.Conn) error) (parcel.Report, error) {
	var res parcel.Result
	told, moved := make(chan error, 1), make(chan error, 1)
	go func() {
		err := c.answer(ch, answers, &res)
		if err == nil && res.Error != "" {
			err = banger.Errorf(banger.Invalid, "%s", clean(res.Error))
		}
		if err != nil {
			data.Close() // it takes, or gives, no more
		}
		told <- err
	}()
	go func() {
		err := move(data)
		if err != nil && !cutOff(err) {
			data.Close()
			ch.Close() // the guest need not go on
		}
		moved <- err
	}()
	here, there := <-moved, <-told
	res.Report.First, res.Report.Shrunk = clean(res.Report.First), clean(res.Report.Shrunk)
	if here != nil && (there == nil || !cutOff(here)) {
		return res.Report, here
	}
	return res.Report, there
}

// cutOff reports whether an error may be that the guest stopped sending.
func cutOff(err error) bool {
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed)
}

func unanswered(err error) error {
	return banger.Errorf(banger.Unavailable, "hear from the guest: %s", clean(err.Error()))
}

// answer reads one line of JSON. What the guest says on stderr instead is the error.
func (c *Client) answer(ch ssh.Channel, r *bufio.Reader, v any) error {
	line, err := r.ReadSlice('\n')
	if err == nil {
		err = json.Unmarshal(line, v)
	}
	if err == nil {
		return nil
	}
	if errors.Is(err, io.EOF) {
		words, _ := io.ReadAll(io.LimitReader(ch.Stderr(), maxText))
		if text := said(words); text != "" {
			return banger.Errorf(banger.Invalid, "%s", text)
		}
		err = errors.New("the connection broke")
	}
	return unanswered(err)
}
