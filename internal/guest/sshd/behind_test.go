package sshd

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"
)

func TestWriteBehind(t *testing.T) {
	t.Parallel()
	want := make([]byte, 10_007)
	_, _ = rand.NewChaCha8([32]byte{3}).Read(want)
	var got pieces
	b := writeBehind(&got, 1000)
	for rest := want; len(rest) > 0; {
		n := min(len(rest), 1+len(rest)/3)
		if m, err := b.Write(rest[:n]); m != n || err != nil {
			t.Fatal(m, err)
		}
		rest = rest[n:]
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(bytes.Join(got, nil), want) || len(got) != 11 {
		t.Errorf("%d pieces, or other bytes", len(got))
	}
}

// TestWriteBehindFails: whoever writes learns of it, and does not wait for ever.
func TestWriteBehindFails(t *testing.T) {
	t.Parallel()
	full := errors.New("full")
	b := writeBehind(refusing{full}, 10)
	for i := 0; ; i++ {
		if _, err := b.Write(make([]byte, 25)); err == full {
			break
		} else if err != nil || i > 10 {
			t.Fatal(i, err)
		}
	}
	if err := b.Close(); err != full {
		t.Error(err)
	}
	b = writeBehind(refusing{full}, 10)
	if n, err := b.Write([]byte("abc")); n != 3 || err != nil {
		t.Error(n, err)
	}
	if err := b.Close(); err != full {
		t.Errorf("the last piece: %v", err)
	}
}

type pieces [][]byte

func (p *pieces) Write(b []byte) (int, error) {
	*p = append(*p, bytes.Clone(b))
	return len(b), nil
}

type refusing struct{ error }

func (r refusing) Write([]byte) (int, error) { return 0, r.error }
