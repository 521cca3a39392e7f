package guest

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// Netlink is spoken in the byte order of the machine. See netlink(7), rtnetlink(7).
var native = binary.NativeEndian

// netlink is a socket to a part of the kernel.
type netlink struct {
	fd  int
	seq uint32
}

func openNetlink(protocol int) (*netlink, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return &netlink{fd: fd}, nil
}

func (nl *netlink) Close() { unix.Close(nl.fd) }

// message is a request that grows: header, body, attributes.
type message struct{ b []byte }

// message begins a request that wants to be acknowledged.
func (nl *netlink) message(kind uint16, flags uint16) *message {
	nl.seq++
	m := &message{}
	m.u32(0) // the length, set by do
	m.u16(kind, flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	m.u32(nl.seq, 0)
	return m
}

func (m *message) u8(v ...uint8) { m.b = append(m.b, v...) }

func (m *message) u16(v ...uint16) {
	for _, x := range v {
		m.b = native.AppendUint16(m.b, x)
	}
}

func (m *message) u32(v ...uint32) {
	for _, x := range v {
		m.b = native.AppendUint32(m.b, x)
	}
}

// attr appends an attribute, padded to four bytes.
func (m *message) attr(kind uint16, data []byte) {
	m.u16(uint16(unix.SizeofRtAttr+len(data)), kind)
	m.b = append(m.b, data...)
	for len(m.b)%unix.NLMSG_ALIGNTO != 0 {
		m.b = append(m.b, 0)
	}
}

// do sends the request and waits for the kernel's verdict. That something is
// there already is as good as having made it.
func (nl *netlink) do(m *message) error {
	native.PutUint32(m.b, uint32(len(m.b)))
	return nl.send(m.b)
}

// send sends requests of the number that was given last and waits for the
// first verdict on it.
func (nl *netlink) send(requests []byte) error {
	if err := unix.Sendto(nl.fd, requests, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	b := make([]byte, 4<<10)
	for {
		n, _, err := unix.Recvfrom(nl.fd, b, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if errno, ok := verdict(b[:n], nl.seq); ok {
			if errno == 0 || errno == unix.EEXIST {
				return nil
			}
			return errno
		}
	}
}

// verdict finds the acknowledgement of request seq: a message of type
// NLMSG_ERROR whose body begins with the negative errno, 0 for success.
func verdict(b []byte, seq uint32) (unix.Errno, bool) {
	for len(b) >= unix.NLMSG_HDRLEN {
		size := int(native.Uint32(b))
		if size < unix.NLMSG_HDRLEN || size > len(b) {
			return 0, false
		}
		body := b[unix.NLMSG_HDRLEN:size]
		if native.Uint16(b[4:]) == unix.NLMSG_ERROR && native.Uint32(b[8:]) == seq && len(body) >= 4 {
			return unix.Errno(-int32(native.Uint32(body))), true
		}
		b = b[min(len(b), (size+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)):]
	}
	return 0, false
}
