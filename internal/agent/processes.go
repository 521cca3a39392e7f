package agent

import (
	"context"
	"encoding/json"
	"fmt"

	"banger"
	"banger/internal/hello"
)

// Processes is what runs in a guest.
type Processes = hello.Processes

// Process is one of them.
type Process = hello.Process

// Processes lists what runs in the guest, with texts made printable.
func (c *Client) Processes(ctx context.Context) (all Processes, err error) {
	out, err := c.subsystem(ctx, hello.ProcessesSubsystem, "")
	if err != nil {
		return all, fmt.Errorf("list the guest's processes: %w", err)
	}
	if err := json.Unmarshal(out, &all); err != nil {
		return all, banger.Errorf(banger.Unavailable, "list the guest's processes: %s", clean(err.Error()))
	}
	for i, p := range all.List {
		all.List[i].User, all.List[i].State, all.List[i].Command = clean(p.User), clean(p.State), clean(p.Command)
	}
	return all, nil
}
