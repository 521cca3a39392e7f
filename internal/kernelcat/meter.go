package kernelcat

import (
	"io"
	"time"
)

// reportEvery is how often progress is told at most.
const reportEvery = 100 * time.Millisecond

// meter reports how much was read through it, for one goroutine at a time.
type meter struct {
	r      io.Reader
	n      int64
	last   time.Time
	report func(n int64)
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.n += int64(n)
	if now := time.Now(); err != nil || now.Sub(m.last) >= reportEvery {
		m.last = now
		m.report(m.n)
	}
	return n, err
}
