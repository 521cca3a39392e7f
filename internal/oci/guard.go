package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"syscall"
	"time"
)

// How long each step of reaching a registry may take. Dialling includes DNS
// and all addresses, so a host that cannot be reached fails in dialTimeout.
const (
	dialTimeout   = 5 * time.Second
	tlsTimeout    = 5 * time.Second
	headerTimeout = 10 * time.Second
	idleTimeout   = 10 * time.Second
	maxRedirects  = 5
)

// errStalled is why a body read ends when the registry sends nothing.
var errStalled = errors.New("the registry stopped sending")

// refusal is a request that banger does not make, whoever asks for it.
type refusal struct{ why string }

func (r *refusal) Error() string { return r.why }

// guard is the innermost http.RoundTripper of a client: every request passes
// it, those for tokens and redirects too. It refuses plain HTTP beyond
// loopback and requests to hosts nearer than the registry itself, and it ends
// bodies that stall.
type guard struct {
	base     *http.Transport
	registry string // host[:port]
	stall    time.Duration
	proxies  sync.Map // host:port of the proxies of the environment

	mu   sync.Mutex
	near reach // of the registry, as far away as it was ever seen
	seen bool  // near comes from an address, not only from the name
}

func newGuard(registry string, stall time.Duration) *guard {
	g := &guard{registry: registry, stall: stall, near: near(hostOf(registry))}
	g.base = &http.Transport{
		Proxy:                 g.proxy,
		DialContext:           g.dial,
		ForceAttemptHTTP2:     true,
		TLSHandshakeTimeout:   tlsTimeout,
		ResponseHeaderTimeout: headerTimeout,
		IdleConnTimeout:       idleTimeout,
		MaxIdleConnsPerHost:   4,
		// Blobs are hashed as they are stored: nothing may decode them on the way.
		DisableCompression: true,
	}
	return g
}

func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := g.check(req); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	resp, err := g.base.RoundTrip(req.WithContext(ctx))
	if err != nil {
		cancel(nil)
		return nil, err
	}
	b := &stallBody{ReadCloser: resp.Body, ctx: ctx, cancel: cancel, after: g.stall}
	b.timer = time.AfterFunc(g.stall, func() { cancel(errStalled) })
	b.timer.Stop()
	resp.Body = b
	return resp, nil
}

// check judges a request by its URL alone; dial judges the addresses.
func (g *guard) check(req *http.Request) error {
	host := req.URL.Hostname()
	switch req.URL.Scheme {
	case "https":
	case "http":
		if near(host) != loopback {
			return &refusal{fmt.Sprintf("plain HTTP to %s: only registries on this machine may do without TLS", host)}
		}
	default:
		return &refusal{fmt.Sprintf("a %s URL", req.URL.Scheme)}
	}
	if req.URL.Host == g.registry {
		return nil
	}
	if g.tooNear(near(host)) {
		return &refusal{fmt.Sprintf("%s sends to %s, which is nearer to this machine than itself", g.registry, host)}
	}
	// A body holds a refresh token: it goes to the host that was asked, never to where that one points.
	if r := req.Response; r != nil && req.Body != nil && r.Request != nil && r.Request.URL.Host != req.URL.Host {
		return &refusal{fmt.Sprintf("%s redirects credentials to %s", r.Request.URL.Host, host)}
	}
	return nil
}

func (g *guard) proxy(req *http.Request) (*url.URL, error) {
	u, err := http.ProxyFromEnvironment(req)
	if u != nil {
		g.proxies.Store(withPort(u.Host, u.Scheme), true)
	}
	return u, err
}

// dial connects, and refuses addresses nearer than the registry, so that a
// public name with a private address does not get around check. The address
// of a proxy was chosen by the user and is not judged.
func (g *guard) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}
	if _, ok := g.proxies.Load(addr); ok {
		return d.DialContext(ctx, network, addr)
	}
	if addr == withPort(g.registry, "https") || addr == withPort(g.registry, "http") {
		conn, err := d.DialContext(ctx, network, addr)
		if err == nil {
			g.learn(conn.RemoteAddr())
		}
		return conn, err
	}
	d.Control = func(_, ip string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(ip)
		if err != nil {
			return err
		}
		if g.tooNear(reachOf(ap.Addr())) {
			return &refusal{fmt.Sprintf("%s sends to %s (%s), which is nearer to this machine than itself", g.registry, addr, ap.Addr())}
		}
		return nil
	}
	return d.DialContext(ctx, network, addr)
}

// learn notes where the registry is. The farthest place counts: a name that
// changes its address must not gain reach by that.
func (g *guard) learn(a net.Addr) {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return
	}
	n := reachOf(ap.Addr())
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.seen || n < g.near {
		g.seen, g.near = true, n
	}
}

// tooNear reports whether the registry may not send banger that near.
func (g *guard) tooNear(n reach) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return n == linkLocal || n > g.near
}

func hostOf(hostport string) string {
	u := url.URL{Host: hostport}
	return u.Hostname()
}

func withPort(host, scheme string) string {
	u := url.URL{Host: host}
	if p := u.Port(); p != "" {
		return net.JoinHostPort(u.Hostname(), p)
	}
	if scheme == "http" {
		return net.JoinHostPort(u.Hostname(), "80")
	}
	return net.JoinHostPort(u.Hostname(), "443")
}

// stallBody is a response body whose reads may not wait longer than after.
type stallBody struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	after  time.Duration
}

func (b *stallBody) Read(p []byte) (int, error) {
	b.timer.Reset(b.after)
	n, err := b.ReadCloser.Read(p)
	b.timer.Stop()
	if err != nil && err != io.EOF && context.Cause(b.ctx) == errStalled {
		err = fmt.Errorf("%w for %s", errStalled, b.after)
	}
	return n, err
}

func (b *stallBody) Close() error {
	b.timer.Stop()
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}
