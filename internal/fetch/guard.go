package fetch

import (
	"context"
	"crypto/tls"
	"crypto/x509"
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

// How long each step of reaching a server may take. Dialling includes DNS and
// all addresses, so a host that cannot be reached fails in dialTimeout.
const (
	dialTimeout   = 5 * time.Second
	tlsTimeout    = 5 * time.Second
	headerTimeout = 10 * time.Second
	idleTimeout   = 10 * time.Second
	stallTimeout  = 30 * time.Second
	maxRedirects  = 5
	maxHeader     = 256 << 10 // bytes of an answer's header
)

// ErrStalled is why a read ends when the server sends nothing.
var ErrStalled = errors.New("the server stopped sending")

// Refusal is a request that banger does not make, whoever asks for it.
type Refusal struct {
	Why  string
	Hint string // what to do instead, may be empty
}

func (r *Refusal) Error() string { return r.Why }

// Policy says where requests may go. The zero value suits the internet: TLS
// beyond this machine, and nobody may send a request nearer than itself.
type Policy struct {
	// AllowPrivate is set for a server that the user's configuration allows
	// to point to private addresses (RFC 1918 and the like). Loopback stays
	// out of its reach, link-local addresses stay out of everybody's.
	AllowPrivate bool
	// AllowHTTP is set where the user's configuration allows plain HTTP
	// beyond loopback. Going from https to http stays refused.
	AllowHTTP bool
	// AnyCert is a host[:port] whose certificate nobody has to vouch for,
	// because the user's configuration says so. Empty: there is none.
	AnyCert string
}

// Guard is the innermost http.RoundTripper of a client: every request passes
// it, those for tokens and redirects too. It refuses plain HTTP beyond
// loopback and requests to hosts nearer than its origin, the host that the
// user chose, and it ends bodies that stall. Connections are its own, so that
// none made for one origin serves another.
type Guard struct {
	base    *http.Transport
	origin  string // host[:port]
	policy  Policy
	stall   time.Duration
	proxies sync.Map // host:port of the proxies of the environment
	hooks   hooks

	mu   sync.Mutex
	near Reach // of the origin, as far away as it was ever seen
	seen bool  // near comes from an address, not only from the name
}

// hooks are what tests replace to play the internet on loopback.
type hooks struct {
	resolve func(addr string) string              // DNS: host:port to address:port
	reachOf func(netip.Addr) Reach                // default reachOf
	proxy   func(*http.Request) (*url.URL, error) // default http.ProxyFromEnvironment
	roots   *x509.CertPool                        // default those of the host
}

// NewGuard makes a guard for requests that begin at origin, a host[:port].
// Stall is how long a server may send nothing in the middle of an answer;
// 0 means 30 s. It does no I/O.
func NewGuard(origin string, p Policy, stall time.Duration) *Guard {
	return newGuard(origin, p, stall, hooks{})
}

func newGuard(origin string, p Policy, stall time.Duration, h hooks) *Guard {
	if stall <= 0 {
		stall = stallTimeout
	}
	if h.reachOf == nil {
		h.reachOf = reachOf
	}
	if h.proxy == nil {
		h.proxy = http.ProxyFromEnvironment
	}
	g := &Guard{origin: origin, policy: p, stall: stall, hooks: h, near: Near(hostOf(origin))}
	g.base = &http.Transport{
		Proxy:                  g.proxy,
		DialContext:            g.dial,
		ForceAttemptHTTP2:      true,
		TLSHandshakeTimeout:    tlsTimeout,
		ResponseHeaderTimeout:  headerTimeout,
		IdleConnTimeout:        idleTimeout,
		MaxIdleConnsPerHost:    4,
		MaxResponseHeaderBytes: maxHeader,
		// Digests are over the bytes as sent: nothing may decode them on the way.
		DisableCompression: true,
	}
	if h.roots != nil {
		g.base.TLSClientConfig = &tls.Config{RootCAs: h.roots}
	}
	if p.AnyCert != "" {
		g.base.DialTLSContext = g.dialTLS
	}
	return g
}

// dialTLS checks the certificates of all hosts but one. Through a proxy it is
// not asked, and then all are checked.
func (g *Guard) dialTLS(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := g.dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	c := tls.Client(conn, &tls.Config{ServerName: host, RootCAs: g.hooks.roots, NextProtos: []string{"h2", "http/1.1"},
		InsecureSkipVerify: addr == withPort(g.policy.AnyCert, "https")})
	ctx, cancel := context.WithTimeout(ctx, tlsTimeout)
	defer cancel()
	if err := c.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return c, nil
}

// RoundTrip implements http.RoundTripper.
func (g *Guard) RoundTrip(req *http.Request) (*http.Response, error) {
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
	b.timer = time.AfterFunc(g.stall, func() { cancel(ErrStalled) })
	b.timer.Stop()
	resp.Body = b
	return resp, nil
}

// CloseIdleConnections lets go of connections that no answer is being read from.
func (g *Guard) CloseIdleConnections() { g.base.CloseIdleConnections() }

// carried are the header fields that follow a redirect to another host. All
// others stay behind: any of them may be a credential.
var carried = []string{"Accept", "Accept-Encoding", "If-None-Match", "If-Range", "Range", "User-Agent"}

// CheckRedirect is for http.Client: it bounds the redirects and lets no
// credentials follow one to another host, scheme or port. Where a redirect may
// go is settled by RoundTrip.
func (g *Guard) CheckRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return &Refusal{Why: fmt.Sprintf("more than %d redirects", maxRedirects)}
	}
	req.Header.Del("Referer") // a URL may hold a signature
	first := via[0].URL
	for _, r := range append(via[1:len(via):len(via)], req) {
		if r.URL.Scheme == first.Scheme && r.URL.Host == first.Host {
			continue
		}
		kept := http.Header{}
		for _, k := range carried {
			if v := req.Header.Values(k); len(v) > 0 {
				kept[k] = v
			}
		}
		req.Header = kept
		break
	}
	return nil
}

// check judges a request by its URL alone; dial judges the addresses.
func (g *Guard) check(req *http.Request) error {
	host := req.URL.Hostname()
	var from *url.URL
	if r := req.Response; r != nil && r.Request != nil {
		from = r.Request.URL
	}
	switch req.URL.Scheme {
	case "https":
	case "http":
		if from != nil && from.Scheme == "https" {
			return &Refusal{Why: fmt.Sprintf("%s redirects to plain HTTP (%s)", from.Host, host)}
		}
		if Near(host) != Loopback && !g.policy.AllowHTTP {
			return &Refusal{Why: fmt.Sprintf("plain HTTP to %s: only this machine may be asked without TLS", host), Hint: "use https"}
		}
	default:
		return &Refusal{Why: fmt.Sprintf("a %s URL", req.URL.Scheme)}
	}
	if req.URL.Host == g.origin {
		return nil
	}
	if g.tooNear(Near(host)) {
		return g.nearer(host)
	}
	// A body holds a refresh token: it goes to the host that was asked, never to where that one points.
	if from != nil && req.Body != nil && from.Host != req.URL.Host {
		return &Refusal{Why: fmt.Sprintf("%s redirects credentials to %s", from.Host, host)}
	}
	return nil
}

func (g *Guard) nearer(to string) error {
	return &Refusal{Why: fmt.Sprintf("%s sends to %s, which is nearer to this machine than itself", g.origin, to)}
}

func (g *Guard) proxy(req *http.Request) (*url.URL, error) {
	u, err := g.hooks.proxy(req)
	if u != nil {
		g.proxies.Store(withPort(u.Host, u.Scheme), true)
	}
	return u, err
}

// dial connects, and refuses addresses nearer than the origin, so that a
// public name with a private address does not get around check, nor an origin
// that moves nearer once it was seen. The address of a proxy was chosen by the
// user and is not judged.
func (g *Guard) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}
	if _, ok := g.proxies.Load(addr); ok {
		return d.DialContext(ctx, network, addr)
	}
	own := addr == withPort(g.origin, "https") || addr == withPort(g.origin, "http")
	d.Control = func(_, ip string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(ip)
		if err != nil {
			return err
		}
		n := g.hooks.reachOf(ap.Addr())
		if own && g.moved(n) || !own && g.tooNear(n) {
			return g.nearer(fmt.Sprintf("%s (%s)", addr, ap.Addr()))
		}
		return nil
	}
	to := addr
	if g.hooks.resolve != nil {
		to = g.hooks.resolve(addr)
	}
	conn, err := d.DialContext(ctx, network, to)
	if err == nil && own {
		g.learn(conn.RemoteAddr())
	}
	return conn, err
}

// learn notes where the origin is. The farthest place counts: a name that
// changes its address must not gain reach by that.
func (g *Guard) learn(a net.Addr) {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return
	}
	n := g.hooks.reachOf(ap.Addr())
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.seen || n < g.near {
		g.seen, g.near = true, n
	}
}

// moved reports whether the origin, at a place that near, was seen farther away before.
func (g *Guard) moved(n Reach) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.seen && n > g.near
}

// tooNear reports whether the origin may not send banger that near.
func (g *Guard) tooNear(n Reach) bool {
	if n == Private && g.policy.AllowPrivate {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return n == LinkLocal || n > g.near
}

func hostOf(hostport string) string {
	u := url.URL{Host: hostport}
	return u.Hostname()
}

// withPort is the address that a transport dials for a host of a URL.
func withPort(host, scheme string) string {
	u := url.URL{Host: host}
	port := u.Port()
	switch {
	case port != "":
	case scheme == "http":
		port = "80"
	case scheme == "socks5", scheme == "socks5h":
		port = "1080"
	default:
		port = "443"
	}
	return net.JoinHostPort(u.Hostname(), port)
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
	if err != nil && err != io.EOF && context.Cause(b.ctx) == ErrStalled {
		err = fmt.Errorf("%w for %s", ErrStalled, b.after)
	}
	return n, err
}

func (b *stallBody) Close() error {
	b.timer.Stop()
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}
