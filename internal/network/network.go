// Package network is what a guest sees of the network: addresses and resolver.
package network

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"
)

// User is the user-mode network of one VM. It is the same inside every VM, so
// that a machine's saved state never holds an address of its own.
type User struct {
	Guest   netip.Prefix
	Gateway netip.Addr
	DNS     netip.Addr // answers with what the host's resolver says, wherever that is
	MAC     net.HardwareAddr
	Search  []string // search domains of the host
}

// The addresses inside every VM. The MAC is locally administered.
var (
	guest   = netip.MustParsePrefix("192.168.127.2/24")
	gateway = netip.MustParseAddr("192.168.127.1")
	dns     = netip.MustParseAddr("192.168.127.3")
)

// maxSearch bounds the search domains taken over; resolv.conf(5) allows no more in older C libraries.
const maxSearch = 6

// NewUser reads the search domains of the host from a resolv.conf(5) file. Its
// name servers are not needed: the guest asks the DNS address inside its own
// network, and the forwarder behind it runs on the host, where a resolver on
// the loopback address answers as well as any other.
func NewUser(resolvConf string) (User, error) {
	u := User{Guest: guest, Gateway: gateway, DNS: dns, MAC: net.HardwareAddr{0x52, 0x54, 0x00, 0x62, 0x67, 0x01}}
	f, err := os.Open(resolvConf)
	if errors.Is(err, fs.ErrNotExist) {
		return u, nil
	}
	if err != nil {
		return u, fmt.Errorf("read the host's resolver: %w", err)
	}
	defer f.Close()
	u.Search, err = search(io.LimitReader(f, 64<<10))
	return u, err
}

// KernelWord is the ip= parameter that gives a kernel with CONFIG_IP_PNP the
// address, gateway and name server. Format: Linux, Documentation/admin-guide/nfs/nfsroot.rst.
func (u User) KernelWord(hostname string) string {
	mask := net.IP(net.CIDRMask(u.Guest.Bits(), u.Guest.Addr().BitLen()))
	return fmt.Sprintf("ip=%s::%s:%s:%s:eth0:off:%s", u.Guest.Addr(), u.Gateway, mask, hostname, u.DNS)
}

// search gives the domains of the last search or domain line, as resolv.conf(5) has it.
func search(r io.Reader) ([]string, error) {
	var domains []string
	for s := bufio.NewScanner(r); ; {
		if !s.Scan() {
			return domains, s.Err()
		}
		words := strings.Fields(s.Text())
		if len(words) < 2 || words[0] != "search" && words[0] != "domain" {
			continue
		}
		domains = nil
		for _, d := range words[1:] {
			if d != "." && len(d) <= 253 && len(domains) < maxSearch {
				domains = append(domains, d)
			}
		}
	}
}
