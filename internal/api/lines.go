package api

import (
	"encoding/json"
	"net/http"
	"sync"

	"banger"
)

// lines writes the events of one stream, each as one line that is sent at once.
type lines struct {
	mu      sync.Mutex
	w       http.ResponseWriter
	started bool
}

func newLines(w http.ResponseWriter) *lines { return &lines{w: w} }

func (l *lines) send(e banger.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.started {
		l.started = true
		l.w.Header().Set("Content-Type", "application/jsonl")
	}
	_ = json.NewEncoder(l.w).Encode(e) // a client that went away ends the context
	_ = http.NewResponseController(l.w).Flush()
}

// fail ends the stream with the error: as a status while nothing was sent, else as a line.
func (l *lines) fail(err error) error {
	if !l.started {
		return err
	}
	l.send(banger.Event{Error: banger.AsError(err)})
	return nil
}
