package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

const greeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}`

// scripted is a QMP client against a server that answers each line with what
// reply says, after the greeting.
func scripted(t *testing.T, reply func(line string, say func(string))) (*qmp, func() []string) {
	t.Helper()
	ours, theirs := net.Pipe()
	var mu sync.Mutex
	var events []string
	c := newQMP(ours, func(name string, data json.RawMessage) {
		mu.Lock()
		defer mu.Unlock()
		events = append(events, name+" "+string(data))
	})
	served := make(chan struct{})
	go func() {
		defer close(served)
		defer theirs.Close()
		say := func(s string) { _, _ = io.WriteString(theirs, s+"\r\n") }
		say(greeting)
		sc := bufio.NewScanner(theirs)
		for sc.Scan() {
			reply(sc.Text(), say)
		}
	}()
	t.Cleanup(func() {
		c.Close()
		c.Close()
		<-served
	})
	return c, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return events
	}
}

func id(line string) int64 {
	var c struct{ ID int64 }
	_ = json.Unmarshal([]byte(line), &c)
	return c.ID
}

func TestQMP(t *testing.T) {
	c, events := scripted(t, func(line string, say func(string)) {
		say(`{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}}`)
		switch {
		case strings.Contains(line, "refuse"):
			say(fmt.Sprintf(`{"error": {"class": "GenericError", "desc": "no"}, "id": %d}`, id(line)))
		case strings.Contains(line, "silent"):
		case strings.Contains(line, "huge"):
			say(`{"return": "` + strings.Repeat("x", maxMessage) + `"}`)
		default:
			say(fmt.Sprintf(`{"return": {"id": %d}, "id": 999}`, id(line))) // nobody waits for it
			say(fmt.Sprintf(`{"return": {"id": %d}, "id": %[1]d}`, id(line)))
		}
	})
	if err := c.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if v := c.greeting.Greeting.Version.QEMU.String(); v != "7.2.22" {
		t.Errorf("version %s", v)
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			var got struct{ ID int64 }
			if err := c.execute(t.Context(), "ok", &got); err != nil || got.ID == 0 {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
	wg.Wait()
	if n := len(events()); n != 21 {
		t.Errorf("%d events, want 21", n)
	}
	var refused *qmpError
	if err := c.execute(t.Context(), "refuse", nil); !errors.As(err, &refused) || refused.Desc != "no" {
		t.Errorf("refused: got %v", err)
	}
	if err := c.execute(t.Context(), "bad", new([]string)); err == nil {
		t.Error("reply of a wrong type was taken")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := c.execute(ctx, "silent", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no answer: got %v", err)
	}
	if len(c.pending) != 0 {
		t.Errorf("still waited for: %v", c.pending)
	}
	if err := c.execute(t.Context(), "huge", nil); !errors.Is(err, bufio.ErrTooLong) {
		t.Errorf("line too long: got %v", err)
	}
	if err := c.execute(t.Context(), "ok", nil); err == nil {
		t.Error("a broken connection was used")
	}
}

func TestQMPHangsUp(t *testing.T) {
	c, _ := scripted(t, func(line string, say func(string)) {
		if strings.Contains(line, "qmp_capabilities") {
			say(fmt.Sprintf(`{"return": {}, "id": %d}`, id(line)))
		} else {
			say("}")
		}
	})
	if err := c.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.execute(t.Context(), "anything", nil); err == nil || c.hungUp() {
		t.Errorf("garbage: got %v, hung up %v", err, c.hungUp())
	}

	ours, theirs := net.Pipe()
	_ = theirs.Close()
	c = newQMP(ours, nil)
	if err := c.open(t.Context()); err == nil || !c.hungUp() {
		t.Errorf("no greeting: got %v", err)
	}
}

func FuzzDecodeMessage(f *testing.F) {
	for _, s := range []string{
		greeting, `{"return": {}, "id": 1}`, `{"error": {"class": "A", "desc": "b"}, "id": -1}`,
		`{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}`,
		`{}`, `[]`, `null`, `{"return": null}`, `{"QMP": {}, "event": "x"}`, `{"id": 1e99}`, `{"return`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		m, err := decodeMessage(line)
		if err != nil {
			return
		}
		if m.Greeting == nil && m.Return == nil && m.Error == nil && m.Event == "" {
			t.Errorf("message of no kind from %q", line)
		}
		// What the client does with it must not fall over either.
		c := &qmp{onEvent: (&machine{}).event, greeted: make(chan struct{}), pending: map[int64]chan message{}}
		_ = c.handle(m)
	})
}
