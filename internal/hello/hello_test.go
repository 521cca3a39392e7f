package hello

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func testHost(t *testing.T) *Host {
	return &Host{Config: func(_ context.Context, stage string) (Config, error) {
		return Config{ID: "0123456789ab", Hostname: stage, Env: []string{"A=b c"}}, nil
	}}
}

// peer is a test's own end of a stream: it reads and writes lines.
type peer struct {
	t *testing.T
	c net.Conn
	l lines
}

// pair is a stream with both its ends. It has buffers, unlike net.Pipe: both
// sides may write first.
func pair(t *testing.T) (a, b net.Conn) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	t.Cleanup(func() { ends[0].Close(); ends[1].Close() })
	return ends[0], ends[1]
}

func newPeer(t *testing.T) (*peer, net.Conn) {
	a, b := pair(t)
	return &peer{t: t, c: a, l: lines{s: a, max: MaxOK}}, b
}

// do plays the peer's part beside the test, which does not end before it.
func (p *peer) do(part func()) {
	var wg sync.WaitGroup
	wg.Go(part)
	p.t.Cleanup(wg.Wait)
}

func (p *peer) write(s string) {
	p.t.Helper()
	if _, err := io.WriteString(p.c, s); err != nil {
		p.t.Error(err)
	}
}

// read gives the words of the next line.
func (p *peer) read(n int) []string {
	p.t.Helper()
	line, err := p.l.next(context.Background(), time.Now().Add(5*time.Second))
	if err != nil {
		p.t.Errorf("read a line: %v", err)
		return make([]string, n)
	}
	w := words(line, n)
	if len(w) != n {
		p.t.Errorf("got %q, want %d words", line, n)
		return make([]string, n)
	}
	return w
}

func TestHandshake(t *testing.T) {
	guest, host := pair(t)
	var stages []string
	h := testHost(t)
	h.Done = func(s string) { stages = append(stages, s) }
	var wg sync.WaitGroup
	wg.Go(func() {
		for _, stage := range []string{Boot, Agent} {
			cfg, st, err := Ask(t.Context(), guest, stage)
			if err != nil || cfg.Hostname != stage || cfg.Env[0] != "A=b c" {
				t.Errorf("Ask %s: %+v, %v", stage, cfg, err)
				return
			}
			if stage == Agent {
				_, _ = io.WriteString(st, "frames")
			}
		}
	})
	st, err := h.Answer(t.Context(), host)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 6)
	if _, err := io.ReadFull(st, b); err != nil || string(b) != "frames" {
		t.Errorf("got %q, %v", b, err)
	}
	wg.Wait()
	if fmt.Sprint(stages) != "[boot agent]" {
		t.Errorf("stages %v", stages)
	}
}

// What a guest must get past before it finds its answer.
func TestAskSkips(t *testing.T) {
	js, _ := json.Marshal(Config{ID: "right"})
	ok := func(g, h string) string { return fmt.Sprintf("banger1 ok %s %s %s\n", g, h, js) }
	const h = "00000000000000aa"
	for name, noise := range map[string]string{
		"nothing":          "",
		"garbage":          "\x00\x01\xff\xfejunk without end\n",
		"half a frame":     "\x00\x00\x00\x01\x00\x00" + strings.Repeat("z", 5000) + "\n",
		"stale ok":         ok("0123456789abcdef", h),
		"ok of no nonce":   "banger1 ok\nbanger1 ok  x\n",
		"half an ok":       "banger1 ok 01234567\n",
		"foreign version":  "banger2 ok x y {}\n",
		"a line too long":  strings.Repeat("x", MaxOK+10) + "\n",
		"its own words":    "banger1 hello 0123456789abcdef boot\nbanger1 go 0123456789abcdef\n",
		"a lost beginning": "er1 ok 0123456789abcdef " + h + " {}\n",
	} {
		t.Run(name, func(t *testing.T) {
			p, s := newPeer(t)
			p.do(func() {
				g := p.read(3)[1]
				p.write(noise + "\n")
				p.write(fmt.Sprintf("banger1 ok %s %s {broken\n", g, h))
				p.write(ok(g, h) + "\x00mux") // in one write with what comes behind
				if w := p.read(2); w[0] != "go" || w[1] != h {
					t.Errorf("got %v", w)
				}
			})
			cfg, st, err := Ask(t.Context(), s, Agent)
			if err != nil || cfg.ID != "right" {
				t.Fatalf("%+v, %v", cfg, err)
			}
			b := make([]byte, 4)
			if _, err := io.ReadFull(st, b); err != nil || string(b) != "\x00mux" {
				t.Errorf("behind the ok: %q, %v", b, err)
			}
		})
	}
}

func TestResetMakesNewHello(t *testing.T) {
	p, s := newPeer(t)
	p.do(func() {
		old := p.read(3)[1]
		p.write("\nbanger1 reset\n\nbanger1 reset\njunk\nbanger1 reset\n")
		now := p.read(3)[1]
		if now == old {
			t.Error("the nonce came twice")
		}
		p.write("banger1 ok " + old + " 00000000000000aa {}\n")
		p.write("banger1 ok " + now + " 00000000000000bb {}\n")
		if w := p.read(2); w[1] == "00000000000000aa" {
			t.Error("the guest took a stale ok")
		}
	})
	if _, _, err := Ask(t.Context(), s, Boot); err != nil {
		t.Fatal(err)
	}
}

// A hello that is lost is said again, behind a filler.
func TestAskRepeats(t *testing.T) {
	t.Parallel()
	p, s := newPeer(t)
	p.do(func() {
		first := p.read(3)[1]
		n := 0
		for b := make([]byte, 1); n < fillerSize; n++ {
			if _, err := p.c.Read(b); err != nil || b[0] != '\n' {
				t.Errorf("filler: %q, %v", b, err)
				return
			}
		}
		second := p.read(3)[1]
		if second == first {
			t.Error("the nonce came twice")
		}
		p.write("banger1 ok " + second + " 00000000000000aa {}\n")
		p.read(2)
	})
	if _, _, err := Ask(t.Context(), s, Boot); err != nil {
		t.Fatal(err)
	}
}

func TestAnswerSkips(t *testing.T) {
	for name, noise := range map[string]string{
		"garbage":         "\x00\x01\xff\xfejunk\n",
		"a line too long": strings.Repeat("x", 3*MaxFail),
		"half a hello":    "banger1 hello 0123456789ab",
		"no nonce":        "banger1 hello 0123 agent\nbanger1 hello zzzzzzzzzzzzzzzz agent\n",
		"unknown stage":   "banger1 hello 0123456789abcdef lunch\n",
		"a go too early":  "banger1 go 0123456789abcdef\nbanger1 go \n",
		"filler":          strings.Repeat("\n", fillerSize),
	} {
		t.Run(name, func(t *testing.T) {
			p, s := newPeer(t)
			p.do(func() {
				if w := p.read(1); w[0] != "reset" {
					t.Errorf("got %v", w)
				}
				p.write(noise)
				p.write("\nbanger1 hello 00000000000000aa agent\n")
				first := p.read(4)
				p.write("\nbanger1 hello 00000000000000bb agent\n")
				second := p.read(4)
				if first[1] != "00000000000000aa" || second[1] != "00000000000000bb" || first[2] == second[2] {
					t.Errorf("got %v and %v", first, second)
				}
				p.write("banger1 go " + first[2] + "\n") // stale
				p.write("banger1 go " + second[2] + "\n\x00mux")
			})
			h := testHost(t)
			st, err := h.Answer(t.Context(), s)
			if err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 4)
			if _, err := io.ReadFull(st, b); err != nil || string(b) != "\x00mux" {
				t.Errorf("behind the go: %q, %v", b, err)
			}
		})
	}
}

// A go that is lost leaves the guest alone in its session: the host has to
// break that, and must not take the old go any more.
func TestAnswerLostGo(t *testing.T) {
	t.Parallel()
	p, s := newPeer(t)
	p.do(func() {
		p.read(1)
		p.write("banger1 hello 00000000000000aa agent\n")
		old := p.read(4)[2]
		if w := p.read(1); w[0] != "reset" {
			t.Errorf("got %v", w)
		}
		p.write("banger1 go " + old + "\n")
		p.write("banger1 hello 00000000000000bb agent\n")
		p.write("banger1 go " + p.read(4)[2] + "\n")
	})
	n := 0
	h := testHost(t)
	h.Done = func(string) { n++ }
	if _, err := h.Answer(t.Context(), s); err != nil || n != 1 {
		t.Fatalf("%d handshakes, %v", n, err)
	}
}

func TestFail(t *testing.T) {
	for _, msg := range []string{"mount vdb: no such device", "\x1b[31m\n" + strings.Repeat("é\x01", MaxMessage)} {
		p, s := newPeer(t)
		got := make(chan string, 1)
		h := testHost(t)
		h.Fail = func(m string) { got <- m }
		go h.Answer(t.Context(), s)
		p.read(1)
		if err := Fail(p.c, msg); err != nil {
			t.Fatal(err)
		}
		if m := <-got; len(m) > MaxMessage || !strings.HasPrefix(msg, m) || len(m) < min(len(msg), MaxMessage-4) {
			t.Errorf("got %d bytes %.20q", len(m), m)
		}
	}
}

func TestContext(t *testing.T) {
	why := errors.New("enough")
	for name, run := range map[string]func(context.Context, Stream) error{
		"ask":    func(ctx context.Context, s Stream) error { _, _, err := Ask(ctx, s, Boot); return err },
		"answer": func(ctx context.Context, s Stream) error { _, err := testHost(t).Answer(ctx, s); return err },
	} {
		for _, reads := range []bool{false, true} {
			t.Run(fmt.Sprint(name, reads), func(t *testing.T) {
				p, s := newPeer(t)
				if reads {
					go io.Copy(io.Discard, p.c)
				}
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(20*time.Millisecond, func() { cancel(why) })
				if err := run(ctx, s); !errors.Is(err, why) {
					t.Errorf("got %v", err)
				}
				if reads { // deadlines are gone
					if _, err := s.Write([]byte("x")); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
}

func TestAskEOF(t *testing.T) {
	p, s := newPeer(t)
	p.do(func() { p.read(3); p.c.Close() })
	if _, _, err := Ask(t.Context(), s, Boot); !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
}

func TestAnswerConfigTooLong(t *testing.T) {
	p, s := newPeer(t)
	p.do(func() { p.read(1); p.write("banger1 hello 00000000000000aa boot\n") })
	h := Host{Config: func(context.Context, string) (Config, error) {
		return Config{HostKey: strings.Repeat("k", MaxOK)}, nil
	}}
	if _, err := h.Answer(t.Context(), s); err == nil || !strings.Contains(err.Error(), "configuration has") {
		t.Errorf("got %v", err)
	}
}

func frame(kind, flags byte, size uint32, data string) string {
	return string([]byte{0, kind, 0, flags, 0, 0, 0, 1, byte(size >> 24), byte(size >> 16), byte(size >> 8), byte(size)}) + data
}

func TestGuard(t *testing.T) {
	good := frame(1, 1, 4<<20, "") + frame(0, 0, 5, "hello") + frame(0, 0, 0, "") + frame(0, 4, MaxFrame, strings.Repeat("\x07", MaxFrame))
	for _, c := range []struct {
		name, in string
		opens    bool
		want     string // in the error; empty: none
	}{
		{"good", good, true, ""},
		{"opens", good, false, "opens a stream"},
		{"version", good + "\nbanger1", true, "version 10"},
		{"ping", good + frame(2, 1, 0, ""), true, "type 2"},
		{"too long", frame(0, 0, MaxFrame+1, ""), true, "more than"},
		{"half a header and filler", good + "\x00\x00\x00\x00\x00\n\n\n\n\n\n\n\n", true, "more than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, size := range []int{1, 7, 4096, 1 << 20} {
				var out bytes.Buffer
				_, err := io.CopyBuffer(struct{ io.Writer }{&out}, struct{ io.Reader }{Guard(strings.NewReader(c.in), c.opens)}, make([]byte, size))
				if c.want == "" && (err != nil || out.String() != c.in) {
					t.Errorf("%d: %d bytes, %v", size, out.Len(), err)
				}
				if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
					t.Errorf("%d: got %v", size, err)
				}
			}
		})
	}
}

func TestSignals(t *testing.T) {
	for n := 1; n <= 64; n++ {
		sig := ParseSignal(fmt.Sprint(n))
		if got := ParseSignal(SignalName(sig)); int(sig) != n || got != sig {
			t.Errorf("%d: %s, %d", n, SignalName(sig), got)
		}
	}
	for name, want := range map[string]int{"TERM": 15, "SIGKILL": 9, "BUS@banger": 7, "": 0, "0": 0, "65": 0, "-9": 0, "NOPE": 0} {
		if got := ParseSignal(name); int(got) != want {
			t.Errorf("%q: %d, want %d", name, got, want)
		}
	}
}
