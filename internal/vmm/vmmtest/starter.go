package vmmtest

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger"
	"banger/internal/vmm"
)

// starterVar makes a second run of the test binary start one machine and wait
// to be killed; its value is the initrd, a newline and the run directory.
const starterVar = "BANGER_VMMTEST_STARTER"

// starter is that second run. It prints the VMM's process.
func starter(t *testing.T, driver vmm.Driver, kernel string) {
	initrd, runDir, _ := strings.Cut(os.Getenv(starterVar), "\n")
	m, err := driver.Start(t.Context(), vmm.Spec{
		ID: "test", CPUs: 1, Memory: 256 << 20, Kernel: filepath.Join(kernel, "vmlinux"), Initrd: initrd,
		RunDir: runDir, Cmdline: []string{"vmmtest=echo"}, Accel: os.Getenv("BANGER_TEST_ACCEL"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(m.Process()); err != nil {
		t.Fatal(err)
	}
	<-m.Done()
}

// starterDies kills the process that started a machine, before the guest is up:
// the machine boots on, though nobody reads its console any more, and another
// process reaches its agent.
func (s *suite) starterDies(t *testing.T) {
	spec := s.spec(t, "echo")
	name, _, _ := strings.Cut(t.Name(), "/")
	cmd := exec.Command(os.Args[0], "-test.run=^"+name+"$")
	cmd.Env = append(os.Environ(), starterVar+"="+s.initrd+"\n"+spec.RunDir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var p banger.Process
	err = json.NewDecoder(out).Decode(&p)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if err != nil {
		t.Fatalf("read process of the VMM: %v", err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(p.PID, syscall.SIGKILL)
		gone(t, p)
	})
	info, err := s.driver.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !info.Features.AgentPort {
		t.Skip("the driver's agent stream has no socket of its own")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", filepath.Join(spec.RunDir, vmm.AgentSocket))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	echo(t, conn, "is anybody there")
	if now, err := vmm.ProcessOf(p.PID); err != nil || now != p {
		t.Errorf("VMM is %+v (%v), was %+v", now, err, p)
	}
}

// gone waits for the end of a process that is not our child, so that nothing
// but looking tells.
func gone(t *testing.T, p banger.Process) {
	t.Helper()
	for range 1000 {
		stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.PID), "stat"))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Errorf("process %d is still there", p.PID)
}
