package sshd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"banger/internal/hello"
)

// Limits of one SSH connection.
const (
	maxSessions  = 100  // open session channels
	maxChannels  = 1000 // open forwarded channels, of both directions
	maxListeners = 64   // ports and sockets that the client has the guest listen on
)

// handshakeWait bounds key exchange and authentication: long, for under
// software emulation all is fifty times slower.
const handshakeWait = time.Minute

// identity is what one configuration makes of the server.
type identity struct {
	cfg     hello.Config
	hostKey ssh.Signer
	keys    map[string]bool // public keys in wire format
}

// newIdentity reads the keys of a configuration. With an error comes an
// identity that lets nobody in.
func newIdentity(cfg hello.Config) (*identity, error) {
	id := &identity{cfg: cfg, keys: map[string]bool{}}
	key, err := ssh.ParsePrivateKey([]byte(cfg.HostKey))
	if err != nil {
		return id, fmt.Errorf("read the host key: %w", err)
	}
	id.hostKey = key
	for _, line := range cfg.AuthorizedKeys {
		pub, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil {
			return id, fmt.Errorf("read an authorized key: %w", err)
		}
		id.keys[string(pub.Marshal())] = true
	}
	return id, nil
}

// serverConfig is made anew for each connection, for a machine that was
// restored from a snapshot gets another identity.
func (id *identity) serverConfig() *ssh.ServerConfig {
	c := &ssh.ServerConfig{
		ServerVersion: "SSH-2.0-banger",
		MaxAuthTries:  20, // a user's ssh-agent may hold many keys
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if id.keys[string(key.Marshal())] {
				return nil, nil
			}
			return nil, errors.New("key is not authorized")
		},
	}
	// AES-GCM moves three times as much as ChaCha20 here. The client's order
	// decides; the hybrid exchange is there because OpenSSH warns without it.
	c.Ciphers = []string{ssh.CipherAES128GCM, ssh.CipherAES256GCM, ssh.CipherChaCha20Poly1305}
	c.KeyExchanges = []string{ssh.KeyExchangeCurve25519, ssh.KeyExchangeMLKEM768X25519}
	c.AddHostKey(id.hostKey)
	return c
}

// conn is one SSH connection.
type conn struct {
	srv      *Server
	id       *identity
	ssh      *ssh.ServerConn
	sessions slots
	channels slots
	running  sync.WaitGroup // goroutines that end with the connection

	mu        sync.Mutex
	listeners map[string]net.Listener // by "tcp:addr:port" or "unix:path"; nil once closed
}

// slots counts down what a connection may have open at a time.
type slots chan struct{}

func (s slots) take() bool {
	select {
	case s <- struct{}{}:
		return true
	default:
		return false
	}
}

func (s slots) free() { <-s }

// ssh serves one SSH connection until it ends.
func (s *Server) ssh(nc net.Conn, id *identity) error {
	if id.hostKey == nil {
		return errors.New("serve ssh: no host key")
	}
	if err := nc.SetDeadline(time.Now().Add(handshakeWait)); err != nil {
		return err
	}
	sc, chans, reqs, err := ssh.NewServerConn(nc, id.serverConfig())
	if err != nil {
		return fmt.Errorf("serve ssh: %w", err)
	}
	if err := nc.SetDeadline(time.Time{}); err != nil {
		return err
	}
	c := &conn{
		srv: s, id: id, ssh: sc,
		sessions:  make(slots, maxSessions),
		channels:  make(slots, maxChannels),
		listeners: map[string]net.Listener{},
	}
	ctx, cancel := context.WithCancel(context.Background()) // ends below, with the connection
	c.running.Go(func() { c.requests(reqs) })
	for nc := range chans {
		c.open(ctx, nc)
	}
	cancel()
	c.closeListeners()
	sc.Close()
	c.running.Wait()
	return nil
}

// open decides about one channel that the client asks for.
func (c *conn) open(ctx context.Context, nc ssh.NewChannel) {
	var serve func(context.Context, ssh.NewChannel)
	limit := c.channels
	switch nc.ChannelType() {
	case "session":
		serve, limit = c.session, c.sessions
	case "direct-tcpip":
		serve = c.directTCP
	case "direct-streamlocal@openssh.com":
		serve = c.directUnix
	default:
		_ = nc.Reject(ssh.UnknownChannelType, "unknown channel type")
		return
	}
	if !limit.take() {
		_ = nc.Reject(ssh.ResourceShortage, "too many channels on this connection")
		return
	}
	c.running.Go(func() {
		defer limit.free()
		serve(ctx, nc)
	})
}

// requests answers the requests that concern the whole connection.
func (c *conn) requests(reqs <-chan *ssh.Request) {
	for r := range reqs {
		ok, reply := false, []byte(nil)
		switch r.Type {
		case "tcpip-forward":
			ok, reply = c.listenTCP(r.Payload)
		case "cancel-tcpip-forward":
			ok = c.cancelTCP(r.Payload)
		case "streamlocal-forward@openssh.com":
			ok = c.listenUnix(r.Payload)
		case "cancel-streamlocal-forward@openssh.com":
			ok = c.cancelUnix(r.Payload)
		case "keepalive@openssh.com":
			ok = true
		}
		if r.WantReply {
			_ = r.Reply(ok, reply)
		}
	}
}
