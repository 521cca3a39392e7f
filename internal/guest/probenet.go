package guest

import (
	"fmt"
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// linkKind makes an interface of that kind. An answer that the request is
// incomplete comes from the driver, so there is one.
func linkKind(kind string) func() error {
	return func() error {
		nl, err := openNetlink(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer nl.Close()
		m := nl.message(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
		m.u8(unix.AF_UNSPEC, 0)
		m.u16(0)
		m.u32(0, 0, 0)
		m.attr(unix.IFLA_LINKINFO, nested(attr{unix.IFLA_INFO_KIND, text(kind)}))
		if err := nl.do(m); err == unix.EOPNOTSUPP || err == unix.ENODEV {
			return err
		}
		return nil
	}
}

// tryBridgeNetfilter looks for the switches by which bridged packets pass the
// firewall; dockerd loads their module itself.
func tryBridgeNetfilter() error {
	const path = "/proc/sys/net/bridge/bridge-nf-call-iptables"
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	_ = runModprobe([]string{"br_netfilter"})
	_, err := os.Stat(path)
	return err
}

// Parts of nfnetlink that x/sys/unix does not name.
// Format: linux/include/uapi/linux/netfilter/{nfnetlink,nf_tables,nf_tables_compat}.h.
const (
	nfnlCompat    = 11 // NFNL_SUBSYS_NFT_COMPAT
	compatGet     = 0  // NFNL_MSG_COMPAT_GET
	compatName    = 1  // NFTA_COMPAT_NAME
	compatRev     = 2
	compatType    = 3
	compatMatch   = 0
	compatTarget  = 1
	probeTable    = "banger-probe"
	probeChain    = "post"
	hookPost      = 4   // NF_INET_POST_ROUTING
	prioritySNAT  = 100 // NF_IP_PRI_NAT_SRC
	getInfoIPT    = 64  // IPT_SO_GET_INFO
	sizeofGetInfo = 84  // struct ipt_getinfo
)

// tryNFTables makes a table, which nothing but nf_tables itself is needed for.
func tryNFTables() error {
	return nftables(func(nl *netlink) *message {
		m := nl.message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE)
		m.nfgen(0)
		m.attr(unix.NFTA_TABLE_NAME, text(probeTable))
		return m
	})
}

// tryMasquerade makes the rule that lets containers out.
func tryMasquerade() error {
	return nftables(func(nl *netlink) *message {
		m := nl.message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE)
		m.nfgen(0)
		m.attr(unix.NFTA_CHAIN_TABLE, text(probeTable))
		m.attr(unix.NFTA_CHAIN_NAME, text(probeChain))
		m.attr(unix.NFTA_CHAIN_HOOK|unix.NLA_F_NESTED, nested(
			attr{unix.NFTA_HOOK_HOOKNUM, be32(hookPost)}, attr{unix.NFTA_HOOK_PRIORITY, be32(prioritySNAT)}))
		m.attr(unix.NFTA_CHAIN_TYPE, text("nat"))
		return m
	}, func(nl *netlink) *message {
		m := nl.message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND)
		m.nfgen(0)
		m.attr(unix.NFTA_RULE_TABLE, text(probeTable))
		m.attr(unix.NFTA_RULE_CHAIN, text(probeChain))
		m.attr(unix.NFTA_RULE_EXPRESSIONS|unix.NLA_F_NESTED, nested(attr{unix.NFTA_LIST_ELEM | unix.NLA_F_NESTED, nested(
			attr{unix.NFTA_EXPR_NAME, text("masq")}, attr{unix.NFTA_EXPR_DATA | unix.NLA_F_NESTED, nil})}))
		return m
	})
}

// nftables sends the messages, each in a batch of its own, as nf_tables wants
// it. Only what is in the middle is acknowledged, and any of the three refused,
// so they have one number.
func nftables(messages ...func(*netlink) *message) error {
	nl, err := openNetlink(unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer nl.Close()
	for _, make := range messages {
		m := make(nl)
		native.PutUint32(m.b, uint32(len(m.b)))
		batch := slices.Concat(nl.mark(unix.NFNL_MSG_BATCH_BEGIN), m.b, nl.mark(unix.NFNL_MSG_BATCH_END))
		if err := nl.send(batch); err != nil {
			return err
		}
	}
	return nil
}

// mark is the begin or the end of a batch.
func (nl *netlink) mark(kind uint16) []byte {
	m := &message{}
	m.u32(unix.NLMSG_HDRLEN + 4)
	m.u16(kind, unix.NLM_F_REQUEST)
	m.u32(nl.seq, 0)
	m.nfgen(unix.NFNL_SUBSYS_NFTABLES)
	return m.b
}

// tryCompat asks for what Docker's rules use of iptables, as iptables-nft does.
func tryCompat() error {
	nl, err := openNetlink(unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer nl.Close()
	for _, x := range []struct {
		name      string
		rev, kind uint32
	}{{"addrtype", 1, compatMatch}, {"conntrack", 3, compatMatch}, {"comment", 0, compatMatch}, {"MASQUERADE", 0, compatTarget}, {"DNAT", 2, compatTarget}} {
		m := nl.message(nfnlCompat<<8|compatGet, 0)
		m.nfgen(0)
		m.attr(compatName, text(x.name))
		m.attr(compatRev, be32(x.rev))
		m.attr(compatType, be32(x.kind))
		if err := nl.do(m); err != nil {
			return fmt.Errorf("%s: %w", x.name, err)
		}
	}
	return nil
}

// tryIPTables asks for the NAT table of the iptables before nftables, which
// loads the first module itself.
func tryIPTables() error {
	_ = runModprobe([]string{"ip_tables"})
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var info [sizeofGetInfo]byte
	copy(info[:], "nat")
	size := uint32(len(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_IP, getInfoIPT,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	return asError(errno)
}

// nfgen is the header of each message to netfilter: for IPv4, version 0.
func (m *message) nfgen(resource uint16) {
	m.u8(unix.AF_INET, 0, byte(resource>>8), byte(resource))
}

// attr is a netlink attribute.
type attr struct {
	kind uint16
	data []byte
}

func nested(attrs ...attr) []byte {
	m := &message{}
	for _, a := range attrs {
		m.attr(a.kind, a.data)
	}
	return m.b
}

func text(s string) []byte { return append([]byte(s), 0) }

func be32(v uint32) []byte { return []byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)} }
