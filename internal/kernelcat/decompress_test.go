package kernelcat

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"banger"
)

// packers are the kinds of testdata/vmlinux.*, one kernel packed by the real
// tools; see testdata/make.sh.
var packers = []string{"gzip", "xz", "lz4", "zstd", "bzip2", "lzma"}

const (
	packedSHA256  = "7ada4bfe7e55a86568ac84adf3340de6b844a0ca7b00697dd15033b2cdfd7a5b"
	packedVersion = "6.1.0-test"
)

func packed(t testing.TB, kind string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "vmlinux."+kind))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestUnpack(t *testing.T) {
	for _, kind := range packers {
		info, _, err := unpackImage(t, bzImage(packed(t, kind)))
		if err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		if info.Compression != kind || info.SHA256 != packedSHA256 || info.Version != packedVersion || info.Arch != "x86_64" || !info.PVH ||
			!strings.Contains(string(info.Config), "\nCONFIG_IKCONFIG=y\n") {
			t.Errorf("%s: %+v", kind, info)
		}
	}
}

// No part of a packed kernel is taken for the whole, and no damage for a
// kernel. The formats without a checksum may be damaged unseen.
func TestUnpackDamaged(t *testing.T) {
	checked := map[string]bool{"gzip": true, "xz": true, "zstd": true, "bzip2": true}
	for _, kind := range packers {
		whole := packed(t, kind)
		for n := 7; n < len(whole); n += len(whole) / 16 {
			if _, _, err := unpackImage(t, bzImage(whole[:n])); !banger.IsKind(err, banger.Invalid) {
				t.Errorf("%s cut to %d of %d bytes: %v", kind, n, len(whole), err)
			}
			bad := bytes.Clone(whole)
			bad[n] ^= 0x55
			info, _, err := unpackImage(t, bzImage(bad))
			switch {
			case err != nil && !banger.IsKind(err, banger.Invalid) && !banger.IsKind(err, banger.Unsupported):
				t.Errorf("%s with byte %d changed: %v", kind, n, err)
			case err == nil && checked[kind] && info.SHA256 != packedSHA256:
				t.Errorf("%s with byte %d changed was unpacked", kind, n)
			}
		}
		if _, _, err := unpackImage(t, bzImage(append(whole[:6:6], bytes.Repeat([]byte("garbage "), 2000)...))); !banger.IsKind(err, banger.Invalid) {
			t.Errorf("%s with garbage: %v", kind, err)
		}
		if kind == "gzip" {
			continue
		}
		for _, size := range []int{0, 1000, 1 << 20, 1<<32 - 1} {
			bad := binary.LittleEndian.AppendUint32(whole[:len(whole)-4:len(whole)-4], uint32(size))
			if _, _, err := unpackImage(t, bzImage(bad)); !banger.IsKind(err, banger.Invalid) {
				t.Errorf("%s that claims %d bytes: %v", kind, size, err)
			}
		}
	}
}

// A few bytes cannot ask for gigabytes of memory.
func TestUnpackWindow(t *testing.T) {
	size := []byte("\x00\x10\x00\x00")
	xzHeader := packed(t, "xz")[:12]
	// A block of LZMA2 with a dictionary of 4 GiB; the checksum is of the first 8 bytes.
	xzBlock := []byte("\x02\x00\x21\x01\x28\x00\x00\x00")
	xzBlock = binary.LittleEndian.AppendUint32(xzBlock, crc32.ChecksumIEEE(xzBlock))
	for _, tt := range []struct {
		name    string
		payload []byte
		kind    banger.Kind
	}{
		{"xz", append(append(bytes.Clone(xzHeader), xzBlock...), bytes.Repeat([]byte{1}, 100)...), banger.Unsupported},
		{"lzma", append([]byte("\x5d\x00\x00\x00\xf0\xff\xff\xff\xff\xff\xff\xff\xff"), make([]byte, 100)...), banger.Invalid},
		{"zstd", append([]byte("\x28\xb5\x2f\xfd\x00\xf8"), make([]byte, 100)...), banger.Invalid},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _, err := unpackImage(t, bzImage(append(tt.payload, size...)))
		runtime.ReadMemStats(&after)
		if !banger.IsKind(err, tt.kind) {
			t.Errorf("%s: got %v, want kind %s", tt.name, err, tt.kind)
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > 8<<20 {
			t.Errorf("%s: allocated %d MiB", tt.name, got>>20)
		}
	}
}
