package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"banger"
	"banger/internal/hello"
)

// OwnSSHD is the way to the SSH server that a guest itself runs, through the
// agent: with banger's key, and with the host keys that the agent has read there.
type OwnSSHD struct {
	net.Conn
	HostKeys []ssh.PublicKey
}

// ownSSHDPort is where sshd listens unless it is told otherwise.
const ownSSHDPort = "127.0.0.1:22"

// OwnSSHD lets the key in as the user, and connects. Kind: not_found (the guest
// has no such server, or it does not run).
func (c *Client) OwnSSHD(ctx context.Context, user string, key ssh.PublicKey) (*OwnSSHD, error) {
	keys, err := c.ownSSHD(ctx, hello.OwnSSHD{User: user, Key: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) + " banger"})
	if err != nil {
		return nil, err
	}
	nc, err := c.Forward(ctx, "tcp", ownSSHDPort)
	if err != nil {
		return nil, noOwnSSHD(fmt.Errorf("connect to the guest's own SSH server at %s: %w", ownSSHDPort, err))
	}
	return &OwnSSHD{Conn: nc, HostKeys: keys}, nil
}

func noOwnSSHD(err error) error {
	return banger.Errorf(banger.NotFound, "%w", err).
		WithHint("a guest gets one by its package openssh-server, or by --init provision; without --guest-sshd banger's own server answers")
}

// OwnHostKeys are the host keys of the guest's own SSH server. Kind: not_found.
func (c *Client) OwnHostKeys(ctx context.Context) ([]ssh.PublicKey, error) {
	return c.ownSSHD(ctx, hello.OwnSSHD{})
}

// ownSSHD lets the key in, and gives the server's host keys.
func (c *Client) ownSSHD(ctx context.Context, o hello.OwnSSHD) ([]ssh.PublicKey, error) {
	order, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	out, err := c.subsystem(ctx, hello.OwnSSHDSubsystem, string(order)+"\n")
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		return nil, noOwnSSHD(fmt.Errorf("use the guest's own SSH server: %w", err))
	}
	var answer hello.OwnSSHDKeys
	if err := json.Unmarshal(out, &answer); err != nil {
		return nil, banger.Errorf(banger.Unavailable, "use the guest's own SSH server: its agent gave no sensible answer")
	}
	var keys []ssh.PublicKey
	for _, text := range answer.HostKeys {
		if k, _, _, _, err := ssh.ParseAuthorizedKey([]byte(text)); err == nil {
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 {
		return nil, noOwnSSHD(errors.New("use the guest's own SSH server: it has no host keys"))
	}
	return keys, nil
}

// Login speaks SSH with the server; the result owns the connection.
func (o *OwnSSHD) Login(user string, signer ssh.Signer) (*Client, error) {
	late := time.AfterFunc(dialWait, func() { o.Close() }) // a channel of SSH knows no deadlines
	defer late.Stop()
	var types []string
	for _, k := range o.HostKeys {
		if k.Type() == ssh.KeyAlgoRSA {
			types = append(types, ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSASHA512)
			continue
		}
		types = append(types, k.Type())
	}
	sc, chans, reqs, err := ssh.NewClientConn(o, "guest", &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyAlgorithms: types,
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			for _, k := range o.HostKeys {
				if bytes.Equal(k.Marshal(), key.Marshal()) {
					return nil
				}
			}
			return errors.New("it has another host key than those in the guest's /etc/ssh")
		},
	})
	if err != nil {
		o.Close()
		return nil, banger.Errorf(banger.Unavailable, "log in at the guest's own SSH server as %s: %s", user, clean(err.Error())).
			WithHint("its journal says why: banger vm exec VM -- journalctl -u ssh")
	}
	return &Client{ssh: ssh.NewClient(sc, chans, reqs)}, nil
}

// Shell is Run for a server that is not banger's: a command line for the user's
// shell, or without one a login shell. Its environment is what the server lets in.
func (c *Client) Shell(ctx context.Context, r Request) (Exit, error) {
	return c.guarded(ctx, "run in the guest", func() (Exit, error) {
		ch, reqs, err := c.session()
		if err != nil {
			return Exit{}, err
		}
		defer ch.Close()
		for _, e := range r.Env {
			name, value, _ := strings.Cut(e, "=")
			_, _ = ch.SendRequest("env", true, ssh.Marshal(struct{ Name, Value string }{name, value}))
		}
		if r.TTY {
			if err := requestTTY(ch, r); err != nil {
				return Exit{}, err
			}
		}
		if r.Command == "" {
			err = ask(ch, "shell", nil)
		} else {
			err = ask(ch, "exec", ssh.Marshal(struct{ Text string }{r.Command}))
		}
		if err != nil {
			return Exit{}, err
		}
		return c.collect(ch, reqs, r)
	})
}
