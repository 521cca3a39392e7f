//go:build linux

// Command testinit is the guest of the conformance suite: pid 1 of a machine
// that has nothing else. It loads the modules of /modules in the order of their
// names, prints its marker and does what the kernel word vmmtest=... says.
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	err := run()
	fmt.Println("VMMTEST-FAIL", err)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func run() error {
	for _, m := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := os.MkdirAll(m[1], 0o755); err != nil {
			return err
		}
		// The kernel may have mounted /dev already.
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	if err := loadModules(); err != nil {
		return err
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	fmt.Printf("VMMTEST-CMDLINE %s", cmdline)
	fmt.Println("VMMTEST-READY", do())
	switch do() {
	case "poweroff":
		return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	case "reset":
		return unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	case "panic":
		return os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
	case "button":
		return powerButton()
	case "flood":
		line := []byte(strings.Repeat("flood ", 12) + "\n")
		for {
			if _, err := os.Stdout.Write(line); err != nil {
				return err
			}
		}
	case "net":
		return network()
	case "disks":
		return disks()
	}
	return echo()
}

// do is the value of the word vmmtest=... that the kernel handed over as a
// variable, for it knows no such parameter itself.
func do() string { return os.Getenv("vmmtest") }

func loadModules() error {
	names, err := filepath.Glob("/modules/*.ko")
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		_ = f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("load %s: %w", name, err)
		}
	}
	return nil
}

// within calls try until it reports success. Device nodes appear some
// milliseconds after their driver was loaded, and nothing says when.
func within(what string, try func() bool) error {
	for range 5000 {
		if try() {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("wait for %s", what)
}

// echo sends every byte of the agent port back, for client after client.
func echo() error {
	var f *os.File
	err := within("the agent port", func() bool {
		names, _ := filepath.Glob("/sys/class/virtio-ports/vport*/name")
		for _, n := range names {
			b, _ := os.ReadFile(n)
			if strings.TrimSpace(string(b)) == "banger.0" {
				// ENXIO until the port is registered.
				f, _ = os.OpenFile("/dev/"+filepath.Base(filepath.Dir(n)), os.O_RDWR, 0)
			}
		}
		return f != nil
	})
	if err != nil {
		return err
	}
	fmt.Println("VMMTEST-PORT", f.Name())
	buf := make([]byte, 4096)
	for {
		n, err := f.Read(buf)
		if n == 0 {
			// Without a client a read ends at once: look again a little later.
			time.Sleep(2 * time.Millisecond)
			continue
		}
		if err != nil {
			return err
		}
		if _, err := f.Write(buf[:n]); err != nil {
			return err
		}
	}
}

// powerButton powers off when the power button is pressed: any first event of
// any input device, for a microVM has no other key.
func powerButton() error {
	var f *os.File
	err := within("the power button", func() bool {
		names, _ := filepath.Glob("/dev/input/event*")
		for _, n := range names {
			f, _ = os.Open(n)
		}
		return f != nil
	})
	if err != nil {
		return err
	}
	fmt.Println("VMMTEST-BUTTON", f.Name())
	if _, err := f.Read(make([]byte, 24)); err != nil {
		return err
	}
	fmt.Println("VMMTEST-PRESSED")
	return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// disks prints one line for each disk, in the kernel's order: its name, its
// size, whether it is read-only, its first bytes, then whether a write works.
func disks() error {
	if err := within("a disk", func() bool { _, err := os.Stat("/dev/vda"); return err == nil }); err != nil {
		return err
	}
	names, _ := filepath.Glob("/dev/vd?")
	for _, n := range names {
		ro, _ := os.ReadFile("/sys/block/" + filepath.Base(n) + "/ro")
		f, err := os.OpenFile(n, os.O_RDWR|syscall.O_SYNC, 0)
		if err != nil {
			f, err = os.Open(n)
		}
		if err != nil {
			return err
		}
		head := make([]byte, 16)
		if _, err := f.Read(head); err != nil {
			return err
		}
		_, werr := f.WriteAt([]byte("written by guest"), 512)
		fmt.Printf("VMMTEST-DISK %s ro=%s head=%q write=%v\n", n, strings.TrimSpace(string(ro)), head, werr == nil)
		_ = f.Close()
	}
	fmt.Println("VMMTEST-DISKS-END")
	return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// network sets the first card's address and asks the gateway for an echo.
func network() error {
	card, err := net.InterfaceByName("eth0")
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)
	if err != nil {
		return err
	}
	set := func(request uint, addr net.IP) {
		ifr, _ := unix.NewIfreq("eth0")
		if addr != nil {
			err = errors.Join(err, ifr.SetInet4Addr(addr.To4()))
		} else {
			ifr.SetUint16(unix.IFF_UP)
		}
		err = errors.Join(err, unix.IoctlIfreq(fd, request, ifr))
	}
	set(unix.SIOCSIFADDR, net.ParseIP(os.Getenv("address")))
	set(unix.SIOCSIFNETMASK, net.IPv4(255, 255, 255, 0))
	set(unix.SIOCSIFFLAGS, nil)
	if err != nil {
		return fmt.Errorf("set up eth0: %w", err)
	}
	to := &unix.SockaddrInet4{Addr: [4]byte(net.ParseIP(os.Getenv("gateway")).To4())}
	ping := []byte{8, 0, 0xf7, 0xff, 0, 0, 0, 0} // echo request, checksum, id 0, sequence 0
	pong := make([]byte, 128)
	answered := false
	for range 20 {
		if err := unix.Sendto(fd, ping, 0, to); err != nil {
			return err
		}
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, _ := unix.Poll(poll, 500); n == 1 {
			n, _, err := unix.Recvfrom(fd, pong, 0)
			answered = err == nil && n >= 28 && pong[20] == 0 // echo reply after the IP header
			break
		}
	}
	fmt.Printf("VMMTEST-NET mac=%v pong=%v\n", card.HardwareAddr, answered)
	return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}
