package cli

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestEscaper(t *testing.T) {
	t.Parallel()
	text := "plain\tü €\r\n\x1b[2J\x1b]0;owned\x07 \r\r\n\x9b1m\u009b1m\u202e\x00\xff end\n"
	want := "plain\tü €\n" + `\x1b[2J\x1b]0;owned\x07 \x0d` + "\n" + `\x9b1m\xc2\x9b1m\xe2\x80\xae\x00\xff end` + "\n"
	for _, step := range []int{1, 2, 3, len(text)} {
		var b bytes.Buffer
		e := &escaper{w: &b}
		for at := 0; at < len(text); at += step {
			if _, err := e.Write([]byte(text[at:min(len(text), at+step)])); err != nil {
				t.Fatal(err)
			}
		}
		if b.String() != want {
			t.Errorf("%d at a time: %q", step, b.String())
		}
	}
}

func TestPast(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "console.log")
	base := time.Unix(1_000_000_000, 0)
	mark := func(seconds, offset int) string {
		return fmt.Sprintf("%d %d\n", base.Add(time.Duration(seconds)*time.Second).UnixMilli(), offset)
	}
	for name, data := range map[string]string{
		"console.log.1": "one\ntwo\nthr", "console.times.1": mark(0, 0) + mark(10, 4) + mark(20, 8),
		"console.log": "ee\nfour\nfive\n", "console.times": mark(30, 0) + mark(40, 5) + mark(50, 8) + mark(60, 99999) + "junk\n",
	} {
		if err := os.WriteFile(filepath.Join(filepath.Dir(path), name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		tail, since int
		want        string
	}{
		{-1, -5, "one\ntwo\nthree\nfour\nfive\n"},
		{2, -5, "four\nfive\n"},
		{3, -5, "three\nfour\nfive\n"},
		{0, -5, ""},
		{99, -5, "one\ntwo\nthree\nfour\nfive\n"},
		{-1, 10, "two\nthree\nfour\nfive\n"},
		{-1, 12, "three\nfour\nfive\n"},
		{-1, 35, "four\nfive\n"}, // its mark is in the middle of the line
		{1, 12, "five\n"},
		{-1, 70, ""},
	} {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		err = printPast(&b, f, path, tt.tail, base.Add(time.Duration(tt.since)*time.Second))
		if err != nil || b.String() != tt.want {
			t.Errorf("tail %d since %d: %q, %v", tt.tail, tt.since, b.String(), err)
		}
		f.Close()
	}
}

func TestParseSince(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 17, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{"10m": now.Add(-10 * time.Minute), "2026-11-23T16:00:00Z": now.Add(-time.Hour), "": {}} {
		if got, err := parseWhen("--since", text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"yesterday", "-10m", "10", "2026-11-23"} {
		if _, err := parseWhen("--since", text, now); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}
