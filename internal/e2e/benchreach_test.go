//go:build e2e

package e2e

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"banger/internal/hello"
	"banger/internal/shim"
	"banger/internal/state"
)

// copySize is what is copied to measure it, outputSize what a command writes.
const (
	copySize   = 256 << 20
	outputSize = 1 << 30
)

// BenchmarkCopy is `banger cp` of one file of 256 MiB into a VM and out of it,
// against the same number of bytes over the raw virtio-serial port with nothing
// at either end: the same kernel, QEMU and number of CPUs, no files, no banger.
// What the guest's own dd needs to write and to read the file is told beside it:
// under emulation its file system is the slowest part of the way.
func BenchmarkCopy(b *testing.B) {
	h := newHost(b)
	b.Cleanup(func() { _ = h.banger("vm", "rm", "--force", "model").Run() })
	argv, spec := model(b, h, "--cpus", "2", "--memory", "1G", "--net", "none")
	raw := rawPort(b, h, argv, spec)
	if out, err := h.banger("vm", "start", "model").CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	file := filepath.Join(h.root, "file")
	if err := exec.Command("sh", "-c", fmt.Sprintf("head -c %d /dev/urandom > %s", copySize, file)).Run(); err != nil {
		b.Fatal(err)
	}
	run := func(args ...string) time.Duration {
		start := time.Now()
		if out, err := h.banger(args...).CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		return time.Since(start)
	}
	var in, out, rawIn, rawOut, write, read []time.Duration
	for b.Loop() {
		for range 3 {
			rawIn, rawOut = append(rawIn, raw(true)), append(rawOut, raw(false))
			in = append(in, run("cp", "-q", file, "model:/root/file"))
			out = append(out, run("cp", "-q", "model:/root/file", file+".back"))
			write = append(write, run("exec", "model", "--", "dd", "if=/dev/zero", "of=/root/zero", "bs=64k", fmt.Sprintf("count=%d", copySize>>16)))
			read = append(read, run("exec", "model", "--", "dd", "if=/root/file", "of=/dev/null", "bs=64k"))
		}
	}
	if err := exec.Command("cmp", file, file+".back").Run(); err != nil {
		b.Fatalf("the copy differs: %v", err)
	}
	mb := func(d []time.Duration) float64 { return copySize / 1e6 / median(d).Seconds() }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(mb(rawIn), "raw-in-MB/s")
	b.ReportMetric(mb(in), "cp-in-MB/s")
	b.ReportMetric(mb(in)/mb(rawIn), "cp-in/raw")
	b.ReportMetric(mb(rawOut), "raw-out-MB/s")
	b.ReportMetric(mb(out), "cp-out-MB/s")
	b.ReportMetric(mb(out)/mb(rawOut), "cp-out/raw")
	b.ReportMetric(mb(write), "dd-write-MB/s")
	b.ReportMetric(mb(read), "dd-read-MB/s")
}

// BenchmarkExec is a command in a VM that does nothing, and one that writes a
// GiB, of which every byte has to be right.
func BenchmarkExec(b *testing.B) {
	h := newHost(b)
	b.Cleanup(func() { _ = h.banger("vm", "rm", "--force", "box").Run() })
	if out, err := h.banger("vm", "create", "--image", "debian-bookworm", "--name", "box", "--net", "none").CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	var nothing []time.Duration
	var much time.Duration
	for b.Loop() {
		for range 3 * rounds {
			start := time.Now()
			if out, err := h.banger("exec", "box", "--", "true").CombinedOutput(); err != nil {
				b.Fatalf("%v: %s", err, out)
			}
			nothing = append(nothing, time.Since(start))
		}
		cmd := h.banger("exec", "box", "--", "sh", "-c", fmt.Sprintf("yes 'all of it' | head -c %d", outputSize))
		out, err := cmd.StdoutPipe()
		if err != nil {
			b.Fatal(err)
		}
		start := time.Now()
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		got, want := sha256.New(), sha256.New()
		n, err := io.Copy(got, out)
		if werr := cmd.Wait(); err != nil || werr != nil || n != outputSize {
			b.Fatalf("%d bytes: %v, %v", n, err, werr)
		}
		much = time.Since(start)
		line := []byte("all of it\n")
		for at := 0; at < outputSize; at += len(line) {
			want.Write(line[:min(len(line), outputSize-at)])
		}
		if string(got.Sum(nil)) != string(want.Sum(nil)) {
			b.Fatal("the output differs")
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ms(median(nothing)), "exec-true-ms")
	b.ReportMetric(outputSize/1e6/much.Seconds(), "output-MB/s")
}

// rawPort boots QEMU alone with an image that holds rawport in the place of
// systemd, and gives what moves copySize bytes over its port.
func rawPort(b *testing.B, h *host, argv []string, spec shim.Spec) func(in bool) time.Duration {
	b.Helper()
	dir := b.TempDir()
	program, image := filepath.Join(dir, "rawport"), filepath.Join(dir, "raw.tar")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "./internal/e2e/rawport")
	build.Dir, build.Env = suite.repo, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	text, err := os.ReadFile(program)
	if err != nil {
		b.Fatal(err)
	}
	f, err := os.Create(image)
	if err != nil {
		b.Fatal(err)
	}
	tw := tar.NewWriter(f)
	for _, e := range []tar.Header{{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "lib/systemd/systemd", Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(text))}} {
		if err := tw.WriteHeader(&e); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := tw.Write(text); err != nil {
		b.Fatal(err)
	}
	if err := tw.Close(); err != nil {
		b.Fatal(err)
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	if out, err := h.banger("image", "import", image, "--name", "raw").CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	spec.Hello.Init = "systemd"
	st, _ := rawMachine(b, argv, spec, map[string]string{spec.Machine.Disks[1].Path: filepath.Join(h.root, state.ImagesDir, "raw", state.RootfsFile)})
	buf := make([]byte, hello.MaxFrame)
	return func(in bool) time.Duration {
		start := time.Now()
		order := binary.BigEndian.AppendUint64([]byte{'w'}, copySize)
		if in {
			order[0] = 'r'
		}
		if _, err := st.Write(order); err != nil {
			b.Fatal(err)
		}
		expect := int64(copySize)
		if in {
			expect = 1 // its answer
			for n := 0; n < copySize; n += len(buf) {
				if _, err := st.Write(buf); err != nil {
					b.Fatal(err)
				}
			}
		}
		if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, io.LimitReader(st, expect), buf); err != nil {
			b.Fatal(err)
		}
		return time.Since(start)
	}
}
