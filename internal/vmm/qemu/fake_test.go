package qemu

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// modeVar makes the test binary play QEMU; its value says how.
const modeVar = "BANGER_FAKE_QEMU"

func TestMain(m *testing.M) {
	if mode := os.Getenv(modeVar); mode != "" {
		os.Exit(fakeQEMU(mode, os.Args[1:]))
	}
	os.Exit(m.Run())
}

// fakeQEMU reads its command line and speaks QMP as far as the driver needs it.
func fakeQEMU(mode string, args []string) int {
	kvm := slices.Contains(args, "kvm")
	switch {
	case slices.Contains(args, "--version"):
		v := map[bool]string{true: "4.2.1", false: "7.2.22"}[mode == "old"]
		fmt.Printf("QEMU emulator version %s (Debian)\n", v)
		return 0
	case slices.Contains(args, "help"):
		fmt.Println("Supported machines are:\nmicrovm              microvm (i386)\nnone                 empty machine")
		return 0
	}
	die := func(words string) int {
		fmt.Fprintln(os.Stderr, "qemu-system-x86_64: "+words)
		return 1
	}
	switch {
	case mode == "kvm dies" && kvm:
		return die("failed to initialize kvm: Permission denied")
	case mode == "kvm hangs" && kvm, mode == "hangs":
		time.Sleep(time.Hour)
	case mode == "no sandbox" && slices.Contains(args, "-sandbox"):
		return die("-sandbox " + sandbox + ": There is no option group 'sandbox'")
	case mode == "locked":
		return die(`Failed to get "write" lock`)
	case mode == "old":
		return die("Property 'microvm-machine.acpi' not found")
	case mode == "chatty":
		return die(strings.Repeat("chatter ", 1<<17) + "last words")
	case slices.Contains(args, "stdio"): // a probe
		return 0
	}
	fmt.Print("serial output\n")
	conn := accept(qmpFD)
	agent := accept(agentFD)
	_ = agent.Close()
	return serveQMP(conn, mode, kvm)
}

func accept(fd uintptr) net.Conn {
	ln, err := net.FileListener(os.NewFile(fd, "listener"))
	if err != nil {
		panic(err)
	}
	if fd == agentFD {
		return &net.UnixConn{} // nobody dials it
	}
	conn, err := ln.Accept()
	if err != nil {
		panic(err)
	}
	return conn
}

func serveQMP(conn net.Conn, mode string, kvm bool) int {
	say := func(format string, args ...any) { fmt.Fprintf(conn, format+"\r\n", args...) }
	if mode == "garbage" {
		say("220 smtp ready")
	} else {
		say(`{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}}`)
	}
	status := map[bool]string{true: "internal-error", false: "running"}[mode == "paused"]
	sc := bufio.NewScanner(conn)
	for sc.Scan() {
		var c struct {
			Execute string
			ID      int64
		}
		_ = json.Unmarshal(sc.Bytes(), &c)
		answers := map[string]string{
			"query-status": fmt.Sprintf(`{"status": %q, "running": true}`, status),
			"query-kvm":    fmt.Sprintf(`{"enabled": %v, "present": true}`, kvm),
		}
		answer := answers[c.Execute]
		if answer == "" {
			answer = "{}"
		}
		say(`{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RTC_CHANGE", "data": {"offset": 0}}`)
		say(`{"return": %s, "id": %d}`, answer, c.ID)
		if c.Execute == "system_powerdown" {
			say(`{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}`)
			return 0
		}
	}
	return 3
}
