//go:build e2e

package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"banger"
	"banger/internal/state"
)

// makeBundle packs the kernel debian-6.1 with its modules, as docs/kernel-catalog.md
// tells publishers to, and 30 MiB of initrd, packed as those are. It returns the
// digest and the megabytes of the file.
func makeBundle(b *testing.B, h *host, path string) (sum string, mb float64) {
	b.Helper()
	script := `cd "$(mktemp -d)"; cp -r "$1/vmlinux" "$1/modules" .; head -c 30M /dev/urandom >initrd.img
		tar --sort=name -cf - * | zstd -q -T0 -12 -o "$2"; rm -r "$PWD"`
	if out, err := exec.Command("sh", "-c", script, "-", filepath.Join(h.root, "kernels", "debian-6.1"), path).CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(data)), float64(len(data)) / 1e6
}

// BenchmarkKernelPull is `banger kernel pull` of a bundle from a server on
// loopback, against the pipelines that do the same by hand, one in passing and
// one with a file between. banger's time has its waiting for the disk in it, for
// which the pipelines get a sync of the folder that they wrote.
func BenchmarkKernelPull(b *testing.B) {
	h := newHost(b)
	www, work := b.TempDir(), b.TempDir()
	sum, mb := makeBundle(b, h, filepath.Join(www, "bundle.tar.zst"))
	srv := httptest.NewServer(http.FileServer(http.Dir(www)))
	defer srv.Close()
	url := srv.URL + "/bundle.tar.zst"
	shell := func(script string) time.Duration {
		if err := os.RemoveAll(filepath.Join(work, "x")); err != nil {
			b.Fatal(err)
		}
		start := time.Now()
		cmd := exec.Command("bash", "-c", "set -euo pipefail; mkdir x; "+script+"; sync -f x", "-", url, sum)
		cmd.Dir = work
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		return time.Since(start)
	}
	var pull, passing, staged []time.Duration
	for b.Loop() {
		for i := range rounds {
			start := time.Now()
			if out, err := h.output("kernel", "pull", url+"#sha256="+sum, "--name", fmt.Sprintf("k%d", i)); err != nil {
				b.Fatalf("%v: %s", err, out)
			}
			pull = append(pull, time.Since(start))
			passing = append(passing, shell(`curl -sSf "$1" | tee >(sha256sum >sum) | zstd -dqc | tar -C x -x; grep -q "$2" sum`))
			staged = append(staged, shell(`curl -sSf "$1" | tee file | sha256sum >sum; grep -q "$2" sum; zstd -dqc file | tar -C x -x`))
			if _, err := h.output("kernel", "rm", fmt.Sprintf("k%d", i)); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(mb, "bundle-MB")
	b.ReportMetric(ms(median(pull)), "pull-ms")
	b.ReportMetric(ms(median(pull))/ms(min(median(passing), median(staged))), "pull/curl+sha256sum+zstd+tar")
	b.ReportMetric(daemonMemory(b, h, "VmHWM"), "daemon-peak-MiB")
}

// BenchmarkKernelLs is the whole of `banger kernel ls` with a thousand kernels,
// against `banger vm ls` with no VM, which is the price of any command.
func BenchmarkKernelLs(b *testing.B) {
	h := newHost(b)
	var k banger.Kernel
	if err := state.ReadRecord(filepath.Join(h.root, "kernels", "debian-6.1", state.ManifestFile), &k); err != nil {
		b.Fatal(err)
	}
	for i := range 1000 {
		k.Name = fmt.Sprintf("kernel-%d", i)
		dir := filepath.Join(h.root, "kernels", k.Name)
		record, err := json.Marshal(k)
		if err != nil {
			b.Fatal(err)
		}
		for name, data := range map[string][]byte{state.ManifestFile: record, state.VmlinuxFile: nil} {
			if err := os.MkdirAll(dir, 0o700); err != nil {
				b.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				b.Fatal(err)
			}
		}
	}
	if _, err := h.output("kernel", "ls"); err != nil { // reads the records
		b.Fatal(err)
	}
	var kernels, vms []time.Duration
	for b.Loop() {
		for range 3 * rounds {
			for _, c := range []struct {
				word  string
				times *[]time.Duration
			}{{"kernel", &kernels}, {"vm", &vms}} {
				start := time.Now()
				if _, err := h.output(c.word, "ls"); err != nil {
					b.Fatal(err)
				}
				*c.times = append(*c.times, time.Since(start))
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ms(median(kernels)), "ls-1000-ms")
	b.ReportMetric(ms(median(kernels))/ms(median(vms)), "ls-1000/vm-ls")
}
