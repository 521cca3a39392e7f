package sshd

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// tty is a pseudo terminal. Its methods may be called on nil and then do nothing.
type tty struct {
	name   string   // /dev/pts/N
	master *os.File // in the Go poller
	slave  *os.File // for the program; closed once that has it
	close  sync.Once
}

func openTTY() (_ *tty, err error) {
	m, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("open a terminal: %w", err)
	}
	defer func() {
		if err != nil {
			m.Close()
		}
	}()
	t := &tty{master: m}
	err = control(m, func(fd int) error {
		n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
		if err != nil {
			return err
		}
		t.name = fmt.Sprintf("/dev/pts/%d", n)
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return err
		}
		// Not by its name: that depends on where devpts is mounted.
		s, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
		if errno != 0 {
			return errno
		}
		t.slave = os.NewFile(s, t.name)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("open a terminal: %w", err)
	}
	return t, nil
}

// Close hangs the terminal up.
func (t *tty) Close() {
	if t == nil {
		return
	}
	t.close.Do(func() {
		t.master.Close()
		t.slave.Close()
	})
}

func (t *tty) resize(cols, rows, x, y uint32) bool {
	if t == nil {
		return false
	}
	ws := &unix.Winsize{Col: uint16(cols), Row: uint16(rows), Xpixel: uint16(x), Ypixel: uint16(y)}
	return control(t.master, func(fd int) error { return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, ws) }) == nil
}

// sendBreak does what a break on a serial line does to a shell: SIGINT.
func (t *tty) sendBreak() bool {
	return t != nil && control(t.master, func(fd int) error {
		return unix.IoctlSetInt(fd, unix.TIOCSIG, int(unix.SIGINT))
	}) == nil
}

// endInput tells the program that the client has no more input, as typing the
// end-of-file character does.
func (t *tty) endInput() {
	var eof byte
	err := control(t.master, func(fd int) error {
		tio, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err == nil && tio.Lflag&unix.ICANON != 0 {
			eof = tio.Cc[unix.VEOF]
		}
		return err
	})
	if err == nil && eof != 0 {
		_, _ = t.master.Write([]byte{eof})
	}
}

// Opcodes of RFC 4254 section 8 and what they set in a termios. Speeds (128,
// 129) are left out: nothing is slow here.
var (
	modeChars = map[byte]int{
		1: unix.VINTR, 2: unix.VQUIT, 3: unix.VERASE, 4: unix.VKILL, 5: unix.VEOF, 6: unix.VEOL, 7: unix.VEOL2,
		8: unix.VSTART, 9: unix.VSTOP, 10: unix.VSUSP, 12: unix.VREPRINT, 13: unix.VWERASE, 14: unix.VLNEXT, 18: unix.VDISCARD,
	}
	modeInput = map[byte]uint32{
		30: unix.IGNPAR, 31: unix.PARMRK, 32: unix.INPCK, 33: unix.ISTRIP, 34: unix.INLCR, 35: unix.IGNCR, 36: unix.ICRNL,
		37: unix.IUCLC, 38: unix.IXON, 39: unix.IXANY, 40: unix.IXOFF, 41: unix.IMAXBEL, 42: unix.IUTF8,
	}
	modeLocal = map[byte]uint32{
		50: unix.ISIG, 51: unix.ICANON, 52: unix.XCASE, 53: unix.ECHO, 54: unix.ECHOE, 55: unix.ECHOK, 56: unix.ECHONL,
		57: unix.NOFLSH, 58: unix.TOSTOP, 59: unix.IEXTEN, 60: unix.ECHOCTL, 61: unix.ECHOKE, 62: unix.PENDIN,
	}
	modeOutput = map[byte]uint32{70: unix.OPOST, 71: unix.OLCUC, 72: unix.ONLCR, 73: unix.OCRNL, 74: unix.ONOCR, 75: unix.ONLRET}
)

// setModes applies encoded terminal modes; unknown ones are skipped.
func (t *tty) setModes(modes []byte) {
	_ = control(t.slave, func(fd int) error {
		tio, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err != nil {
			return err
		}
		for ; len(modes) >= 5 && modes[0] != 0; modes = modes[5:] {
			op, v := modes[0], binary.BigEndian.Uint32(modes[1:])
			if i, ok := modeChars[op]; ok {
				tio.Cc[i] = byte(v)
			}
			setFlag(&tio.Iflag, modeInput[op], v)
			setFlag(&tio.Lflag, modeLocal[op], v)
			setFlag(&tio.Oflag, modeOutput[op], v)
		}
		return unix.IoctlSetTermios(fd, unix.TCSETS, tio)
	})
}

func setFlag(flags *uint32, bit, on uint32) {
	if on != 0 {
		*flags |= bit
	} else {
		*flags &^= bit
	}
}
