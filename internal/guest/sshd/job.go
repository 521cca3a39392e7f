package sshd

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"banger/internal/hello"
)

// maxJobCommand bounds what is told of a job's command, in bytes.
const maxJobCommand = 200

// ownFault is the exit status for what is not the program's.
const ownFault = 125

// job is a program that was detached, with the last of its output.
type job struct {
	id      string
	command string
	proc    *process
	started time.Time

	mu      sync.Mutex
	changed chan struct{} // closed when there is more, or the end
	chunks  []chunk       // together at most hello.MaxJobOutput, or one
	size    int
	end     int64 // offset behind the last byte of the output
	over    bool
	status  int // exit status, once over
}

// chunk is a piece of the output, of one of the two streams.
type chunk struct {
	at     int64 // offset in the whole output
	stream int   // 0: stdout, 1: stderr
	data   []byte
}

// chunkSize is what a chunk is filled up to: of a program that writes byte by
// byte, chunks would be larger than what is in them.
const chunkSize = 4 << 10

// jobWriter is one of the streams.
type jobWriter struct {
	*job
	stream int
}

// Write never fails and never blocks: what is old makes room.
func (w jobWriter) Write(p []byte) (int, error) {
	j := w.job
	j.mu.Lock()
	defer j.mu.Unlock()
	if last := len(j.chunks) - 1; last >= 0 && j.chunks[last].stream == w.stream && len(j.chunks[last].data)+len(p) <= chunkSize {
		j.chunks[last].data = append(j.chunks[last].data, p...)
	} else {
		j.chunks = append(j.chunks, chunk{j.end, w.stream, slices.Clone(p)})
	}
	j.size += len(p)
	j.end += int64(len(p))
	for j.size > hello.MaxJobOutput && len(j.chunks) > 1 {
		j.size -= len(j.chunks[0].data)
		j.chunks[0].data = nil
		j.chunks = j.chunks[1:]
	}
	j.wake()
	return len(p), nil
}

func (j *job) wake() {
	close(j.changed)
	j.changed = make(chan struct{})
}

// next gives what comes at an offset, how much before it is not kept any more,
// and without data whether that was all, or what to wait for.
func (j *job) next(at int64) (stream int, data []byte, lost int64, over bool, changed <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, c := range j.chunks {
		if end := c.at + int64(len(c.data)); end > at {
			lost = max(0, c.at-at)
			return c.stream, c.data[at+lost-c.at:], lost, false, nil
		}
	}
	return 0, nil, 0, j.over, j.changed
}

// detach starts a program that outlives its session.
func (s *session) detach(p program, err error, e hello.Exec) {
	var j *job
	if err == nil {
		j, err = s.conn.srv.startJob(p, e)
	}
	if err != nil {
		s.refuse(err)
		return
	}
	_, _ = io.WriteString(s.ch, j.id+"\n")
	exit(s.ch, 0)
}

func (s *Server) startJob(p program, e hello.Exec) (*job, error) {
	s.jobLock.Lock()
	defer s.jobLock.Unlock()
	if len(s.jobs) >= hello.MaxJobs {
		i := slices.IndexFunc(s.jobs, func(j *job) bool { return j.ended() })
		if i < 0 {
			return nil, &startError{ownFault, fmt.Sprintf("run detached: %d commands are, and none has ended", hello.MaxJobs)}
		}
		s.jobs = slices.Delete(s.jobs, i, i+1)
	}
	proc, err := s.start(p, nil, nil)
	if err != nil {
		return nil, err
	}
	proc.in.Close() // nobody types
	var id [6]byte
	_, _ = rand.Read(id[:]) // never fails
	command := cmp.Or(e.Command, strings.Join(e.Argv, " "))
	j := &job{id: hex.EncodeToString(id[:]), command: command[:min(len(command), maxJobCommand)], proc: proc, started: time.Now(), changed: make(chan struct{})}
	s.jobs = append(s.jobs, j)
	s.running.Go(j.run)
	if e.Timeout > 0 {
		go proc.limit(time.Duration(e.Timeout)*time.Millisecond, cmp.Or(s.grace, hangUpGrace)) // ends with the process
	}
	return j, nil
}

// run keeps the output until the program has ended.
func (j *job) run() {
	status := j.proc.outputs(jobWriter{j, 0}, jobWriter{j, 1})
	code := status.ExitStatus()
	switch {
	case j.proc.expired:
		code = hello.TimedOut
	case status.Signaled():
		code = 128 + int(status.Signal())
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.over, j.status = true, code
	j.wake()
}

func (j *job) ended() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.over
}

// endJobs ends all that still runs, as the agent does.
func (s *Server) endJobs() {
	s.jobLock.Lock()
	defer s.jobLock.Unlock()
	for _, j := range s.jobs {
		j.proc.signal(syscall.SIGKILL)
	}
}

func (s *Server) findJob(id string) *job {
	s.jobLock.Lock()
	defer s.jobLock.Unlock()
	for _, j := range s.jobs {
		if j.id == id {
			return j
		}
	}
	return nil
}

func (s *Server) listJobs() []hello.Job {
	s.jobLock.Lock()
	defer s.jobLock.Unlock()
	list := []hello.Job{}
	for _, j := range s.jobs {
		j.mu.Lock()
		list = append(list, hello.Job{ID: j.id, PID: j.proc.os.Pid, Command: j.command, Started: j.started.Unix(), Running: !j.over, Code: j.status,
			Dropped: j.end - int64(j.size)})
		j.mu.Unlock()
	}
	return list
}

// attach passes on what a job has written and writes, and then its end.
func (s *session) attach(id string) {
	j := s.conn.srv.findJob(id)
	if j == nil {
		s.refuse(&startError{ownFault, fmt.Sprintf("attach to %q: no such command, or it ended long ago", id)})
		return
	}
	status, err := s.follow(j)
	if err == nil {
		exit(s.ch, status)
	}
}

// follow returns with an error when the client is gone.
func (s *session) follow(j *job) (int, error) {
	streams := []io.Writer{s.ch, s.ch.Stderr()}
	for at := int64(0); ; {
		stream, data, lost, over, changed := j.next(at)
		if lost > 0 {
			if _, err := fmt.Fprintf(streams[1], "banger: %d bytes of output are not kept any more\n", lost); err != nil {
				return 0, err
			}
		}
		switch {
		case data != nil:
			if _, err := streams[stream].Write(data); err != nil {
				return 0, err
			}
			at += lost + int64(len(data))
		case over:
			return j.status, nil
		default:
			select {
			case <-changed:
			case <-s.gone:
				return 0, errors.New("the client is gone")
			}
		}
	}
}
