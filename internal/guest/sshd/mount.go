package sshd

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"banger/internal/hello"
)

// mount is hello.MountSubsystem. The stream of a folder that is mounted outlives
// the session and its connection.
func (s *session) mount() error {
	srv := s.conn.srv
	var m hello.Mount
	line, err := bufio.NewReader(io.LimitReader(s.ch, hello.MaxMount)).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &m)
	}
	if err != nil {
		return fmt.Errorf("read the order: %w", err)
	}
	if srv.Mount == nil {
		return errors.New("mount: this machine has no way to")
	}
	token, t := srv.issue()
	defer srv.take(token)
	if err := json.NewEncoder(s.ch).Encode(hello.MountTicket{Token: token}); err != nil {
		close(t.over)
		return err
	}
	stream, err := s.awaitData(t)
	if err != nil {
		close(t.over)
		return fmt.Errorf("mount: %w", err)
	}
	srv.mounted.Store(true)
	over, err := srv.Mount(m, stream)
	if err != nil {
		close(t.over)
		return json.NewEncoder(s.ch).Encode(hello.MountResult{Error: err.Error()})
	}
	srv.running.Go(func() {
		<-over
		close(t.over)
	})
	return json.NewEncoder(s.ch).Encode(hello.MountResult{})
}
