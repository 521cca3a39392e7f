package daemon

import (
	"slices"

	"banger"
)

// transitions are the states that a VM can go to from each; docs/ARCHITECTURE.md
// says when.
var transitions = map[banger.VMState][]banger.VMState{
	banger.Created:  {banger.Starting},
	banger.Starting: {banger.Running, banger.Paused, banger.Stopping, banger.Stopped, banger.Failed, banger.Created}, // paused: while no daemon looked
	banger.Running:  {banger.Starting, banger.Paused, banger.Stopping, banger.Stopped, banger.Failed},                // starting: the guest rebooted
	banger.Paused:   {banger.Starting, banger.Running, banger.Stopping, banger.Stopped, banger.Failed},
	banger.Stopping: {banger.Stopped, banger.Failed},
	banger.Stopped:  {banger.Starting, banger.Failed}, // failed: it could not be started again
	banger.Failed:   {banger.Starting},
	banger.Broken:   nil, // it can only be removed
}

// canGo reports whether a VM can go from one state to another one.
func canGo(from, to banger.VMState) bool {
	return from == to || slices.Contains(transitions[from], to)
}

// alive reports whether a VM in that state has, or may have, a machine.
func alive(s banger.VMState) bool {
	return s != banger.Broken && slices.Contains(transitions[s], banger.Stopped)
}
