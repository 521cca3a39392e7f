package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"

	"banger"
	"banger/internal/hello"
)

// Job is one detached program of a guest.
type Job = hello.Job

// jobID is what the ID of a detached program looks like.
var jobID = regexp.MustCompile(`^[0-9a-f]{12}$`)

// Detach starts a program that outlives the connection, and gives its ID. Of
// the request stdin, terminal, signals and outputs are not used.
// A program that could not be started gives the exit for that instead, and in
// the error what the guest says.
func (c *Client) Detach(ctx context.Context, r Request) (id string, exit Exit, err error) {
	js, err := r.exec(true)
	if err != nil {
		return "", Exit{}, err
	}
	var out, errs bounded
	exit, err = c.guarded(ctx, "run in the guest", func() (Exit, error) {
		return c.run(Request{Stdout: &out, Stderr: &errs}, hello.ExecRequest, js)
	})
	if err != nil {
		return "", exit, err
	}
	if exit.Code != 0 {
		return "", exit, banger.Errorf(banger.Invalid, "%s", said(errs.b.Bytes()))
	}
	if id = strings.TrimSpace(out.b.String()); !jobID.MatchString(id) {
		return "", exit, banger.Errorf(banger.Unavailable, "run in the guest: it answered %q", clean(id))
	}
	return id, exit, nil
}

// bounded keeps the first bytes of a guest's answer.
type bounded struct{ b bytes.Buffer }

func (w *bounded) Write(p []byte) (int, error) {
	w.b.Write(p[:min(len(p), maxText-w.b.Len())])
	return len(p), nil
}

// Attach passes on what a detached program has written, as far as that is kept,
// and what it writes, until it ends. When ctx ends, the program goes on.
func (c *Client) Attach(ctx context.Context, id string, stdout, stderr io.Writer) (Exit, error) {
	return c.guarded(ctx, "attach to the command", func() (Exit, error) {
		return c.run(Request{Stdout: stdout, Stderr: stderr}, hello.AttachRequest, id)
	})
}

// Jobs lists the detached programs, with texts made printable.
func (c *Client) Jobs(ctx context.Context) ([]Job, error) {
	out, err := c.subsystem(ctx, hello.JobsSubsystem, "")
	if err != nil {
		return nil, fmt.Errorf("list the guest's commands: %w", err)
	}
	var jobs []Job
	if err := json.Unmarshal(out, &jobs); err != nil {
		return nil, banger.Errorf(banger.Unavailable, "list the guest's commands: %s", clean(err.Error()))
	}
	for i := range jobs {
		jobs[i].ID, jobs[i].Command = clean(jobs[i].ID), clean(jobs[i].Command)
	}
	return jobs, nil
}
