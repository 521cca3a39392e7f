package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"banger"
	"banger/internal/hello"
	"banger/internal/state"
)

// events are the events so far, in words.
func (h *host) events(filters ...string) (words []string, last int64) {
	h.t.Helper()
	r := banger.EventsRequest{Since: time.Unix(1, 0), Until: time.Now(), Filters: filters}
	h.must(h.client.SystemEvents(h.t.Context(), r, func(e banger.SystemEvent) error {
		word := e.Action + " " + e.Name
		if e.Reason != "" && e.Type == banger.EventVM {
			word += ": " + e.Reason
		}
		if e.Seq <= last || e.Time.IsZero() {
			h.t.Errorf("event %+v behind number %d", e, last)
		}
		words, last = append(words, word), e.Seq
		return nil
	}))
	return words, last
}

// What becomes of a VM is told in its order, and still known to the next daemon.
func TestEvents(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	ctx := t.Context()
	spec := testSpec("web")
	spec.Labels = map[string]string{"tier": "front"}
	rec, err := h.client.VMCreate(ctx, banger.VMCreateRequest{Spec: spec}, nil)
	h.must(err)
	h.mustCreate("other", true)
	_, err = h.client.VMPause(ctx, "web")
	h.must(err)
	_, err = h.client.VMResume(ctx, "web")
	h.must(err)
	h.guestEnds(rec, hello.Reboot)
	h.eventually(func() error {
		if words, _ := h.events("action=rebooted"); len(words) == 0 || h.show("web").State != banger.Running {
			return errors.New("it does not reboot")
		}
		return nil
	})
	_, err = h.client.VMRename(ctx, banger.VMRenameRequest{Name: "web", New: "www"})
	h.must(err)
	_, err = h.stop(banger.VMStopRequest{Name: "www"})
	h.must(err)
	h.close()
	h.open()
	h.remove("www")
	h.must(h.client.KernelDelete(ctx, banger.NameRequest{Name: "kernel", Force: true}))
	h.addKernel("kernel")

	want := []string{"created web", "starting web", "running web", "paused web", "resumed web", "rebooted web: the guest rebooted", "running web",
		"renamed www: it was web", "stopping www", "stopped www: stopped", "removed www"}
	if words, _ := h.events("label=tier=front", "type=vm"); !slices.Equal(words, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(words, "\n"), strings.Join(want, "\n"))
	}
	if words, _ := h.events("id=" + rec.ID); !slices.Equal(words, want) {
		t.Errorf("of its ID: %v", words)
	}
	if words, _ := h.events("name=other", "name=kernel"); !slices.Equal(words, []string{"created other", "removed kernel"}) {
		t.Errorf("by name: %v", words)
	}
	if words, _ := h.events("type=system"); len(words) != 2 { // two daemons
		t.Errorf("of the daemon: %v", words)
	}
	for _, bad := range []string{"name", "colour=red", ""} {
		err := h.client.SystemEvents(ctx, banger.EventsRequest{Filters: []string{bad}}, nil)
		wantKind(t, err, banger.Invalid, "bad filter")
	}
	h.remove("other")
	h.clean()
}

// Who follows gets what comes, and with After all that came since.
func TestEventsFollowed(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	_, last := h.events()
	ctx, cancel := context.WithCancelCause(t.Context())
	errSeen := errors.New("seen")
	got := make(chan string, 8)
	done := make(chan error, 1)
	go func() {
		done <- h.client.SystemEvents(ctx, banger.EventsRequest{After: last}, func(e banger.SystemEvent) error {
			got <- e.Action
			if e.Action == "removed" {
				return errSeen
			}
			return nil
		})
	}()
	h.mustCreate("web", true)
	h.remove("web")
	if err := <-done; err != errSeen {
		t.Errorf("it ended with %v", err)
	}
	if a, b := <-got, <-got; a != "created" || b != "removed" {
		t.Errorf("got %s, %s", a, b)
	}
	// A daemon that goes down ends the calls, so that they do not hold it up.
	go func() {
		done <- h.client.SystemEvents(ctx, banger.EventsRequest{After: last}, func(banger.SystemEvent) error { got <- ""; return nil })
	}()
	<-got
	h.close()
	if err := <-done; !banger.IsKind(err, banger.Canceled) && !banger.IsKind(err, banger.Unavailable) {
		t.Errorf("it ended with %v", err)
	}
	cancel(nil)
}

func TestJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), state.EventsFile)
	open := func() *journal {
		j, err := openJournal(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(j.close)
		return j
	}
	j := open()
	reason := strings.Repeat("x", 1000)
	const n = 5000 // more than the files hold, and the memory
	for range n {
		j.add(banger.SystemEvent{Type: banger.EventVM, Action: "running", Reason: reason})
	}
	for _, p := range []string{path, path + state.RotatedSuffix} {
		if fi, err := os.Stat(p); err != nil || fi.Size() > maxEventsFile {
			t.Errorf("%v, %v", fi, err)
		}
	}
	// A reader that was too slow is told how much it missed; nobody waited for it.
	events, lost, _ := j.after(10)
	if len(events) == 0 || len(events) > maxEvents || lost != events[0].Seq-11 || events[len(events)-1].Seq != n {
		t.Errorf("%d events, %d lost", len(events), lost)
	}
	if events, lost, _ := j.after(n); len(events) != 0 || lost != 0 {
		t.Errorf("behind the last: %d events, %d lost", len(events), lost)
	}
	// The daemon is killed in the middle of a line. The next one has what is whole.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = fmt.Fprintf(f, "{\"seq\":%d,\"type\":\"vm\",\"act", n+1)
	_ = f.Close()
	for i := range 2 {
		j = open()
		j.add(banger.SystemEvent{Action: "started"})
		events, _, _ := j.after(0)
		if last := events[len(events)-1]; last.Seq != n+1+int64(i) || last.Action != "started" || len(events) < 1000 {
			t.Errorf("%d events, the last is %+v", len(events), last)
		}
	}
	// Without a place to keep them events are told all the same.
	full := &journal{changed: make(chan struct{})}
	full.add(banger.SystemEvent{Action: "one"}, banger.SystemEvent{Action: "two"})
	if events, _, _ := full.after(0); len(events) != 2 || events[1].Seq != 2 {
		t.Errorf("got %+v", events)
	}
}
