//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"banger"
	"banger/internal/agent"
)

// BenchmarkGuest is `true` in a guest with systemd over a connection that is
// there, against OpenSSH and a sshd in the same guest, with a connection of its
// own and over a master that is there, through `banger vm forward`. Then what the
// agent and the shim need at rest, and how long it takes to pause and resume the
// machine, and to stop it.
func BenchmarkGuest(b *testing.B) {
	h := newHost(b)
	b.Cleanup(func() { _ = h.banger("vm", "rm", "--force", "box").Run() })
	for _, args := range [][]string{
		{"image", "build", "--from-image", "debian-bookworm", "--packages", "openssh-server", "--name", "sshd"},
		{"vm", "create", "--image", "sshd", "--name", "box", "--net", "none", "--cpus", "2"},
	} {
		if out, err := h.banger(args...).CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
	}
	c := h.dialAgent(b, "box")
	peer := h.guestSSHD(b, "box")
	var warm, fresh, master []time.Duration
	took := func(list *[]time.Duration, f func() error) {
		start := time.Now()
		if err := f(); err != nil {
			b.Fatal(err)
		}
		*list = append(*list, time.Since(start))
	}
	for b.Loop() {
		for range rounds {
			took(&warm, func() error { _, err := c.Run(b.Context(), agent.Request{Argv: []string{"true"}}); return err })
			took(&fresh, peer("-S", "none"))
			took(&master, peer())
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ms(median(warm)), "exec-ms")
	b.ReportMetric(ms(median(fresh)), "openssh-ms")
	b.ReportMetric(ms(median(master)), "openssh-master-ms")
	b.ReportMetric(ms(median(fresh))/ms(median(warm)), "openssh/exec")
	b.ReportMetric(ms(median(master))/ms(median(warm)), "openssh-master/exec")
	h.reportMachine(b, "box")
}

// dialAgent connects to a VM's agent as the command line does.
func (h *host) dialAgent(b *testing.B, name string) *agent.Client {
	b.Helper()
	vm := h.show(b, name)
	c, err := agent.DialRoot(b.Context(), vm.Agent, h.layout(b).UserKey(), vm.HostKey)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	return c
}

// guestSSHD lets OpenSSH in to the guest's own sshd, and gives what runs `true`
// there over a master that is there already, unless an option says otherwise.
func (h *host) guestSSHD(b *testing.B, name string) func(options ...string) func() error {
	b.Helper()
	dir := b.TempDir()
	key, control := filepath.Join(dir, "key"), filepath.Join(dir, "c")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	for _, args := range [][]string{
		{"exec", name, "--", "systemctl", "start", "ssh"}, // or waits until it has started
		{"exec", name, "--", "mkdir", "-p", "-m", "700", "/root/.ssh"},
		{"cp", "-q", key + ".pub", name + ":/root/.ssh/authorized_keys"},
	} {
		if out, err := h.banger(args...).CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
	}
	forward := h.banger("vm", "forward", name, "0:22")
	out, err := forward.StdoutPipe()
	if err == nil {
		err = forward.Start()
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = forward.Process.Signal(os.Interrupt); _ = forward.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	address, _, _ := strings.Cut(strings.TrimSpace(line), " ")
	port := address[strings.LastIndexByte(address, ':')+1:]
	run := func(ctx context.Context, options ...string) error {
		args := append([]string{"-F", "none", "-i", key, "-p", port, "-S", control, "-o", "StrictHostKeyChecking=no",
			"-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "BatchMode=yes"}, options...)
		if out, err := exec.CommandContext(ctx, "ssh", append(args, "root@127.0.0.1", "true")...).CombinedOutput(); err != nil {
			return fmt.Errorf("ssh: %w: %s", err, out)
		}
		return nil
	}
	if err := run(b.Context(), "-o", "ControlMaster=yes", "-o", "ControlPersist=yes"); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = exec.Command("ssh", "-S", control, "-O", "exit", "root@127.0.0.1").Run() })
	return func(options ...string) func() error {
		return func() error { return run(b.Context(), options...) }
	}
}

// reportMachine measures a machine at rest, paused, and stopped.
func (h *host) reportMachine(b *testing.B, name string) {
	b.Helper()
	status, err := h.output("exec", name, "--", "sh", "-c", "cat /proc/$(systemctl show -P MainPID banger-vsock-agent)/status")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(mebibytes(b, status, "VmRSS"), "agent-MiB")
	vm := h.show(b, name)
	smaps, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", vm.Machine.Shim.PID))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(mebibytes(b, string(smaps), "Private_Dirty")+mebibytes(b, string(smaps), "Private_Clean"), "shim-private-MiB")

	client := &banger.Client{Socket: h.layout(b).Socket()}
	defer client.Close()
	var pause, resume []time.Duration
	for range rounds {
		start := time.Now()
		if _, err := client.VMPause(b.Context(), name); err != nil {
			b.Fatal(err)
		}
		pause = append(pause, time.Since(start))
		start = time.Now()
		if _, err := client.VMResume(b.Context(), name); err != nil {
			b.Fatal(err)
		}
		resume = append(resume, time.Since(start))
	}
	b.ReportMetric(ms(median(pause)), "pause-ms")
	b.ReportMetric(ms(median(resume)), "resume-ms")
	start := time.Now()
	if _, err := client.VMStop(b.Context(), banger.VMStopRequest{Name: name}); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(ms(time.Since(start)), "stop-ms")
}

// mebibytes reads a field of a file like /proc/PID/status, which has KiB.
func mebibytes(b *testing.B, text, field string) float64 {
	b.Helper()
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			if err != nil {
				b.Fatal(err)
			}
			return kib / 1024
		}
	}
	b.Fatalf("no %s", field)
	return 0
}
