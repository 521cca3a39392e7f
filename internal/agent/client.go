package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"banger"
	"banger/internal/hello"
)

// dialWait bounds the way to an SSH connection if ctx does not: long, for
// under software emulation all is fifty times slower.
const dialWait = 90 * time.Second

// Options say who connects to whom.
type Options struct {
	User    string // to log in as; empty is root
	Signer  ssh.Signer
	HostKey ssh.PublicKey // the only one that the guest may show
}

// Client is an SSH connection to the agent of one guest.
type Client struct {
	ssh    *ssh.Client
	socket string // the CONNECT socket
}

// Connect connects to the SSH server of a guest through its CONNECT socket, for
// a client that is not ours. It is Unavailable if nothing answers there. When
// ctx ends first, its cause is in the error.
func Connect(ctx context.Context, socketPath string) (net.Conn, error) {
	return connect(ctx, socketPath, hello.SSHPort)
}

// connect opens a stream to one of the guest's ports.
func connect(ctx context.Context, socketPath string, port uint32) (net.Conn, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unix", socketPath)
	if err != nil {
		return nil, banger.Errorf(banger.Unavailable, "connect to the guest's agent: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	err = greeting(nc, port)
	if stop() && err == nil {
		return nc, nil
	}
	nc.Close()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return nil, banger.Errorf(banger.Unavailable, "connect to the guest's agent: %w", err)
}

func greeting(nc net.Conn, port uint32) error {
	if err := nc.SetDeadline(time.Now().Add(dialWait)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(nc, "CONNECT %d\n", port); err != nil {
		return err
	}
	if _, err := hello.ReadOK(nc); errors.Is(err, io.EOF) {
		return errNoSession
	} else if err != nil {
		return err
	}
	return nc.SetDeadline(time.Time{})
}

// DialRoot is Dial as root with the user's key, a file that is made if it is not
// there; the host key is a line of the authorized_keys format.
func DialRoot(ctx context.Context, socketPath, userKey, hostKey string) (*Client, error) {
	signer, err := LoadOrCreateUserKey(userKey)
	if err != nil {
		return nil, err
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(hostKey))
	if err != nil {
		return nil, fmt.Errorf("read host key: %w", err)
	}
	return Dial(ctx, socketPath, Options{User: "root", Signer: signer, HostKey: key})
}

// Dial connects to the agent behind a CONNECT socket. It is Unavailable if
// nothing answers there, and a Conflict if the guest does not have its host
// key. When ctx ends first, its cause is in the error.
func Dial(ctx context.Context, socketPath string, o Options) (*Client, error) {
	nc, err := Connect(ctx, socketPath)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	client, err := handshake(nc, o)
	if stop() && err == nil {
		client.socket = socketPath
		return client, nil
	}
	nc.Close()
	if ctx.Err() != nil {
		err = fmt.Errorf("connect to the guest's agent: %w", context.Cause(ctx))
	}
	return nil, err
}

func handshake(nc net.Conn, o Options) (*Client, error) {
	unavailable := func(err error) error {
		return banger.Errorf(banger.Unavailable, "connect to the guest's agent: %s", clean(err.Error()))
	}
	if err := nc.SetDeadline(time.Now().Add(dialWait)); err != nil {
		return nil, unavailable(err)
	}
	if o.User == "" {
		o.User = "root"
	}
	wrong := false
	sc, chans, reqs, err := ssh.NewClientConn(nc, "guest", &ssh.ClientConfig{
		Config: ssh.Config{
			Ciphers:      []string{ssh.CipherAES128GCM, ssh.CipherChaCha20Poly1305},
			KeyExchanges: []string{ssh.KeyExchangeCurve25519}, // the cheapest: the way is inside this host
		},
		User:              o.User,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(o.Signer)},
		HostKeyAlgorithms: []string{o.HostKey.Type()},
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			wrong = !bytes.Equal(key.Marshal(), o.HostKey.Marshal())
			if wrong {
				return errors.New("wrong host key")
			}
			return nil
		},
	})
	switch {
	case wrong:
		return nil, banger.Errorf(banger.Conflict, "connect to the guest's agent: it does not have the host key that banger gave it")
	case err != nil:
		return nil, unavailable(err)
	}
	if err := nc.SetDeadline(time.Time{}); err != nil {
		sc.Close()
		return nil, unavailable(err)
	}
	return &Client{ssh: ssh.NewClient(sc, chans, reqs)}, nil
}

// Close ends the connection and all that runs on it.
func (c *Client) Close() error { return c.ssh.Close() }

// SFTP opens the guest's files. The caller closes it.
func (c *Client) SFTP() (*sftp.Client, error) {
	f, err := sftp.NewClient(c.ssh)
	if err != nil {
		return nil, banger.Errorf(banger.Unavailable, "open the guest's files: %s", clean(err.Error()))
	}
	return f, nil
}

// guard closes the connection when ctx ends: SSH has no other way out of a
// wait for a guest that does not answer. The result ends that.
func (c *Client) guard(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() { c.Close() })
}
