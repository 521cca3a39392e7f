package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"

	"golang.org/x/crypto/ssh"

	"banger"
	"banger/internal/hello"
)

// Mount has the guest mount what serve begins to serve on the stream that it is
// given, as 9P2000.L; it must not wait. The stream lasts as long as the mount,
// whatever becomes of the client; without a mount it ends. That the guest cannot
// mount it is Invalid, any other failure Unavailable.
func (c *Client) Mount(ctx context.Context, m hello.Mount, serve func(net.Conn)) error {
	defer c.guard(ctx)()
	err := c.mount(ctx, m, serve)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return err
}

func (c *Client) mount(ctx context.Context, m hello.Mount, serve func(net.Conn)) error {
	ch, reqs, err := c.session()
	if err != nil {
		return err
	}
	defer ch.Close()
	go ssh.DiscardRequests(reqs)
	if err := ask(ch, "subsystem", ssh.Marshal(struct{ Name string }{hello.MountSubsystem})); err != nil {
		return err
	}
	line, err := json.Marshal(m)
	if err != nil {
		return err
	}
	answers := bufio.NewReaderSize(io.LimitReader(ch, 2*hello.MaxMount), hello.MaxMount)
	if _, err := ch.Write(append(line, '\n')); err != nil {
		return unanswered(err)
	}
	var t hello.MountTicket
	if err := c.answer(ch, answers, &t); err != nil {
		return err
	}
	stream, err := connect(ctx, c.socket, hello.DataPort)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(stream, "%.*s\n", hello.TokenSize, t.Token); err != nil {
		_ = stream.Close()
		return unanswered(err)
	}
	serve(stream)
	var res hello.MountResult
	if err = c.answer(ch, answers, &res); err == nil && res.Error != "" {
		err = banger.Errorf(banger.Invalid, "%s", clean(res.Error))
	}
	if err != nil {
		_ = stream.Close()
	}
	return err
}
