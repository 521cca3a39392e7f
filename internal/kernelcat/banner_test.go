package kernelcat

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"reflect"
	"strings"
	"testing"

	"banger"
)

func TestVersion(t *testing.T) {
	const long = "6.1.0-0123456789012345678901234567890123456789012345678901234567" // 64 bytes
	banner := func(v string) string { return "Linux version " + v + " (builder@host) #1 SMP\n\x00" }
	for _, tt := range []struct {
		name, header, inside string
		want                 string
		kind                 banger.Kind
	}{
		{"nowhere", "", "", "", ""},
		{"in the header", "6.1.0-x (builder@host) #1 SMP", "", "6.1.0-x", ""},
		{"in the header, alone", "6.1.0-x", "", "6.1.0-x", ""},
		{"in the kernel", "", banner("6.1.0-x"), "6.1.0-x", ""},
		{"the same in both", "6.1.0-x (a)", banner("6.1.0-x"), "6.1.0-x", ""},
		{"all that may be in one", "6.1.0+b~rc_1-X (a)", "", "6.1.0+b~rc_1-X", ""},
		{"longest", long + " (a)", banner(long), long, ""},
		{"different", "6.1.0-x (a)", banner("6.1.0-y"), "", banger.Invalid},
		{"no version in the header", "a/../b (a)", "", "", banger.Invalid},
		{"control bytes in the header", "6.1\x1b[2J (a)", "", "", banger.Invalid},
		{"too long in the header", long + "0 (a)", "", "", banger.Invalid},
		{"empty in the header", " (a)", "", "", banger.Invalid},
		{"no version in the kernel", "", banner("../x"), "", ""},
		{"too long in the kernel", "", banner(long + "0"), "", ""},
		{"messages first", "", "Linux version %s\x00Linux version 5.0\x00" + banner("6.1.0-x"), "6.1.0-x", ""},
		{"many messages", "", strings.Repeat("Linux version %s\x00", maxMarks) + banner("6.1.0-x"), "", ""},
		{"cut at the end", "", "Linux version 6.1.0-x", "", ""},
	} {
		kernel := append(vmlinuxELF(elf.EM_X86_64, true, 100), tt.inside...)
		image := bzImage(packGzip(kernel))
		if tt.header != "" {
			image = withVersion(image, tt.header)
		}
		info, _, err := unpackImage(t, image)
		if info.Version != tt.want || tt.kind == "" && err != nil || tt.kind != "" && !banger.IsKind(err, tt.kind) {
			t.Errorf("%s: got %q, %v", tt.name, info.Version, err)
		}
	}
	image := withVersion(bzImage(vmlinuxELF(elf.EM_X86_64, true, 100)), "6.1")
	for _, off := range []uint16{4*sector - 1, 0xffff} { // the last byte of the real-mode code, and beyond
		binary.LittleEndian.PutUint16(image[offKernelVersion:], off)
		if _, _, err := unpackImage(t, image); !banger.IsKind(err, banger.Invalid) {
			t.Errorf("version at %#x: %v", off, err)
		}
	}
}

func TestEmbeddedConfig(t *testing.T) {
	const text = "CONFIG_PVH=y\n"
	good := ikconfig(text)
	damaged := []byte(good)
	damaged[len(damaged)-12] ^= 1 // in gzip's checksum
	for _, tt := range []struct{ name, inside, want string }{
		{"none", "", ""},
		{"good", good, text},
		{"word alone", configStart, ""},
		{"after the word in a message", configStart + "\x00" + good, text},
		{"damaged", string(damaged), ""},
		{"truncated", good[:len(good)/2], ""},
		{"without its end", strings.TrimSuffix(good, configEnd), ""},
		{"another after its end", strings.TrimSuffix(good, configEnd) + "x" + configEnd, ""},
		{"a bomb", ikconfig(strings.Repeat("#", maxConfig+1)), ""},
		{"the largest", ikconfig(strings.Repeat("#", maxConfig)), strings.Repeat("#", maxConfig)},
	} {
		info, _, err := unpackImage(t, bzImage(packZstd(append(vmlinuxELF(elf.EM_X86_64, true, 100), tt.inside...))))
		if err != nil || string(info.Config) != tt.want || (tt.want == "") != (info.Config == nil) {
			t.Errorf("%s: got %d bytes, %v", tt.name, len(info.Config), err)
		}
	}
}

// A word is found wherever writes end.
func TestMark(t *testing.T) {
	const text = "aabaab.aabaaab.aab.aaab"
	var want []int64
	for i := range text {
		if strings.HasPrefix(text[i:], "aab") {
			want = append(want, int64(i))
		}
	}
	for first := range len(text) {
		for second := range len(text) - first {
			m := mark{word: "aab"}
			m.write([]byte(text[:first]))
			m.write([]byte(text[first : first+second]))
			m.write([]byte(text[first+second:]))
			if !reflect.DeepEqual(m.at, want) {
				t.Errorf("writes of %d and %d bytes: %d, want %d", first, second, m.at, want)
			}
		}
	}
	m := mark{word: "aab"}
	for _, b := range []byte(text) {
		m.write([]byte{b})
	}
	if !reflect.DeepEqual(m.at, want) {
		t.Errorf("single bytes: %d, want %d", m.at, want)
	}
	m = mark{word: "aa"}
	m.write(bytes.Repeat([]byte("a"), 1000))
	if len(m.at) != maxMarks || m.at[maxMarks-1] != maxMarks-1 {
		t.Errorf("%d of the most", m.at)
	}
}

func TestCheckHost(t *testing.T) {
	if err := CheckHost(HostArch()); err != nil {
		t.Error(err)
	}
	for _, arch := range []string{"", "aarch64", "x86_64", "EM_RISCV"} {
		err := CheckHost(arch)
		if e := banger.AsError(err); arch != HostArch() && (e == nil || e.Kind != banger.Unsupported || !strings.Contains(e.Hint, HostArch())) {
			t.Errorf("%q: %+v", arch, e)
		}
	}
}
