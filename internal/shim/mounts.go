package shim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"banger"
	"banger/internal/hello"
	"banger/internal/share"
	"banger/internal/vmm"
)

// mountTime bounds the mounts of one boot: emulated guests take a second for each.
const mountTime = 2 * time.Minute

// openFolders opens what the guest is to have of the host, for all boots of the
// machine: what has another place on the host by then is still the same.
func (s *Shim) openFolders() error {
	for _, m := range s.spec.Mounts {
		f, err := share.Open(m.Source, m.ReadOnly)
		if err != nil {
			s.closeFolders()
			return err
		}
		s.folders = append(s.folders, f)
	}
	return nil
}

func (s *Shim) closeFolders() {
	for _, f := range s.folders {
		_ = f.Close()
	}
}

// mountFolders has an agent that has just come up mount the folders, and says
// that the machine runs once all are. A guest that cannot is of no use: it ends,
// with the reason. An agent that went away meanwhile comes again, and so do these.
func (s *Shim) mountFolders(ctx context.Context, m vmm.Machine, serving *sync.WaitGroup) {
	ctx, cancel := context.WithTimeout(ctx, mountTime)
	defer cancel()
	err := s.tryFolders(ctx, serving)
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "mount the folders of the host:", err)
	}
	s.update(func(st *Status) {
		switch {
		case st.Phase != Starting:
		case err == nil:
			st.Phase = Running
		case banger.IsKind(err, banger.Invalid):
			st.Guest = err.Error()
			_ = m.Kill()
		}
	})
}

func (s *Shim) tryFolders(ctx context.Context, serving *sync.WaitGroup) error {
	c, err := s.dialAgent(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	for i, m := range s.spec.Mounts {
		err := c.Mount(ctx, hello.Mount{Target: m.Target, ReadOnly: m.ReadOnly}, func(stream net.Conn) {
			serving.Go(func() {
				s.visits.open.Add(-1) // it is no session: a machine with a mount may be idle
				defer s.visits.open.Add(1)
				if err := s.folders[i].Serve(stream); err != nil {
					fmt.Fprintf(os.Stderr, "serve %s: %v\n", m.Source, err)
				}
			})
		})
		if err != nil {
			return err
		}
	}
	return nil
}
