package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"banger/internal/hello"
	"banger/internal/parcel"
)

func TestCopyBothWays(t *testing.T) {
	noLeaks(t)
	r := newRig(t)
	r.boot()
	c := r.dial()
	src, there, back := t.TempDir(), t.TempDir(), t.TempDir()
	data := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	if err := os.WriteFile(src+"/f", data, 0o640); err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	if _, err := parcel.Pack(&packed, parcel.Source{Path: src}); err != nil {
		t.Fatal(err)
	}
	for range 3 { // one after the other on one connection
		report, err := c.CopyTo(t.Context(), "", parcel.Target{Path: there + "/x"}, bytes.NewReader(packed.Bytes()))
		if err != nil || report.Bytes != int64(len(data)) {
			t.Fatalf("%+v, %v", report, err)
		}
	}
	_, err := c.CopyFrom(t.Context(), "", parcel.Source{Path: there + "/x"}, func(r io.Reader) error {
		_, err := parcel.Unpack(r, parcel.Target{Path: back, Name: "y"})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(back + "/y/f"); err != nil || !bytes.Equal(b, data) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if err := r.stop(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestCopyProblems(t *testing.T) {
	noLeaks(t)
	r := newRig(t)
	r.boot()
	c := r.dial()
	ours := errors.New("ours")
	discard := func(r io.Reader) error { _, err := io.Copy(io.Discard, r); return err }
	for name, f := range map[string]func() error{
		"no such file": func() error {
			_, err := c.CopyFrom(t.Context(), "", parcel.Source{Path: "/no/such"}, discard)
			return err
		},
		"look user": func() error {
			_, err := c.CopyFrom(t.Context(), "nobodyatall", parcel.Source{Path: "/etc"}, discard)
			return err
		},
		"no such file or": func() error { // found after the first header, while the host still sends
			_, err := c.CopyTo(t.Context(), "", parcel.Target{Path: "/no/such", Loose: true}, noTar{})
			return err
		},
		"ours": func() error {
			_, err := c.CopyTo(t.Context(), "", parcel.Target{Path: t.TempDir(), Loose: true}, failing{ours})
			return err
		},
		"ours too": func() error {
			_, err := c.CopyFrom(t.Context(), "", parcel.Source{Path: "/usr/include"}, func(io.Reader) error { return fmt.Errorf("ours too") })
			return err
		},
	} {
		if err := f(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if out, _, _ := run(t, c, Request{Argv: []string{"echo", "on"}}); out != "on\n" {
		t.Error("the connection does not live on")
	}
}

type noTar struct{}

func (noTar) Read(p []byte) (int, error) {
	copy(p, bytes.Repeat([]byte("not a tar "), len(p)/10+1))
	return len(p), nil
}

type failing struct{ error }

func (f failing) Read([]byte) (int, error) { return 0, f.error }

// A copy whose host goes away ends, and leaves nothing half made.
func TestCopyCancelled(t *testing.T) {
	noLeaks(t)
	r := newRig(t)
	r.boot()
	c := r.dial()
	dst := t.TempDir()
	var packed bytes.Buffer
	src := t.TempDir()
	if err := os.WriteFile(src+"/f", make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := parcel.Pack(&packed, parcel.Source{Path: src}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	pr, pw := io.Pipe()
	go func() {
		_, _ = pw.Write(packed.Bytes()[:500_000]) // returns when it was taken
		cancel(errors.New("enough"))
		<-ctx.Done()
		_ = pw.CloseWithError(io.ErrUnexpectedEOF)
	}()
	if _, err := c.CopyTo(ctx, "", parcel.Target{Path: dst + "/new"}, pr); err == nil || err.Error() != "enough" {
		t.Errorf("error %v", err)
	}
	for end := time.Now().Add(8 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		left, _ := filepath.Glob(dst + "/.*cp*")
		if len(left) == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("left: %q", left)
		}
	}
}

// Data without a ticket are not taken, nor is a ticket taken twice.
func TestDataNeedATicket(t *testing.T) {
	r := newRig(t)
	r.boot()
	for _, word := range []string{strings.Repeat("0", hello.TokenSize) + "\n", strings.Repeat("\x00", 100)} {
		nc, err := connect(t.Context(), r.socket, hello.DataPort)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(nc, word)
		_ = nc.SetReadDeadline(time.Now().Add(8 * time.Second))
		if n, err := nc.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%d, %v", n, err)
		}
		nc.Close()
	}
}

// What a hostile agent answers is bounded, and shown without control bytes.
func TestHostile_16Copy(t *testing.T) {
	for name, tt := range map[string]struct{ out, errs, want string }{
		"no line":      {strings.Repeat("x", 3*parcel.MaxOrder), "", "hear from the guest: "},
		"no JSON":      {"hello\n", "", "hear from the guest: "},
		"nothing":      {"", "", "the connection broke"},
		"control byte": {"", "banger: \x1b[2Jgone" + strings.Repeat("y", 3*maxText), `\x1b[2Jgone`},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			fakeGuest(t, r, func(ch ssh.Channel, reqs <-chan *ssh.Request) {
				_ = (<-reqs).Reply(true, nil)
				go ssh.DiscardRequests(reqs)
				_, _ = ch.Read(make([]byte, 1000)) // the order
				_, _ = io.WriteString(ch.Stderr(), tt.errs)
				_, _ = io.WriteString(ch, tt.out)
				ch.Close()
			})
			ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
			defer cancel()
			_, err := r.dial().CopyFrom(ctx, "", parcel.Source{Path: "/"}, func(io.Reader) error { return nil })
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\x1b") || len(err.Error()) > 2*maxText {
				t.Errorf("error %.200q", err)
			}
		})
	}
}
