package fetch

import (
	"net/netip"
	"strings"
)

// Reach says how near to this machine an address is. A server may send banger
// only to places that are no nearer than itself, so that one on the internet
// cannot make it ask services that trust the local network.
type Reach int32

// The reaches, the farthest first.
const (
	Public    Reach = iota
	Private         // RFC 1918, RFC 4193, RFC 6598
	Loopback        // this machine
	LinkLocal       // where clouds keep the metadata service; unspecified and multicast too
)

// Near is the reach of a host name or an IP address as far as it shows without DNS.
func Near(host string) Reach {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return Loopback
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return Public
	}
	return reachOf(ip)
}

// sharedSpace is RFC 6598: carrier-grade NAT, and overlay networks such as Tailscale's.
var sharedSpace = netip.MustParsePrefix("100.64.0.0/10")

// awsMetadata6 is the metadata service in a private range instead of a link-local one.
var awsMetadata6 = netip.MustParseAddr("fd00:ec2::254")

// carriers are the prefixes whose addresses hold an IPv4 address that a
// gateway forwards to, and the byte it begins at: NAT64 (RFC 6052) and 6to4 (RFC 3056).
var carriers = []struct {
	prefix netip.Prefix
	at     int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12},
	{netip.MustParsePrefix("2002::/16"), 2},
}

func reachOf(ip netip.Addr) Reach {
	ip = ip.Unmap().WithZone("")
	for _, c := range carriers {
		if c.prefix.Contains(ip) {
			b := ip.As16()
			return reachOf(netip.AddrFrom4([4]byte(b[c.at : c.at+4])))
		}
	}
	switch {
	case ip.IsLoopback():
		return Loopback
	case ip.IsLinkLocalUnicast(), ip.IsUnspecified(), ip.IsMulticast(), ip == awsMetadata6,
		ip.Is4() && ip.As4()[0] == 0: // all of 0.0.0.0/8 is "this network", RFC 791
		return LinkLocal
	case ip.IsPrivate(), sharedSpace.Contains(ip):
		return Private
	}
	return Public
}
