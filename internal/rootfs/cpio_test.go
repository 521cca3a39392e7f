package rootfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"banger"
)

// readCpio lists an archive as "mode name size major:minor contents".
func readCpio(t *testing.T, b []byte) []string {
	t.Helper()
	var out []string
	for {
		if len(b) < 110 || string(b[:6]) != "070701" {
			t.Fatalf("no header in %.20q", b)
		}
		var f [13]int
		for i := range f {
			if _, err := fmt.Sscanf(string(b[6+8*i:14+8*i]), "%X", &f[i]); err != nil {
				t.Fatal(err)
			}
		}
		name := string(b[110 : 110+f[11]-1])
		at := (110 + f[11] + 3) &^ 3
		end := at + f[6]
		if name == "TRAILER!!!" {
			return out
		}
		out = append(out, strings.TrimSpace(fmt.Sprintf("%o %s %d:%d %s", f[1], name, f[9], f[10], b[at:end])))
		b = b[(end+3)&^3:]
	}
}

func fileOf(name, data string) File {
	return File{Name: name, Size: int64(len(data)), Open: func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(data)), nil
	}}
}

func TestInitrd(t *testing.T) {
	var b bytes.Buffer
	modules := []File{fileOf("virtio_blk", "one"), fileOf("kernel/fs/overlayfs/overlay.ko", ""), fileOf("ext4.ko", "three!!")}
	if err := Initrd(&b, fileOf("", "the init"), modules); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"40755 dev 0:0", "40755 mnt 0:0", "40755 proc 0:0", "40755 run 0:0", "40755 sys 0:0",
		"20600 dev/console 5:1",
		"100755 init 0:0 the init",
		"40755 modules 0:0",
		"100644 modules/00-virtio_blk.ko 0:0 one",
		"100644 modules/01-overlay.ko 0:0",
		"100644 modules/02-ext4.ko 0:0 three!!",
	}
	if got := readCpio(t, b.Bytes()); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if b.Len()%4 != 0 {
		t.Errorf("%d bytes are not whole words", b.Len())
	}
}

// TestInitrdOrder looks that names sort in load order beyond a hundred.
func TestInitrdOrder(t *testing.T) {
	var b bytes.Buffer
	var modules []File
	for i := range 101 {
		modules = append(modules, fileOf(fmt.Sprintf("m%d", 1000-i), ""))
	}
	if err := Initrd(&b, fileOf("", "i"), modules); err != nil {
		t.Fatal(err)
	}
	names := readCpio(t, b.Bytes())[8:]
	if len(names) != 101 || !slices.IsSorted(names) || !strings.Contains(names[7], "modules/007-m993.ko") {
		t.Errorf("got %q", names)
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("pipe is closed") }

func TestInitrdErrors(t *testing.T) {
	short := fileOf("short", "data")
	short.Size = 9
	long := fileOf("long", "data")
	long.Size = 3
	huge := fileOf("huge", "data")
	huge.Size = 1 << 32
	broken := File{Name: "broken", Size: 1, Open: func() (io.ReadCloser, error) {
		return nil, banger.Errorf(banger.NotFound, "no such module")
	}}
	for _, c := range []struct {
		module File
		kind   banger.Kind
		text   string
	}{
		{short, banger.Invalid, "write initrd: modules/00-short.ko does not have the 9 bytes"},
		{long, banger.Invalid, "does not have the 3 bytes"},
		{huge, banger.Invalid, "more than the format can hold"},
		{broken, banger.NotFound, "open modules/00-broken.ko: no such module"},
		{fileOf("", "x"), banger.Invalid, "module 0 has no name"},
	} {
		err := Initrd(io.Discard, fileOf("", "init"), []File{c.module})
		if !banger.IsKind(err, c.kind) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("got  %v\nwant %s %q", err, c.kind, c.text)
		}
	}
	if err := Initrd(failingWriter{}, fileOf("", "init"), nil); err == nil {
		t.Error("a failing writer was not noticed")
	}
}
