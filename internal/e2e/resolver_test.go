//go:build e2e

package e2e

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestResolver looks a name up in a guest whose host knows only a name server
// of its own: on the loopback address, as with a local stub, and on another one.
// The host is a set of namespaces, so that nothing of the real one is touched.
func TestResolver(t *testing.T) {
	for name, server := range map[string]string{"loopback": "127.0.0.53", "other": "10.99.0.1"} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(h.env, roleEnv+"=resolver", "SERVER="+server, "DIR="+t.TempDir())
			cmd.SysProcAttr = &syscall.SysProcAttr{
				Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWNS,
				UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}},
				GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}},
				AmbientCaps: []uintptr{unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN, unix.CAP_NET_BIND_SERVICE},
			}
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if !strings.Contains(string(out), "192.0.2.7") {
				t.Errorf("the guest found %q", out)
			}
		})
	}
}

// roleEnv makes the test program play another part than running tests.
const roleEnv = "BANGER_E2E_ROLE"

// playResolver is the host of TestResolver: it sets up the namespaces it was
// started in, serves DNS there and lets a guest ask.
func playResolver() error {
	server := os.Getenv("SERVER")
	if err := linkUp(server); err != nil {
		return err
	}
	conf := filepath.Join(os.Getenv("DIR"), "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver "+server+"\nsearch banger.example\n"), 0o644); err != nil {
		return err
	}
	if err := unix.Mount(conf, "/etc/resolv.conf", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount resolv.conf: %w", err)
	}
	conn, err := net.ListenPacket("udp", server+":53")
	if err != nil {
		return err
	}
	go answerAll(conn)
	for _, args := range [][]string{{"run", "debian-bookworm", "--", "getent", "hosts", "test"}, {"daemon", "stop"}} {
		cmd := exec.Command(filepath.Join(suite.bin, "banger"), args...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("banger %s: %w", strings.Join(args, " "), err)
		}
	}
	return nil
}

// linkUp brings the loopback interface up and gives it one more address. Source: netdevice(7).
func linkUp(addr string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	set := func(request uint, name string, value []byte) error {
		req := make([]byte, 40)
		copy(req, name)
		copy(req[16:], value)
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(unsafe.Pointer(&req[0]))); e != 0 {
			return fmt.Errorf("set up %s: %w", name, e)
		}
		return nil
	}
	if err := set(unix.SIOCSIFFLAGS, "lo", binary.NativeEndian.AppendUint16(nil, unix.IFF_UP|unix.IFF_RUNNING)); err != nil {
		return err
	}
	sockaddr := binary.NativeEndian.AppendUint16(nil, unix.AF_INET)
	sockaddr = append(append(sockaddr, 0, 0), net.ParseIP(addr).To4()...)
	return set(unix.SIOCSIFADDR, "lo:1", sockaddr)
}

// answerAll answers every question for an address with 192.0.2.7, if it is for
// test.banger.example, and with nothing otherwise. Source: RFC 1035, section 4.
func answerAll(conn net.PacketConn) {
	buf := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		q := buf[:n]
		const header = 12
		end := header + strings.IndexByte(string(q[min(header, n):]), 0) + 5
		if n < header || end > n {
			continue
		}
		r := append([]byte{}, q[:end]...)
		r[2], r[3] = 0x81, 0x80
		copy(r[6:header], make([]byte, 6))
		name, qtype := string(q[header:end-4]), binary.BigEndian.Uint16(q[end-4:])
		if strings.EqualFold(name, "\x04test\x06banger\x07example\x00") && qtype == 1 {
			r[7] = 1
			r = append(r, 0xc0, header, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7)
		}
		_, _ = conn.WriteTo(r, from)
	}
}
