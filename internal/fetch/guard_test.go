package fetch

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
)

func TestReach(t *testing.T) {
	for addr, want := range map[string]Reach{
		"8.8.8.8": Public, "2001:db8::1": Public, "10.1.2.3": Private, "172.16.0.1": Private, "192.168.0.1": Private,
		"fd12::1": Private, "100.64.0.1": Private, "127.0.0.1": Loopback, "127.9.9.9": Loopback, "::1": Loopback,
		"169.254.169.254": LinkLocal, "fe80::1": LinkLocal, "fd00:ec2::254": LinkLocal, "0.0.0.0": LinkLocal, "::": LinkLocal,
		"::ffff:127.0.0.1": Loopback, "64:ff9b::7f00:1": Loopback, "64:ff9b::808:808": Public, "2002:a9fe:a9fe::1": LinkLocal, "::ffff:169.254.169.254": LinkLocal, "224.0.0.1": LinkLocal, "0.1.2.3": LinkLocal, "fe80::1%eth0": LinkLocal,
	} {
		if got := reachOf(netip.MustParseAddr(addr)); got != want {
			t.Errorf("reachOf(%s) = %d, want %d", addr, got, want)
		}
	}
}

// TestGuard plays an origin on the internet, which a test cannot run.
func TestGuard(t *testing.T) {
	g := NewGuard("registry.example", Policy{}, 0)
	for u, ok := range map[string]bool{
		"https://registry.example/v2/": true, "https://cdn.example/blob": true, "https://192.0.2.1/": true,
		"http://registry.example/v2/": false, "https://10.0.0.1/": false, "https://127.0.0.1/": false,
		"http://127.0.0.1/": false, "https://localhost/": false, "https://[fd00:ec2::254]/": false, "ftp://x/": false,
	} {
		req, err := http.NewRequest(http.MethodGet, u, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := g.check(req); (err == nil) != ok {
			t.Errorf("check(%s) = %v", u, err)
		}
	}
	// A name that turns out to be an address of this machine is refused when it is dialled.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := g.dial(t.Context(), "tcp", strings.Replace(l.Addr().String(), "127.0.0.1", "localhost", 1))
	var refused *Refusal
	if !errors.As(err, &refused) {
		t.Errorf("dial of a name for loopback: %v, %v", conn, err)
	}
	// A refresh token does not follow a redirect.
	first, _ := http.NewRequest(http.MethodPost, "https://auth.example/", nil)
	next, _ := http.NewRequest(http.MethodPost, "https://elsewhere.example/", strings.NewReader("refresh_token=x"))
	next.Response = &http.Response{Request: first}
	if err := g.check(next); !errors.As(err, &refused) {
		t.Errorf("redirected body: %v", err)
	}
	// An origin seen on the internet once keeps that reach.
	for _, c := range []struct {
		ip   string
		want Reach
	}{{"10.0.0.1", Private}, {"192.0.2.1", Public}, {"127.0.0.1", Public}} {
		g.learn(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(c.ip + ":443")))
		if g.near != c.want {
			t.Errorf("after %s: reach %d, want %d", c.ip, g.near, c.want)
		}
	}
}
