package hello

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// A line that was lost raises no event on either side, so the one who waits
// for the answer repeats itself. The wait doubles: a host that takes longer to
// answer than the first wait must get the chance to.
const (
	firstWait = time.Second
	lastWait  = 16 * time.Second
)

// Ask is the guest's side: it says hello for the stage until the host has
// answered, and returns what the host said and the stream to go on with, which
// still holds what came behind the answer. At stage Boot the stream is of no
// use. An io.EOF means that no host is connected. When ctx ends, its cause is
// the error. Deadlines of s are cleared on return.
func Ask(ctx context.Context, s Stream, stage string) (Config, Stream, error) {
	return ask(ctx, s, stage, firstWait)
}

func ask(ctx context.Context, s Stream, stage string, first time.Duration) (Config, Stream, error) {
	defer watch(ctx, s)()
	in := &lines{s: s, max: MaxOK}
	wait, filler := first, false
	for {
		g := fmt.Sprintf("%016x", rand.Uint64()) // has to be fresh, not secret: waits for no entropy
		until := time.Now().Add(wait)
		err := send(ctx, s, until, filler, "hello", g, stage)
		var cfg Config
		if err == nil {
			cfg, err = answer(ctx, in, g, until)
		}
		switch {
		case err == nil:
			return cfg, &session{Stream: s, rest: in.buf}, nil
		case err == errReset:
			wait, filler = first, false
		case isTimeout(err) && ctx.Err() == nil:
			wait, filler = min(2*wait, lastWait), true
		default:
			return Config{}, nil, fmt.Errorf("say hello to the host: %w", err)
		}
	}
}

// errReset says that the host asked for a new hello.
var errReset = errors.New("the host asked for a new hello")

// answer waits for the ok for g and sends the go for it.
func answer(ctx context.Context, in *lines, g string, until time.Time) (Config, error) {
	for reset := false; ; {
		line, ok := in.take()
		if !ok && reset { // several resets that wait are answered once
			return Config{}, errReset
		}
		if !ok {
			var err error
			if line, err = in.next(ctx, until); err != nil {
				return Config{}, err
			}
		}
		switch w := words(line, 4); {
		case len(w) == 1 && w[0] == "reset":
			reset = true
		case len(w) == 4 && w[0] == "ok" && w[1] == g && isNonce(w[2]):
			var cfg Config
			if json.Unmarshal([]byte(w[3]), &cfg) != nil {
				continue // damaged on the way: the next hello gets a whole one
			}
			return cfg, send(ctx, in.s, until, false, "go", w[2])
		}
	}
}

// Fail tells the host, once, that pid 1 cannot go on, and why; the text is cut
// at MaxMessage bytes. It waits five seconds at most for a host that takes it.
func Fail(s Stream, msg string) error {
	if len(msg) > MaxMessage {
		msg = strings.ToValidUTF8(msg[:MaxMessage], "")
	}
	b, err := json.Marshal(failure{msg})
	if err != nil {
		return err
	}
	err = send(context.Background(), s, time.Now().Add(5*time.Second), false, "fail", string(b))
	_ = s.SetWriteDeadline(time.Time{})
	if err != nil {
		return fmt.Errorf("tell the host of a failure: %w", err)
	}
	return nil
}

type failure struct {
	Message string `json:"message"`
}
