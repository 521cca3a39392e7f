package guest

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"banger/internal/hello"
)

// applyNet brings the loopback interface up and, if the machine has a network,
// its one interface: address, link, default route. What the kernel has set
// already (its ip= parameter) stays. IPv6 addresses come by router advertisement.
func applyNet(n *hello.Net) error {
	nl, err := openNetlink(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer nl.Close()
	if err := nl.linkUp(1); err != nil { // the loopback interface is always the first
		return fmt.Errorf("bring the loopback interface up: %w", err)
	}
	if n == nil {
		return nil
	}
	mac, err := net.ParseMAC(n.MAC)
	if err != nil {
		return fmt.Errorf("read the hardware address: %w", err)
	}
	addr, err := netip.ParsePrefix(n.Address)
	if err != nil {
		return fmt.Errorf("read the address: %w", err)
	}
	gateway, err := netip.ParseAddr(n.Gateway)
	if err != nil {
		return fmt.Errorf("read the gateway: %w", err)
	}
	card, err := findCard(mac)
	if err != nil {
		return err
	}
	if err := nl.addAddress(card.Index, addr); err != nil {
		return fmt.Errorf("set address %v of %s: %w", addr, card.Name, err)
	}
	if err := nl.linkUp(card.Index); err != nil {
		return fmt.Errorf("bring %s up: %w", card.Name, err)
	}
	if err := nl.addDefaultRoute(card.Index, gateway); err != nil {
		return fmt.Errorf("set gateway %v of %s: %w", gateway, card.Name, err)
	}
	return nil
}

// findCard finds the interface of that hardware address when the kernel has it.
func findCard(mac net.HardwareAddr) (net.Interface, error) {
	var found net.Interface
	err := await(deviceWait, func() (bool, error) {
		all, err := net.Interfaces()
		for _, i := range all {
			if bytes.Equal(i.HardwareAddr, mac) {
				found = i
				return true, nil
			}
		}
		return false, err
	})
	if err != nil {
		return found, fmt.Errorf("wait for the network interface %v: %w (does the kernel have virtio_net?)", mac, err)
	}
	return found, nil
}

func (nl *netlink) linkUp(index int) error {
	m := nl.message(unix.RTM_NEWLINK, 0)
	m.u8(unix.AF_UNSPEC, 0)
	m.u16(0)
	m.u32(uint32(index), unix.IFF_UP, unix.IFF_UP) // index, flags, mask of flags
	return nl.do(m)
}

func (nl *netlink) addAddress(index int, p netip.Prefix) error {
	m := nl.message(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	m.u8(family(p.Addr()), uint8(p.Bits()), 0, unix.RT_SCOPE_UNIVERSE)
	m.u32(uint32(index))
	m.attr(unix.IFA_LOCAL, p.Addr().AsSlice())
	m.attr(unix.IFA_ADDRESS, p.Addr().AsSlice())
	if p.Addr().Is4() {
		m.attr(unix.IFA_BROADCAST, broadcast(p))
	}
	return nl.do(m)
}

func (nl *netlink) addDefaultRoute(index int, gateway netip.Addr) error {
	m := nl.message(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	m.u8(family(gateway), 0, 0, 0) // no destination: every one
	m.u8(unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST)
	m.u32(0)
	m.attr(unix.RTA_GATEWAY, gateway.AsSlice())
	m.attr(unix.RTA_OIF, native.AppendUint32(nil, uint32(index)))
	return nl.do(m)
}

func family(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// broadcast is the last address of an IPv4 network.
func broadcast(p netip.Prefix) []byte {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return b
}
