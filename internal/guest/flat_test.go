package guest

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
)

func TestIsFlat(t *testing.T) {
	for line, want := range map[string]bool{
		"console=ttyS0 banger.root=flat\n":      true,
		"banger.root=flat quiet\n":              true,
		"banger.root=flatter\n":                 false,
		"banger.root=overlay\n":                 false,
		"x=banger.root=flat\n":                  false,
		"root=/dev/vda ro init=/banger-guest\n": false,
		"":                                      false,
	} {
		path := filepath.Join(t.TempDir(), "cmdline")
		if err := os.WriteFile(path, []byte(line), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := isFlat(path); got != want || err != nil {
			t.Errorf("%q: %v, %v", line, got, err)
		}
	}
	if _, err := isFlat(filepath.Join(t.TempDir(), "absent")); err == nil {
		t.Error("no command line is no error")
	}
}

func TestExt4Size(t *testing.T) {
	sb := make([]byte, 1024)
	binary.LittleEndian.PutUint32(sb[0x04:], 1000)
	binary.LittleEndian.PutUint32(sb[0x18:], 2)
	binary.LittleEndian.PutUint32(sb[0x150:], 1)
	if blocks, size := ext4Size(sb); blocks != 1000 || size != 4096 {
		t.Errorf("%d blocks of %d", blocks, size)
	}
	sb[0x60] = 0xC2 // with 64bit, the upper half counts
	if blocks, size := ext4Size(sb); blocks != 1<<32+1000 || size != 4096 {
		t.Errorf("64bit: %d blocks of %d", blocks, size)
	}
}
