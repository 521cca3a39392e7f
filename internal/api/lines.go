package api

import (
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"banger"
)

// lines writes the events of one stream, each as one line that is sent at once.
type lines struct {
	mu      sync.Mutex
	w       http.ResponseWriter
	started bool
}

func newLines(w http.ResponseWriter) *lines { return &lines{w: w} }

// send tells of an error for those who cannot see otherwise that the client has
// gone: for most it ends the call's context.
func (l *lines) send(e banger.Event) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.started {
		l.started = true
		l.w.Header().Set("Content-Type", "application/jsonl")
	}
	if err := json.NewEncoder(l.w).Encode(e); err != nil {
		return err
	}
	return http.NewResponseController(l.w).Flush()
}

// push is send for a stream that has no end of its own: a client that does not
// read is cut off.
func (l *lines) push(e banger.Event) error {
	rc := http.NewResponseController(l.w)
	_ = rc.SetWriteDeadline(time.Now().Add(sendTime))
	defer func() { _ = rc.SetWriteDeadline(time.Time{}) }()
	return l.send(e)
}

// fail ends the stream with the error: as a status while nothing was sent, else as a line.
func (l *lines) fail(err error) error {
	if !l.started {
		return err
	}
	_ = l.send(banger.Event{Error: banger.AsError(err)})
	return nil
}
