package banger

import (
	"context"
	"encoding/json"
	"time"
)

// The types of events.
const (
	EventVM     = "vm"
	EventImage  = "image"
	EventKernel = "kernel"
	EventSystem = "system" // the daemon itself: started, or gap
)

// EventGap is the action of an event that stands for those which were lost,
// because they were read too slowly or are too old to be kept; Reason says how many.
const EventGap = "gap"

// SystemEvent is something that became of a VM, an image or a kernel.
//
// Those of VMs are created, starting, running, paused, resumed, rebooted,
// stopping, stopped, failed, restarting (it is to be started again), renamed and
// removed; those of images and kernels are added and removed.
type SystemEvent struct {
	Seq    int64             `json:"seq"` // grows by one with each event, also over restarts of the daemon
	Time   time.Time         `json:"time"`
	Type   string            `json:"type"`
	Action string            `json:"action"`
	Name   string            `json:"name,omitempty"`
	ID     string            `json:"id,omitempty"` // of a VM
	Reason string            `json:"reason,omitempty"`
	Labels map[string]string `json:"labels,omitempty"` // of a VM
}

// EventsRequest asks for events.
type EventsRequest struct {
	// Since asks for those of the past too, as far as they are kept. The zero
	// time: only what comes, unless After is set.
	Since time.Time `json:"since,omitzero"`
	// After asks for those behind the one of that number, which were seen already.
	After int64 `json:"after,omitempty"`
	// Until ends the answer at that time; the zero time: never.
	Until time.Time `json:"until,omitzero"`
	// Filters are KEY=VALUE with the keys name, id, type, action and label
	// (NAME or NAME=value). Of those with one key any has to fit, and all keys.
	Filters []string `json:"filters,omitempty"`
}

// SystemEvents calls f for each event until the time r.Until, or until ctx ends.
// Kind: invalid (a filter).
func (c *Client) SystemEvents(ctx context.Context, r EventsRequest, f func(SystemEvent) error) error {
	return c.Feed(ctx, "system.events", r, nil, func(e Event) error {
		if e.Item == nil {
			return nil
		}
		var event SystemEvent
		if err := json.Unmarshal(e.Item, &event); err != nil {
			return Errorf(Internal, "read an event: %w", err)
		}
		return f(event)
	})
}
