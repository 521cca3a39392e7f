package agent

import (
	"banger/internal/parcel"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// zeros is an endless reader.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func BenchmarkRun(b *testing.B) {
	r := newRig(b)
	r.boot()
	c := r.dial()
	for b.Loop() {
		if exit, err := c.Run(b.Context(), Request{Argv: []string{"true"}}); err != nil || exit.Code != 0 {
			b.Fatal(exit, err)
		}
	}
}

func BenchmarkDial(b *testing.B) {
	r := newRig(b)
	r.boot()
	for b.Loop() {
		c, err := Dial(b.Context(), r.socket, r.opts)
		if err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}

func BenchmarkOutput(b *testing.B) {
	r := newRig(b)
	r.boot()
	c := r.dial()
	b.SetBytes(64 << 20)
	for b.Loop() {
		if _, err := c.Run(b.Context(), Request{Argv: []string{"head", "-c", "67108864", "/dev/zero"}}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkInput(b *testing.B) {
	r := newRig(b)
	r.boot()
	c := r.dial()
	b.SetBytes(64 << 20)
	for b.Loop() {
		if _, err := c.Run(b.Context(), Request{Argv: []string{"cat"}, Stdin: io.LimitReader(zeros{}, 64<<20), Stdout: io.Discard}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCopyFrom is a file of 64 MiB that the guest packs.
func BenchmarkCopyFrom(b *testing.B) {
	r := newRig(b)
	r.boot()
	c := r.dial()
	file := filepath.Join(b.TempDir(), "file")
	if err := os.WriteFile(file, bytes.Repeat([]byte("0123456789abcdef"), 4<<20), 0o600); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(64 << 20)
	for b.Loop() {
		_, err := c.CopyFrom(b.Context(), "", parcel.Source{Path: file}, func(r io.Reader) error {
			_, err := io.Copy(io.Discard, r)
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}
