package sshd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"banger/internal/hello"
)

// The ring keeps the end of the output, tells how much it lost, and a reader
// that begins late or reads slowly gets each stream in its order.
func TestJobOutput(t *testing.T) {
	t.Parallel()
	j := &job{changed: make(chan struct{})}
	out, errs := jobWriter{j, 0}, jobWriter{j, 1}
	fmt.Fprint(out, "one ")
	fmt.Fprint(out, "two ")
	fmt.Fprint(errs, "oops")
	if len(j.chunks) != 2 {
		t.Errorf("%d chunks", len(j.chunks))
	}
	stream, data, lost, _, _ := j.next(2)
	if stream != 0 || string(data) != "e two " || lost != 0 {
		t.Errorf("%d %q %d", stream, data, lost)
	}
	if stream, data, _, _, _ = j.next(8); stream != 1 || string(data) != "oops" {
		t.Errorf("%d %q", stream, data)
	}
	if _, data, _, over, changed := j.next(12); data != nil || over || changed == nil {
		t.Error("there is something behind the end")
	}
	big := bytes.Repeat([]byte("x"), 100_000)
	for range 30 {
		_, _ = out.Write(big)
	}
	if j.size > hello.MaxJobOutput {
		t.Errorf("%d bytes are kept", j.size)
	}
	_, data, lost, _, _ = j.next(12)
	if lost != j.chunks[0].at-12 || len(data) != len(big) || j.end != 12+30*int64(len(big)) {
		t.Errorf("%d bytes, %d lost", len(data), lost)
	}
	for range 10_000 {
		fmt.Fprint(out, "y")
	}
	if len(j.chunks) > 20 {
		t.Errorf("%d chunks", len(j.chunks))
	}
}

func TestDetachAndAttach(t *testing.T) {
	t.Parallel()
	g := newGuest(t, nil)
	c := g.dial("root")
	detach := func(command string, timeout time.Duration) result {
		return image(t, c, hello.Exec{Argv: []string{"sh", "-c", command}, Detach: true, Timeout: timeout.Milliseconds()})
	}
	fifo := g.home + "/go"
	r := detach("mkfifo "+fifo+"; echo first; echo oops >&2; cat "+fifo+"; kill -KILL $$", 0)
	id := strings.TrimSpace(r.out)
	if r.code != 0 || len(id) != 12 {
		t.Fatalf("%+v", r)
	}
	early := start(t, c, hello.AttachRequest, id)
	waitFor(t, "the first line", func() bool { return early.out.String() == "first\n" })
	c.Close() // the client is gone, the command is not
	c = g.dial("root")
	late := start(t, c, hello.AttachRequest, id)
	waitFor(t, "the first line again", func() bool { return late.out.String() == "first\n" })
	image(t, c, hello.Exec{Argv: []string{"sh", "-c", "echo last > " + fifo}})
	if got := late.wait(); got.out != "first\nlast\n" || got.err != "oops\n" || got.code != 137 {
		t.Errorf("%+v", got)
	}
	if got := start(t, c, hello.AttachRequest, id).wait(); got.out != "first\nlast\n" || got.code != 137 {
		t.Errorf("after its end: %+v", got)
	}
	if got := start(t, c, hello.AttachRequest, "000000000000").wait(); got.code != ownFault || !strings.Contains(got.err, "no such command") {
		t.Errorf("%+v", got)
	}
	if got := detach("no/such/program; exec /no/such", 0); got.code != 0 {
		t.Errorf("%+v", got)
	}
	if got := image(t, c, hello.Exec{Argv: []string{"/no/such"}, Detach: true}); got.code != 127 || got.out != "" {
		t.Errorf("%+v", got)
	}
	var jobs []hello.Job
	list := start(t, c, "subsystem", hello.JobsSubsystem).wait()
	if err := json.Unmarshal([]byte(list.out), &jobs); err != nil || len(jobs) != 2 || jobs[0].ID != id || jobs[0].Running || jobs[0].Code != 137 {
		t.Errorf("%s, %v", list.out, err)
	}
}

// Ended commands make room, running ones do not.
func TestTooManyJobs(t *testing.T) {
	t.Parallel()
	g := newGuest(t, nil)
	c := g.dial("root")
	for i := range hello.MaxJobs + 3 {
		command := "exec sleep 1000"
		if i < 3 {
			command = "true"
		}
		r := image(t, c, hello.Exec{Argv: []string{"sh", "-c", command}, Detach: true})
		if i < 3 {
			start(t, c, hello.AttachRequest, strings.TrimSpace(r.out)).wait()
		}
		if r.code != 0 {
			t.Fatalf("%d: %+v", i, r)
		}
	}
	if r := image(t, c, hello.Exec{Argv: []string{"true"}, Detach: true}); r.code != ownFault || !strings.Contains(r.err, "none has ended") {
		t.Errorf("%+v", r)
	}
} // whose end kills them

func TestTimeout(t *testing.T) {
	t.Parallel()
	g := newGuest(t, func(s *Server, _ *hello.Config) { s.grace = 100 * time.Millisecond })
	c := g.dial("root")
	for _, command := range []string{"echo up; sleep 1000", "trap '' TERM; echo up; sleep 1000; sleep 1000"} {
		e := hello.Exec{Argv: []string{"bash", "-c", command}, Timeout: 300}
		if r := image(t, c, e); r.code != hello.TimedOut || r.signal != "" {
			t.Errorf("%q: %+v", command, r)
		}
		e.Detach = true
		id := strings.TrimSpace(image(t, c, e).out)
		if r := start(t, c, hello.AttachRequest, id).wait(); r.code != hello.TimedOut {
			t.Errorf("%q, detached: %+v", command, r)
		}
	}
	if r := image(t, c, hello.Exec{Argv: []string{"sh", "-c", "exit 3"}, Timeout: 60_000}); r.code != 3 {
		t.Errorf("%+v", r)
	}
}
