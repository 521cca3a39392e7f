//go:build e2e && large

package e2e

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"banger"
	"banger/internal/oci"
	"banger/internal/state"
)

// spent is what something took.
type spent struct{ wall, cpu time.Duration }

// least is the smaller of both, each by itself: what other programs of the host
// add is never negative.
func (s spent) least(t spent) spent {
	if s.wall == 0 {
		return t
	}
	return spent{min(s.wall, t.wall), min(s.cpu, t.cpu)}
}

// BenchmarkImagePull is the large image from a registry on loopback to a
// bootable file, with nothing in the cache, against what other tools take for
// it, and against nothing but unpacking and hashing its layers. All that can be
// compared is measured in one run; CPU seconds are those of all processes.
func BenchmarkImagePull(b *testing.B) {
	layout := largeImage(b)
	for _, tag := range []string{"large", "large-zstd"} {
		if err := command("scripts/test-push", layout+":"+tag, strings.TrimPrefix(suite.registry, "127.0.0.1:"), tag+":1").Run(); err != nil {
			b.Fatal(err)
		}
	}
	h := newHost(b)
	if _, err := h.output("vm", "ls"); err != nil { // which starts the daemon
		b.Fatal(err)
	}
	var pull, limit, zstd, zstdLimit, podman, vfs, umoci spent
	for b.Loop() {
		for range 3 {
			pull = pull.least(pullOnce(b, h, "large"))
			limit = limit.least(unpackOnce(b, layout, "large"))
			zstd = zstd.least(pullOnce(b, h, "large-zstd"))
			zstdLimit = zstdLimit.least(unpackOnce(b, layout, "large-zstd"))
		}
		b.ReportMetric(daemonMemory(b, h, "VmHWM"), "daemon-peak-MiB")
		podman = podman.least(podmanPull(b, "overlay"))
		vfs = vfs.least(podmanPull(b, "vfs"))
		umoci = umoci.least(umociChain(b))
	}
	b.ReportMetric(0, "ns/op")
	for name, s := range map[string]spent{"banger": pull, "limit": limit, "zstd": zstd, "zstd-limit": zstdLimit,
		"podman-overlay": podman, "podman-vfs": vfs, "umoci-mke2fs": umoci} {
		b.ReportMetric(s.cpu.Seconds(), name+"-cpu-s")
		b.ReportMetric(s.wall.Seconds(), name+"-s")
	}
	fastest := min(podman.cpu, vfs.cpu, umoci.cpu)
	b.ReportMetric(pull.cpu.Seconds()/fastest.Seconds(), "cpu/others")
	b.ReportMetric(pull.cpu.Seconds()/limit.cpu.Seconds(), "cpu/limit")
	b.ReportMetric(pull.wall.Seconds()/limit.wall.Seconds(), "wall/limit")
	b.ReportMetric(zstd.cpu.Seconds()/pull.cpu.Seconds(), "zstd/gzip")
}

// measure runs f; the CPU seconds are those of this process, of the programs
// that it has waited for, and of the daemon.
func measure(b *testing.B, h *host, f func()) spent {
	b.Helper()
	cpu := func() time.Duration {
		var sum time.Duration
		for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
			var u syscall.Rusage
			if err := syscall.Getrusage(who, &u); err != nil {
				b.Fatal(err)
			}
			sum += time.Duration(u.Utime.Nano() + u.Stime.Nano())
		}
		if h != nil {
			sum += daemonCPU(b, h)
		}
		return sum
	}
	before, start := cpu(), time.Now()
	f()
	return spent{time.Since(start), cpu() - before}
}

// daemonCPU is utime and stime of the daemon: proc(5), /proc/pid/stat.
func daemonCPU(b *testing.B, h *host) time.Duration {
	b.Helper()
	client := &banger.Client{Socket: h.layout(b).Socket()}
	defer client.Close()
	v, err := client.SystemVersion(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", v.PID))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(stat)[strings.LastIndexByte(string(stat), ')')+1:])
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	const hertz = 100 // of all that proc(5) counts in ticks
	return time.Duration(ticks) * time.Second / hertz
}

// pullOnce pulls an image of the registry with an empty cache, and removes it.
func pullOnce(b *testing.B, h *host, tag string) spent {
	b.Helper()
	if err := os.RemoveAll(filepath.Join(h.root, "cache", state.BlobsDir)); err != nil {
		b.Fatal(err)
	}
	s := measure(b, h, func() {
		if out, err := h.banger("image", "pull", suite.registry+"/"+tag+":1", "--name", tag).CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
	})
	if out, err := h.banger("image", "rm", tag).CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	return s
}

// unpackOnce reads all layers to their ends, two at a time, with banger's own
// reader, which hashes what it reads and what it gives.
func unpackOnce(b *testing.B, layout, tag string) spent {
	b.Helper()
	a, err := oci.OpenDir(layout)
	if err != nil {
		b.Fatal(err)
	}
	defer a.Close()
	im, err := a.Resolve(b.Context(), tag, oci.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer im.Close()
	return measure(b, nil, func() {
		queue := make(chan oci.Layer, len(im.Layers))
		for _, l := range im.Layers {
			queue <- l
		}
		close(queue)
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				for l := range queue {
					if err := readLayer(b.Context(), l); err != nil {
						b.Error(err)
					}
				}
			})
		}
		wg.Wait()
	})
}

func readLayer(ctx context.Context, l oci.Layer) error {
	r, err := l.Open(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, make([]byte, 256<<10))
	return err
}

// podmanPull pulls into a storage of its own, of containers and not bootable.
func podmanPull(b *testing.B, driver string) spent {
	b.Helper()
	dir := b.TempDir()
	args := []string{"--root", dir + "/root", "--runroot", dir + "/run", "--tmpdir", dir + "/tmp", "--storage-driver", driver}
	s := measure(b, nil, func() {
		out, err := exec.Command("podman", append(args, "pull", "--quiet", "--tls-verify=false", suite.registry+"/large:1")...).CombinedOutput()
		if err != nil {
			b.Fatalf("podman pull: %v: %s", err, out)
		}
	})
	_ = exec.Command("umount", dir+"/root/overlay").Run() // which podman leaves mounted
	return s
}

// umociChain makes a bootable file with the tools that are there without banger.
func umociChain(b *testing.B) spent {
	b.Helper()
	dir := b.TempDir()
	return measure(b, nil, func() {
		for _, argv := range [][]string{
			{"skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", "docker://" + suite.registry + "/large:1", "oci:" + dir + "/oci:large"},
			{"umoci", "unpack", "--image", dir + "/oci:large", dir + "/bundle"},
			{"mke2fs", "-q", "-t", "ext4", "-d", dir + "/bundle/rootfs", dir + "/image", "2G"},
		} {
			if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
				b.Fatalf("%v: %v: %s", argv, err, out)
			}
		}
	})
}
