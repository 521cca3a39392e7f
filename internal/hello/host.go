package hello

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// writeWait is how long a guest may leave an ok unread before the host gives
// the stream up: long enough for one that is starved of CPU.
const writeWait = 30 * time.Second

// Host is the host's side. The functions are called one at a time by Answer.
type Host struct {
	// Config makes the answer to a hello. Its error ends Answer.
	Config func(ctx context.Context, stage string) (Config, error)
	// Done is told each stage whose handshake is complete. May be nil.
	Done func(stage string)
	// Fail is told what pid 1 died of: at most MaxMessage bytes of untrusted
	// text. May be nil.
	Fail func(msg string)
	// Resume says that the guest may still be in a session with a host before
	// this one, in the middle of a frame even. For a machine that was just
	// started it saves 64 KiB on the way to leave it out.
	Resume bool

	wait time.Duration // for a go, at first; zero is firstWait
}

// Answer asks the guest for a hello and answers each until the agent's
// handshake is complete; it returns the stream to speak yamux on, which still
// holds what came behind the go. It waits for ever for a guest that says
// nothing: a machine that boots is such a one. When ctx ends, its cause is the
// error. Deadlines of s are cleared on return.
func (h *Host) Answer(ctx context.Context, s Stream) (Stream, error) {
	defer watch(ctx, s)()
	st, err := h.answer(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("answer the guest: %w", err)
	}
	return st, nil
}

func (h *Host) answer(ctx context.Context, s Stream) (Stream, error) {
	in := &lines{s: s, max: MaxFail}
	if err := send(ctx, s, time.Now().Add(writeWait), h.Resume, "reset"); err != nil {
		return nil, err
	}
	var stage, nonce string // of the newest ok, until its go
	var until time.Time
	first := cmp.Or(h.wait, firstWait)
	wait := first
	for {
		line, err := in.next(ctx, until)
		switch {
		case err != nil && isTimeout(err) && ctx.Err() == nil:
			// The go was lost, and the guest may think that all is well.
			if err := send(ctx, s, time.Now().Add(writeWait), true, "reset"); err != nil {
				return nil, err
			}
			nonce, until, wait = "", time.Time{}, min(2*wait, lastWait)
			continue
		case err != nil:
			return nil, err
		}
		switch w := words(line, 3); {
		case len(w) == 3 && w[0] == "hello" && isNonce(w[1]) && (w[2] == Boot || w[2] == Agent):
			stage = w[2]
			if nonce, err = h.ok(ctx, s, w[1], stage); err != nil {
				return nil, err
			}
			until = time.Now().Add(wait)
		case len(w) == 2 && w[0] == "go" && nonce != "" && w[1] == nonce:
			nonce, until, wait = "", time.Time{}, first
			if h.Done != nil {
				h.Done(stage)
			}
			if stage == Agent {
				return &session{Stream: s, rest: in.buf}, nil
			}
		case len(w) > 1 && w[0] == "fail":
			h.fail(strings.TrimPrefix(line, magic+" fail "))
		}
	}
}

// ok answers the hello of nonce g and returns the nonce of the answer.
func (h *Host) ok(ctx context.Context, s Stream, g, stage string) (string, error) {
	cfg, err := h.Config(ctx, stage)
	if err != nil {
		return "", err
	}
	js, err := json.Marshal(cfg)
	if err != nil {
		return "", err
	}
	if len(js) > MaxOK-MaxLine {
		return "", fmt.Errorf("the configuration has %d bytes, more than %d", len(js), MaxOK-MaxLine)
	}
	var b [8]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	nonce := hex.EncodeToString(b[:])
	return nonce, send(ctx, s, time.Now().Add(writeWait), false, "ok", g, nonce, string(js))
}

func (h *Host) fail(js string) {
	var f failure
	if h.Fail == nil || json.Unmarshal([]byte(js), &f) != nil {
		return
	}
	h.Fail(f.Message[:min(len(f.Message), MaxMessage)])
}
