package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"banger"
)

// systemEvents sends what happens, and with Since what has happened.
func (d *Daemon) systemEvents(ctx context.Context, r banger.EventsRequest, send func(banger.SystemEvent) error) error {
	fits, err := eventFilter(r.Filters)
	if err != nil {
		return err
	}
	past := !r.Since.IsZero()
	seq := r.After
	if !past && seq == 0 {
		d.journal.mu.Lock()
		seq = d.journal.last
		d.journal.mu.Unlock()
	}
	if !r.Until.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, r.Until, errUntil)
		defer cancel()
	}
	for {
		events, lost, changed := d.journal.after(seq)
		if lost > 0 && seq > 0 { // of those before the first look nobody knows how many fit
			gap := banger.SystemEvent{Seq: seq, Time: events[0].Time, Type: banger.EventSystem, Action: banger.EventGap,
				Reason: fmt.Sprintf("%d events before this are not kept any more", lost)}
			if err := send(gap); err != nil {
				return err
			}
		}
		for _, e := range events {
			seq = e.Seq
			if !r.Until.IsZero() && e.Time.After(r.Until) {
				return nil
			}
			if e.Time.Before(r.Since) || !fits(e) {
				continue
			}
			if err := send(e); err != nil {
				return err
			}
		}
		if len(events) > 0 {
			continue // others may have come meanwhile
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if err := context.Cause(ctx); !errors.Is(err, errUntil) {
				return err
			}
			return nil
		}
	}
}

var errUntil = errors.New("that was the last moment asked for")

// eventFilter makes one question of filters: of those with one key any has to
// fit, and all keys.
func eventFilter(filters []string) (func(banger.SystemEvent) bool, error) {
	byKey := map[string][]func(banger.SystemEvent) bool{}
	for _, f := range filters {
		key, want, ok := strings.Cut(f, "=")
		field := map[string]func(banger.SystemEvent) string{
			"name":   func(e banger.SystemEvent) string { return e.Name },
			"id":     func(e banger.SystemEvent) string { return e.ID },
			"type":   func(e banger.SystemEvent) string { return e.Type },
			"action": func(e banger.SystemEvent) string { return e.Action },
		}[key]
		one := func(e banger.SystemEvent) bool { return field(e) == want }
		if key == "label" {
			label, value, exact := strings.Cut(want, "=")
			one = func(e banger.SystemEvent) bool {
				have, there := e.Labels[label]
				return there && (!exact || have == value)
			}
		}
		if !ok || field == nil && key != "label" {
			return nil, banger.Errorf(banger.Invalid, "bad filter %q: want name=, id=, type=, action= or label=", f)
		}
		byKey[key] = append(byKey[key], one)
	}
	return func(e banger.SystemEvent) bool {
		for _, any := range byKey {
			hit := false
			for _, one := range any {
				hit = hit || one(e)
			}
			if !hit {
				return false
			}
		}
		return true
	}, nil
}

// vmEvent is an event of a VM as it is now.
func vmEvent(rec banger.VM, action, reason string) banger.SystemEvent {
	return banger.SystemEvent{Type: banger.EventVM, Action: action, Name: rec.Name, ID: rec.ID, Reason: reason, Labels: rec.Spec.Labels}
}

// vmEvents tells what a change of a record means.
func vmEvents(old, now banger.VM) (events []banger.SystemEvent) {
	if old.Name != now.Name {
		events = append(events, vmEvent(now, "renamed", fmt.Sprintf("it was %s", old.Name)))
	}
	if old.State != now.State {
		action, reason := string(now.State), now.Reason
		switch {
		case old.State == banger.Paused && now.State == banger.Running:
			action = "resumed"
		case now.State == banger.Starting && alive(old.State):
			action = "rebooted"
		}
		events = append(events, vmEvent(now, action, reason))
		if now.Again && !alive(now.State) {
			events = append(events, vmEvent(now, "restarting", ""))
		}
	}
	return events
}

// objectEvent is an event of an image or a kernel.
func (d *Daemon) objectEvent(kind, action, name string) {
	d.journal.add(banger.SystemEvent{Type: kind, Action: action, Name: name})
}

// openEvents opens the journal. One that cannot be used is no reason not to
// serve: VMs matter more.
func (d *Daemon) openEvents(path string) {
	var err error
	if d.journal, err = openJournal(path); err != nil {
		d.Log.Error("keep events in memory alone", "err", err)
		d.journal = &journal{changed: make(chan struct{}), last: time.Now().UnixMicro()} // behind all that a reader can have seen
	}
	d.journal.add(banger.SystemEvent{Type: banger.EventSystem, Action: "started", Reason: "daemon " + d.Version.Version})
}
