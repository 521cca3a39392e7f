package oci

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"
)

func TestAhead(t *testing.T) {
	broken := errors.New("broken")
	want := make([]byte, 5*aheadSize+17)
	rnd := rand.NewChaCha8([32]byte{1})
	_, _ = rnd.Read(want)
	for name, in := range map[string]func(io.Reader) io.Reader{
		"whole": func(r io.Reader) io.Reader { return r }, "halves": iotest.HalfReader, "error with data": iotest.DataErrReader,
	} {
		t.Run(name, func(t *testing.T) {
			a := readAhead(in(io.MultiReader(bytes.NewReader(want), iotest.ErrReader(broken))))
			got, err := io.ReadAll(a)
			if !bytes.Equal(got, want) || err != broken {
				t.Errorf("%d of %d bytes, %v", len(got), len(want), err)
			}
			if _, err := a.Read(make([]byte, 1)); err != broken {
				t.Errorf("again: %v", err)
			}
			a.Close()
			a.Close()
		})
	}
}

// TestAheadWaitsForNoMore: what has come is there, though the stream goes on.
func TestAheadWaitsForNoMore(t *testing.T) {
	r, w := io.Pipe()
	a := readAhead(r)
	for _, word := range []string{"one", "two"} {
		if _, err := io.WriteString(w, word); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(word))
		if _, err := io.ReadFull(a, got); err != nil || string(got) != word {
			t.Errorf("%q, %v", got, err)
		}
	}
	_ = w.Close()
	a.Close()
}

// TestAheadClosed: the goroutine is gone after Close, however much nobody read.
func TestAheadClosed(t *testing.T) {
	src := &untouched{Reader: rand.NewChaCha8([32]byte{2})}
	a := readAhead(src)
	if _, err := io.ReadFull(a, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	a.Close()
	src.over = true // a race, if it still read
	if n, err := io.Copy(io.Discard, a); !errors.Is(err, io.ErrClosedPipe) || n > aheadBuffers*aheadSize {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// untouched fails where it is read when it is over.
type untouched struct {
	io.Reader
	over bool
}

func (u *untouched) Read(p []byte) (int, error) {
	if u.over {
		return 0, errors.New("read after the end")
	}
	return u.Reader.Read(p)
}
