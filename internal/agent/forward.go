package agent

import (
	"context"
	"errors"
	"net"

	"golang.org/x/crypto/ssh"

	"banger"
)

// Forward connects to a port ("tcp", host:port) or a socket ("unix", path) as
// seen in the guest. It is NotFound if nothing answers there, and Unavailable
// if the connection to the agent broke.
func (c *Client) Forward(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := c.ssh.DialContext(ctx, network, addr)
	var refused *ssh.OpenChannelError
	switch {
	case err == nil:
		return conn, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.As(err, &refused):
		return nil, banger.Errorf(banger.NotFound, "%s", clean(refused.Message))
	}
	return nil, banger.Errorf(banger.Unavailable, "reach the guest's agent: %s", clean(err.Error()))
}
