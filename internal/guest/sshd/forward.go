package sshd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/crypto/ssh"
)

// Payloads of RFC 4254 section 7 and of OpenSSH's PROTOCOL section 2.4.
type (
	tcpForward struct {
		Addr string
		Port uint32
	}
	directTCP struct {
		Addr       string
		Port       uint32
		OriginAddr string
		OriginPort uint32
	}
	directUnix struct {
		Path      string
		Reserved0 string
		Reserved1 uint32
	}
	forwardedUnix struct{ Path, Reserved string }
)

func (c *conn) directTCP(ctx context.Context, nc ssh.NewChannel) {
	var p directTCP
	if ssh.Unmarshal(nc.ExtraData(), &p) != nil {
		_ = nc.Reject(ssh.ConnectionFailed, "malformed request")
		return
	}
	dial(ctx, nc, "tcp", net.JoinHostPort(p.Addr, strconv.Itoa(int(p.Port))))
}

func (c *conn) directUnix(ctx context.Context, nc ssh.NewChannel) {
	var p directUnix
	if ssh.Unmarshal(nc.ExtraData(), &p) != nil {
		_ = nc.Reject(ssh.ConnectionFailed, "malformed request")
		return
	}
	dial(ctx, nc, "unix", p.Path)
}

func dial(ctx context.Context, nc ssh.NewChannel, network, addr string) {
	var d net.Dialer
	far, err := d.DialContext(ctx, network, addr)
	if err != nil {
		_ = nc.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	ch, reqs, err := nc.Accept()
	if err != nil {
		far.Close()
		return
	}
	splice(ch, reqs, far)
}

// lastWrite bounds how long a far end may take the last bytes of a channel
// that the client has closed.
const lastWrite = 10 * time.Second

// splice copies both ways, passes on the end of each direction by itself, and
// returns when both have ended or the client has closed the channel.
func splice(ch ssh.Channel, reqs <-chan *ssh.Request, far net.Conn) {
	down, up := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(down)
		if _, err := io.Copy(ch, far); err != nil {
			ch.Close() // the client is gone, or the far end broke
		}
		_ = ch.CloseWrite()
	}()
	go func() {
		defer close(up)
		if _, err := io.Copy(far, ch); err != nil {
			far.Close() // ends the other direction too
		}
		if cw, ok := far.(interface{ CloseWrite() error }); ok {
			_ = cw.CloseWrite()
		}
	}()
	go func() {
		ssh.DiscardRequests(reqs) // until the channel is closed from either side
		_ = far.SetWriteDeadline(time.Now().Add(lastWrite))
		<-up
		far.Close()
	}()
	<-down
	<-up
	ch.Close()
	far.Close()
}

func (c *conn) listenTCP(payload []byte) (bool, []byte) {
	var p tcpForward
	if ssh.Unmarshal(payload, &p) != nil || p.Port > 65535 {
		return false, nil
	}
	host := p.Addr
	if host == "*" {
		host = ""
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(int(p.Port))))
	if err != nil {
		return false, nil
	}
	port := uint32(l.Addr().(*net.TCPAddr).Port)
	header := func(far net.Conn) (string, []byte) {
		from := far.RemoteAddr().(*net.TCPAddr)
		return "forwarded-tcpip", ssh.Marshal(directTCP{p.Addr, port, from.IP.String(), uint32(from.Port)})
	}
	if !c.listen(tcpKey(p.Addr, port), l, header) {
		return false, nil
	}
	if p.Port != 0 {
		return true, nil
	}
	return true, ssh.Marshal(struct{ Port uint32 }{port})
}

func (c *conn) cancelTCP(payload []byte) bool {
	var p tcpForward
	return ssh.Unmarshal(payload, &p) == nil && c.cancel(tcpKey(p.Addr, p.Port))
}

func tcpKey(addr string, port uint32) string { return fmt.Sprintf("tcp:%s:%d", addr, port) }

func (c *conn) listenUnix(payload []byte) bool {
	var p struct{ Path string }
	if ssh.Unmarshal(payload, &p) != nil {
		return false
	}
	u, err := c.srv.lookupUser(c.ssh.User())
	if err != nil {
		return false
	}
	l, err := listenUnixAs(p.Path, u)
	if err != nil {
		return false
	}
	header := func(net.Conn) (string, []byte) {
		return "forwarded-streamlocal@openssh.com", ssh.Marshal(forwardedUnix{Path: p.Path})
	}
	return c.listen("unix:"+p.Path, l, header)
}

func (c *conn) cancelUnix(payload []byte) bool {
	var p struct{ Path string }
	return ssh.Unmarshal(payload, &p) == nil && c.cancel("unix:"+p.Path)
}

// listenUnixAs listens on a socket that belongs to the user.
func listenUnixAs(path string, u user) (net.Listener, error) {
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if int(u.uid) != os.Getuid() {
		if err := os.Lchown(path, int(u.uid), int(u.gid)); err != nil {
			l.Close()
			return nil, err
		}
	}
	return l, nil
}

func agentHeader(net.Conn) (string, []byte) { return "auth-agent@openssh.com", nil }

// errTooMany says that the client has too many listeners.
var errTooMany = errors.New("too many listeners on this connection")

// header names the channel that a connection to a listener opens at the client.
type header func(far net.Conn) (channelType string, extra []byte)

// listen keeps the listener until it is cancelled or the connection ends, and
// gives each of its connections to the client.
func (c *conn) listen(key string, l net.Listener, h header) bool {
	c.mu.Lock()
	_, taken := c.listeners[key]
	ok := c.listeners != nil && !taken && len(c.listeners) < maxListeners
	if ok {
		c.listeners[key] = l
	}
	c.mu.Unlock()
	if !ok {
		l.Close()
		return false
	}
	c.running.Go(func() { c.accept(l, h) })
	return true
}

func (c *conn) accept(l net.Listener, h header) {
	for {
		far, err := l.Accept()
		if err != nil {
			return // closed
		}
		if !c.channels.take() {
			far.Close()
			continue
		}
		c.running.Go(func() {
			defer c.channels.free()
			kind, extra := h(far)
			ch, reqs, err := c.ssh.OpenChannel(kind, extra)
			if err != nil {
				far.Close()
				return
			}
			splice(ch, reqs, far)
		})
	}
}

func (c *conn) cancel(key string) bool {
	c.mu.Lock()
	l, ok := c.listeners[key]
	delete(c.listeners, key)
	c.mu.Unlock()
	if ok {
		l.Close()
	}
	return ok
}

func (c *conn) closeListeners() {
	c.mu.Lock()
	all := c.listeners
	c.listeners = nil
	c.mu.Unlock()
	for _, l := range all {
		l.Close()
	}
}
