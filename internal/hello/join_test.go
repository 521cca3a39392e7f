package hello

import (
	"bytes"
	"testing"
)

// writes are what came in one piece each.
type writes [][]byte

func (w *writes) Write(p []byte) (int, error) {
	*w = append(*w, bytes.Clone(p))
	return len(p), nil
}

func TestJoin(t *testing.T) {
	window, empty := frame(typeWindow, 0, 4096, ""), frame(typeData, 0, 0, "")
	small, large := frame(typeData, 0, 5, "hello"), frame(typeData, 0, FullFrame, string(make([]byte, FullFrame)))
	if len(large) != MaxFrame {
		t.Errorf("a full frame has %d bytes", len(large))
	}
	var got writes
	w := Join(&got)
	for _, f := range []string{window, small, empty, large, window} {
		for _, part := range []string{f[:headerSize], f[headerSize:]} {
			if part == "" {
				continue // yamux writes no empty body
			}
			if n, err := w.Write([]byte(part)); n != len(part) || err != nil {
				t.Fatalf("%d of %d bytes, %v", n, len(part), err)
			}
		}
	}
	for i, want := range []string{window, small, empty, large, window} {
		if i >= len(got) || string(got[i]) != want {
			t.Errorf("frame %d is not one write", i)
		}
	}
	if len(got) != 5 {
		t.Errorf("%d writes", len(got))
	}
}
