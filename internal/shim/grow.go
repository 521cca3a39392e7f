package shim

import (
	"context"
	"time"

	"banger"
	"banger/internal/vmm"
)

// ownDisk is the number of the machine's own disk.
const ownDisk = 2

// GrowTime bounds the growth of a disk: an emulated guest takes a second or two.
const GrowTime = time.Minute

// grow makes the machine's own disk larger, has the guest grow the file system
// on it, and answers the order.
func (s *Shim) grow(ctx context.Context, m vmm.Machine, id, size int64) {
	ctx, cancel := context.WithTimeout(ctx, GrowTime)
	defer cancel()
	err := s.growDisk(ctx, m, size)
	s.update(func(st *Status) {
		st.Answer = &Answer{ID: id}
		if err != nil {
			st.Answer.Error = banger.AsError(err)
		}
	})
}

func (s *Shim) growDisk(ctx context.Context, m vmm.Machine, size int64) error {
	s.mu.Lock()
	phase, paused := s.status.Phase, s.status.Paused
	s.mu.Unlock()
	if phase != Running || paused {
		return banger.Errorf(banger.Conflict, "the machine does not run")
	}
	if err := m.Resize(ctx, ownDisk, size); err != nil {
		return err
	}
	c, err := s.dialAgent(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Grow(ctx)
}
