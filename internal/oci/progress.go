package oci

import (
	"sync"
	"time"

	"banger"
)

// reportEvery is how often progress is told at most.
const reportEvery = 100 * time.Millisecond

// meter adds up what all layers of an image have read.
type meter struct {
	step   string
	total  int64
	report func(banger.Progress)

	mu   sync.Mutex
	done int64
	last time.Time
}

// add counts n bytes; n is negative for a layer that failed and may be read again.
func (m *meter) add(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done += n
	if m.report == nil || n <= 0 {
		return
	}
	now := time.Now()
	if m.done < m.total && now.Sub(m.last) < reportEvery {
		return
	}
	m.last = now
	m.report(banger.Progress{Step: m.step, Done: min(m.done, m.total), Total: m.total})
}
