package guest

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestModuleNames(t *testing.T) {
	dir := t.TempDir()
	if names, err := moduleNames(filepath.Join(dir, "absent")); names != nil || err != nil {
		t.Errorf("absent: %v, %v", names, err)
	}
	for _, n := range []string{"10-virtio_blk.ko", "02-virtio.ko", "00-virtio_ring.ko", "README"} {
		if err := os.WriteFile(filepath.Join(dir, n), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	names, err := moduleNames(dir)
	if want := []string{"00-virtio_ring.ko", "02-virtio.ko", "10-virtio_blk.ko"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("got %v, %v", names, err)
	}
}

func TestFindPort(t *testing.T) {
	class := t.TempDir()
	for dev, name := range map[string]string{"vport0p1": "org.other\n", "vport0p2": "banger.0\n", "vport0p3": ""} {
		if err := os.Mkdir(filepath.Join(class, dev), 0o755); err != nil {
			t.Fatal(err)
		}
		if name == "" {
			continue // the name comes after the device
		}
		if err := os.WriteFile(filepath.Join(class, dev, "name"), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if dev, err := findPort(class); dev != "vport0p2" || err != nil {
		t.Errorf("got %q, %v", dev, err)
	}
	if dev, err := findPort(t.TempDir()); dev != "" || err != nil {
		t.Errorf("no port: got %q, %v", dev, err)
	}
}

func TestBroadcast(t *testing.T) {
	for in, want := range map[string]string{"192.168.127.2/24": "192.168.127.255", "10.1.2.3/13": "10.7.255.255", "10.0.0.1/32": "10.0.0.1"} {
		got, _ := netip.AddrFromSlice(broadcast(netip.MustParsePrefix(in)))
		if got != netip.MustParseAddr(want) {
			t.Errorf("broadcast of %s: %v, want %s", in, got, want)
		}
	}
}

func TestMessage(t *testing.T) {
	nl := &netlink{fd: -1}
	m := nl.message(unix.RTM_NEWROUTE, unix.NLM_F_CREATE)
	m.attr(unix.RTA_GATEWAY, []byte{1, 2, 3, 4, 5})
	if len(m.b) != unix.NLMSG_HDRLEN+12 || !bytes.Equal(m.b[len(m.b)-8:], []byte{1, 2, 3, 4, 5, 0, 0, 0}) {
		t.Errorf("got % x", m.b)
	}
	if f := native.Uint16(m.b[6:]); f != unix.NLM_F_CREATE|unix.NLM_F_REQUEST|unix.NLM_F_ACK {
		t.Errorf("flags %#x", f)
	}
}

func TestVerdict(t *testing.T) {
	reply := func(seq uint32, errno unix.Errno) []byte {
		nl := &netlink{seq: seq - 1}
		m := nl.message(unix.NLMSG_ERROR, 0)
		m.u32(uint32(-int32(errno)))
		native.PutUint32(m.b, uint32(len(m.b)))
		return m.b
	}
	for _, c := range []struct {
		name  string
		b     []byte
		errno unix.Errno
		ok    bool
	}{
		{"success", reply(7, 0), 0, true},
		{"refused", reply(7, unix.ENODEV), unix.ENODEV, true},
		{"of another request, then ours", append(reply(6, unix.EPERM), reply(7, unix.EEXIST)...), unix.EEXIST, true},
		{"of another request", reply(6, 0), 0, false},
		{"cut", reply(7, 0)[:18], 0, false},
		{"a length of nothing", make([]byte, 16), 0, false},
		{"nothing", nil, 0, false},
	} {
		if errno, ok := verdict(c.b, 7); errno != c.errno || ok != c.ok {
			t.Errorf("%s: %v, %v", c.name, errno, ok)
		}
	}
}

// The kernel this runs on refuses as any does.
func TestNetlinkRefusal(t *testing.T) {
	nl, err := openNetlink(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer nl.Close()
	if err := nl.linkUp(1 << 30); err == nil {
		t.Error("an interface that does not exist was brought up")
	}
}
