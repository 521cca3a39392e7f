package fetch

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"banger"
)

// The world of the tests: 127.0.0.1 is this machine, its neighbours play
// addresses of the internet, of a private network, and of a metadata service.
const (
	publicIP  = "127.0.0.2"
	public2IP = "127.0.0.3"
	privateIP = "127.0.0.10"
	metaIP    = "127.0.0.20"
)

func worldReach(ip netip.Addr) Reach {
	switch ip.String() {
	case publicIP, public2IP:
		return Public
	case privateIP:
		return Private
	case metaIP:
		return LinkLocal
	}
	return reachOf(ip)
}

// world has names of its own: a client in it dials what they stand for.
type world struct {
	t     *testing.T
	roots *x509.CertPool

	mu    sync.Mutex
	names map[string]string   // host:port of a URL to address:port
	dials []string            // what was dialled
	after map[string][]string // further addresses of a name, one for each next dial
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return &world{t: t, roots: x509.NewCertPool(), names: map[string]string{}, after: map[string][]string{}}
}

// host is a TLS server, or a plain one for a port 80, at an address of this
// world. Its certificate is for example.com and what is below it.
func (w *world) host(name, ip string, h http.HandlerFunc) {
	w.t.Helper()
	l, err := net.Listen("tcp", ip+":0")
	if err != nil {
		w.t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(h)
	srv.Listener.Close()
	srv.Listener = l
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	if strings.HasSuffix(name, ":80") {
		srv.Start()
	} else {
		srv.StartTLS()
		w.roots.AddCert(srv.Certificate())
	}
	w.t.Cleanup(srv.Close)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.names[name] = l.Addr().String()
}

func (w *world) resolve(addr string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dials = append(w.dials, addr)
	to, ok := w.names[addr]
	if !ok {
		return addr
	}
	if next := w.after[addr]; len(next) > 0 {
		w.names[addr], w.after[addr] = next[0], next[1:]
	}
	return to
}

// client is one without patience.
func (w *world) client(p Policy) Client {
	c := patientless()
	c.Policy = p
	c.hooks = hooks{
		resolve: w.resolve,
		reachOf: worldReach,
		roots:   w.roots,
	}
	return c
}

// patientless is a client that neither waits nor is stalled for long.
func patientless() Client {
	return Client{
		Stall: 200 * time.Millisecond,
		Retry: Retry{wait: func(ctx context.Context, _ time.Duration) error { return context.Cause(ctx) }},
	}
}

// content is a file that no shift of leaves the same.
func content(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*i>>3 ^ i ^ i>>8)
	}
	return b
}

// script is a server that answers the n-th request by its n-th step, and all
// further ones by the last.
type script struct {
	*httptest.Server
	mu   sync.Mutex
	asks []http.Header
}

func serve(t *testing.T, steps ...http.HandlerFunc) *script {
	t.Helper()
	s := &script{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		n := len(s.asks)
		s.asks = append(s.asks, r.Header.Clone())
		s.mu.Unlock()
		steps[min(n, len(steps)-1)](w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

// requests are the headers of all requests so far.
func (s *script) requests() []http.Header {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asks
}

// file serves all of b, with ranges where they are asked for. The header is
// pairs of name and value.
func file(b []byte, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		set(w, header)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
	}
}

// cut promises all of b and breaks off after n bytes.
func cut(b []byte, n int, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		set(w, header)
		w.Header().Set("Content-Length", fmt.Sprint(len(b)))
		_, _ = w.Write(b[:n])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
}

// chunks sends b without saying how long it is.
func chunks(b []byte, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		set(w, header)
		_, _ = w.Write(b[:len(b)/2])
		w.(http.Flusher).Flush()
		_, _ = w.Write(b[len(b)/2:])
	}
}

// partial answers 206 with the given Content-Range.
func partial(contentRange string, b []byte, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		set(w, header)
		w.Header().Set("Content-Range", contentRange)
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(b)
	}
}

func status(code int, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		set(w, header)
		w.WriteHeader(code)
		_, _ = io.WriteString(w, "<html>\x1b[31mred")
	}
}

func redirect(to string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) }
}

func set(w http.ResponseWriter, header []string) {
	for i := 0; i+1 < len(header); i += 2 {
		w.Header().Set(header[i], header[i+1])
	}
}

// read opens and reads a whole file.
func read(t *testing.T, c Client, url string, o Options) ([]byte, error) {
	t.Helper()
	b, err := c.Open(t.Context(), url, o)
	if err != nil {
		return nil, err
	}
	got, err := io.ReadAll(b)
	return got, errors.Join(err, b.Close())
}

// wantErr checks the kind of an error and that its text holds every word.
func wantErr(t *testing.T, err error, kind banger.Kind, words ...string) {
	t.Helper()
	if !banger.IsKind(err, kind) {
		t.Fatalf("error of kind %s wanted, got %v", kind, err)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
	if strings.ContainsRune(err.Error(), 0x1b) {
		t.Errorf("an escape sequence of the server is in %q", err)
	}
}
