package daemon

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/state"
)

// Bounds of the events that are kept: in memory, and in each of the two files,
// the one in use and the one that was full.
const (
	maxEvents     = 4096
	maxEventsFile = 1 << 20
	maxEventLine  = 64 << 10 // a VM's labels are the largest part
)

// journal is what has happened, in its order. Whoever reads it does so at their
// own pace, by number: a writer waits for nobody. It is not synced: a host that
// loses its power may lose the last events, a daemon that is killed loses none.
type journal struct {
	path string

	mu      sync.Mutex
	events  []banger.SystemEvent // the newest of them
	last    int64                // the number of the newest one
	changed chan struct{}        // closed at each event, then replaced
	f       *os.File             // nil: it cannot be written
	size    int64
}

// openJournal reads what a daemon before this one has left. Lines that are no
// events are skipped: one that was killed may have written half of its last one.
func openJournal(path string) (*journal, error) {
	j := &journal{path: path, changed: make(chan struct{})}
	for _, p := range []string{path + state.RotatedSuffix, path} {
		if err := j.load(p); err != nil {
			return nil, fmt.Errorf("read events: %w", err)
		}
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open events: %w", err)
	}
	fi, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("open events: %w", err)
	}
	j.f, j.size = f, fi.Size()
	if j.size > 0 {
		n, _ := io.WriteString(f, "\n") // behind half a line, perhaps; an empty one is nothing
		j.size += int64(n)
	}
	return j, nil
}

func (j *journal) load(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, 2*maxEventsFile))
	lines.Buffer(nil, maxEventLine)
	for lines.Scan() {
		var e banger.SystemEvent
		if json.Unmarshal(lines.Bytes(), &e) == nil && e.Seq > j.last {
			j.keep(e)
		}
	}
	return nil
}

// keep takes an event into memory; mu is held, or nobody else has j yet.
func (j *journal) keep(e banger.SystemEvent) {
	if len(j.events) >= maxEvents {
		j.events = append(j.events[:0], j.events[maxEvents/4:]...)
	}
	j.events, j.last = append(j.events, e), e.Seq
}

// add gives events their numbers and their time, and wakes who waits for them.
func (j *journal) add(events ...banger.SystemEvent) {
	if j == nil || len(events) == 0 {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	var b bytes.Buffer
	for _, e := range events {
		e.Seq, e.Time = j.last+1, time.Now().UTC()
		j.keep(e)
		_ = json.NewEncoder(&b).Encode(e) // cannot fail
	}
	j.write(b.Bytes())
	close(j.changed)
	j.changed = make(chan struct{})
}

// write puts lines on disk, as long as it can: the events of a full disk are in
// memory, and it is VMs that matter there.
func (j *journal) write(lines []byte) {
	if j.f != nil && j.size > 0 && j.size+int64(len(lines)) > maxEventsFile {
		if f, err := putAsideFile(j.path); err == nil {
			_ = j.f.Close()
			j.f, j.size = f, 0
		}
	}
	if j.f == nil || j.size+int64(len(lines)) > 2*maxEventsFile {
		return
	}
	n, _ := j.f.Write(lines)
	j.size += int64(n)
}

// putAsideFile gives a new file in the place of one that is full.
func putAsideFile(path string) (*os.File, error) {
	if err := os.Rename(path, path+state.RotatedSuffix); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
}

// after gives the events behind number seq, how many before them are not kept any
// more, and a channel that is closed when there are more.
func (j *journal) after(seq int64) (events []banger.SystemEvent, lost int64, changed <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	i := len(j.events)
	for i > 0 && j.events[i-1].Seq > seq {
		i--
	}
	events = append(events, j.events[i:]...)
	if len(events) > 0 && events[0].Seq > seq+1 {
		lost = events[0].Seq - seq - 1
	}
	return events, lost, j.changed
}

func (j *journal) close() {
	if j == nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.f != nil {
		_ = j.f.Close()
		j.f = nil
	}
}
