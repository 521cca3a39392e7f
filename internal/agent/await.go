package agent

import (
	"bufio"
	"context"
	"errors"
	"io"
	"strings"

	"golang.org/x/crypto/ssh"

	"banger"
	"banger/internal/hello"
)

// Await waits until the guest has what is wanted (hello.AwaitTCP and AwaitUnit
// say the words). seen is told what is in its place at first, and at every change.
// When ctx ends, the connection is closed. Kind: unavailable.
func (c *Client) Await(ctx context.Context, want string, seen func(string)) error {
	defer c.guard(ctx)()
	err := c.await(want, seen)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (c *Client) await(want string, seen func(string)) error {
	ch, reqs, err := c.session()
	if err != nil {
		return err
	}
	defer ch.Close()
	if err := ask(ch, "subsystem", ssh.Marshal(struct{ Name string }{hello.AwaitSubsystem})); err != nil {
		return err
	}
	if _, err := io.WriteString(ch, want+"\n"); err != nil {
		return banger.Errorf(banger.Unavailable, "%s", clean(err.Error()))
	}
	complaint := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(io.LimitReader(ch.Stderr(), hello.MaxAwait))
		complaint <- b
	}()
	r := bufio.NewReaderSize(ch, hello.MaxAwait)
	for {
		line, err := r.ReadSlice('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			ch.Close() // a line that is too long: no word of it is believed
		}
		if err != nil {
			break // the exit status comes behind the end
		}
		seen(clean(strings.TrimSuffix(string(line), "\n")))
	}
	if exit, ok := exitOf(reqs); ok && exit.Code == 0 {
		return nil
	}
	text := said(<-complaint)
	if text == "" {
		text = "the guest stopped waiting for " + want
	}
	return banger.Errorf(banger.Unavailable, "%s", text)
}
