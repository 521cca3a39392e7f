//go:build e2e

package e2e

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"banger"
	"banger/internal/hello"
	"banger/internal/rootfs"
	"banger/internal/shim"
	"banger/internal/state"
)

// rounds is how often each thing is measured; both sides of a ratio take turns
// within one round, so that a busy host slows both.
const rounds = 10

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// BenchmarkRun is `banger run debian-bookworm -- true` against raw QEMU with
// the same command line, kernel, initrd and disks, up to the same point: the
// guest's agent has answered. Its raw-ms tell what the ways to boot take: Debian's
// kernel has an initrd of banger's, the generic one needs none.
func BenchmarkRun(b *testing.B) {
	b.Run("debian-6.1", func(b *testing.B) { benchmarkRun(b, newHost(b), "debian-6.1") })
	b.Run("generic", func(b *testing.B) {
		dir, err := genericKernel()
		if err != nil {
			b.Fatal(err)
		}
		h := newHost(b)
		if out, err := h.banger("kernel", "import", "generic", "--from", dir).CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		benchmarkRun(b, h, "generic")
	})
}

// model makes the VM model, boots it once, and gives QEMU's command line and
// what its shim was told.
func model(b *testing.B, h *host, flags ...string) (argv []string, spec shim.Spec) {
	b.Helper()
	l := h.layout(b)
	if out, err := h.banger(append([]string{"vm", "create", "--image", "debian-bookworm", "--name", "model"}, flags...)...).CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	client := &banger.Client{Socket: l.Socket()}
	defer client.Close()
	vm, err := client.VMShow(b.Context(), "model")
	if err != nil {
		b.Fatal(err)
	}
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", vm.Machine.VMM.PID))
	if err != nil {
		b.Fatal(err)
	}
	argv = strings.Split(strings.TrimSuffix(string(cmdline), "\x00"), "\x00")
	if err := state.ReadRecord(filepath.Join(l.VM(vm.ID), state.BootFile), &spec); err != nil {
		b.Fatal(err)
	}
	if out, err := h.banger("vm", "stop", "--force", "model").CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	return argv, spec
}

func benchmarkRun(b *testing.B, h *host, kernel string) {
	argv, spec := model(b, h, "--kernel", kernel)
	var whole, raw, boot []time.Duration
	for b.Loop() {
		for range rounds {
			raw = append(raw, rawBoot(b, argv, spec))
			start := time.Now()
			if out, err := h.banger("run", "debian-bookworm", "--kernel", kernel, "--", "true").CombinedOutput(); err != nil {
				b.Fatalf("%v: %s", err, out)
			}
			whole = append(whole, time.Since(start))
			start = time.Now()
			if out, err := h.banger("vm", "start", "model").CombinedOutput(); err != nil {
				b.Fatalf("%v: %s", err, out)
			}
			boot = append(boot, time.Since(start))
			if out, err := h.banger("vm", "stop", "--force", "model").CombinedOutput(); err != nil {
				b.Fatalf("%v: %s", err, out)
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ms(median(raw)), "raw-ms")
	b.ReportMetric(ms(median(boot)), "start-ms")
	b.ReportMetric(ms(median(whole)), "run-ms")
	b.ReportMetric(ms(median(boot))/ms(median(raw)), "start/raw")
	b.ReportMetric(ms(median(whole))/ms(median(raw)), "run/raw")
}

// rawBoot starts QEMU alone and plays the host for its guest until the agent answers.
func rawBoot(b *testing.B, argv []string, spec shim.Spec) time.Duration {
	b.Helper()
	start := time.Now()
	_, stop := rawMachine(b, argv, spec, nil)
	took := time.Since(start)
	stop()
	return took
}

// rawMachine starts QEMU alone, with a new disk of its own and other files in the
// place of some, and plays the host for its guest until the agent answers: its
// port then is the stream. The machine ends with the benchmark if not before.
func rawMachine(b *testing.B, argv []string, spec shim.Spec, other map[string]string) (st hello.Stream, stop func()) {
	b.Helper()
	dir := b.TempDir()
	disk := filepath.Join(dir, "disk.img")
	if err := rootfs.Empty(disk, 10<<30); err != nil {
		b.Fatal(err)
	}
	argv = slices.Clone(argv)
	for i := range argv {
		argv[i] = strings.ReplaceAll(argv[i], spec.Machine.Disks[2].Path, disk)
		for from, to := range other {
			argv[i] = strings.ReplaceAll(argv[i], from, to)
		}
	}
	var files []*os.File
	for _, name := range []string{"qmp", "port"} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, name)})
		if err != nil {
			b.Fatal(err)
		}
		f, err := l.File()
		if err != nil {
			b.Fatal(err)
		}
		defer l.Close()
		defer f.Close()
		files = append(files, f)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.ExtraFiles = files
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	conn, err := net.Dial("unix", filepath.Join(dir, "port"))
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if conn != nil {
			_ = conn.Close()
		}
	})
	b.Cleanup(stop)
	if err != nil {
		b.Fatal(err)
	}
	answer := &hello.Host{Config: func(context.Context, string) (hello.Config, error) { return spec.Hello, nil }}
	if st, err = answer.Answer(b.Context(), conn); err != nil {
		b.Fatal(err)
	}
	return st, stop
}

// BenchmarkCreate is the daemon's time to create a VM with a disk of 10 GiB,
// against what the disk itself needs to make as many small files last.
func BenchmarkCreate(b *testing.B) {
	h := newHost(b)
	if _, err := h.output("vm", "ls"); err != nil {
		b.Fatal(err)
	}
	client := &banger.Client{Socket: h.layout(b).Socket()}
	defer client.Close()
	var create, floor []time.Duration
	for b.Loop() {
		for i := range rounds {
			start := time.Now()
			_, err := client.VMCreate(b.Context(), banger.VMCreateRequest{NoStart: true,
				Spec: banger.VMSpec{Name: fmt.Sprintf("vm%d", i), Image: "debian-bookworm", Disk: 10 << 30}}, nil)
			if err != nil {
				b.Fatal(err)
			}
			create = append(create, time.Since(start))
			start = time.Now()
			for j := range 2 {
				if err := state.WriteFile(filepath.Join(h.root, fmt.Sprintf("file%d", j)), make([]byte, 1000), 0o600); err != nil {
					b.Fatal(err)
				}
			}
			floor = append(floor, time.Since(start))
		}
		for i := range rounds {
			if err := client.VMDelete(b.Context(), banger.NameRequest{Name: fmt.Sprintf("vm%d", i)}); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ms(median(create)), "create-ms")
	b.ReportMetric(ms(median(create))/ms(median(floor)), "create/two-fsynced-files")
}

// BenchmarkCommand is the time from the start of a command to the daemon's
// answer, against a process that does nothing; and the daemon's memory at rest.
func BenchmarkCommand(b *testing.B) {
	h := newHost(b)
	if _, err := h.output("vm", "ls"); err != nil {
		b.Fatal(err)
	}
	var ls, nothing []time.Duration
	for b.Loop() {
		for range 3 * rounds {
			start := time.Now()
			if _, err := h.output("vm", "ls"); err != nil {
				b.Fatal(err)
			}
			ls = append(ls, time.Since(start))
			start = time.Now()
			if err := exec.Command("/bin/true").Run(); err != nil {
				b.Fatal(err)
			}
			nothing = append(nothing, time.Since(start))
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ms(median(ls)), "ls-ms")
	b.ReportMetric(ms(median(ls))/ms(median(nothing)), "ls/true")
	b.ReportMetric(daemonMemory(b, h, "VmRSS"), "daemon-idle-MiB")
}

// daemonMemory reads a field of the daemon's /proc/PID/status, in MiB.
func daemonMemory(b *testing.B, h *host, field string) float64 {
	b.Helper()
	client := &banger.Client{Socket: h.layout(b).Socket()}
	defer client.Close()
	v, err := client.SystemVersion(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", v.PID))
	if err != nil {
		b.Fatal(err)
	}
	return mebibytes(b, string(status), field)
}

// BenchmarkPull is an image pulled from a registry on loopback, against
// nothing but unpacking and hashing the same layers with the standard library.
func BenchmarkPull(b *testing.B) {
	h := newHost(b)
	ref := suite.registry + "/library/debian:bookworm"
	var pull, limit []time.Duration
	for b.Loop() {
		for i := range 3 {
			if err := os.RemoveAll(filepath.Join(h.root, "cache", state.BlobsDir)); err != nil {
				b.Fatal(err)
			}
			start := time.Now()
			if out, err := h.banger("image", "pull", ref, "--name", fmt.Sprintf("i%d", i)).CombinedOutput(); err != nil {
				b.Fatalf("%v: %s", err, out)
			}
			pull = append(pull, time.Since(start))
			limit = append(limit, unpackBlobs(b, filepath.Join(h.root, "cache", state.BlobsDir)))
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ms(median(pull)), "pull-ms")
	b.ReportMetric(ms(median(pull))/ms(median(limit)), "pull/gunzip+sha256")
	b.ReportMetric(daemonMemory(b, h, "VmHWM"), "daemon-peak-MiB")
}

func unpackBlobs(b *testing.B, dir string) time.Duration {
	b.Helper()
	start := time.Now()
	blobs, err := filepath.Glob(filepath.Join(dir, "sha256", "*"))
	if err != nil || len(blobs) == 0 {
		b.Fatalf("no blobs: %v", err)
	}
	for _, path := range blobs {
		data, err := os.ReadFile(path)
		if err != nil {
			b.Fatal(err)
		}
		if json.Valid(data) {
			continue
		}
		z, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(sha256.New(), z); err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(start)
}
