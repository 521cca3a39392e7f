package guestbin

import (
	"bytes"
	"io/fs"
	"testing"

	"banger"
)

func TestBytes(t *testing.T) {
	b, err := Bytes()
	sum, sumErr := SHA256()
	if _, statErr := fs.Stat(bin, "bin/banger-guest"); statErr != nil {
		if !banger.IsKind(err, banger.Unsupported) || banger.AsError(err).Hint == "" || sumErr == nil {
			t.Fatalf("without the program: error %v, digest error %v", err, sumErr)
		}
		return
	}
	if err != nil || sumErr != nil || !bytes.HasPrefix(b, []byte("\x7fELF")) || len(sum) != 64 {
		t.Fatalf("got %d bytes, digest %q, errors %v and %v", len(b), sum, err, sumErr)
	}
}
