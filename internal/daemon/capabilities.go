package daemon

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"banger"
	"banger/internal/hello"
	"banger/internal/shim"
)

// labelServices is the label by which an image says what its VMs serve once they
// are up: NAME:PORT, several with commas between. What an image EXPOSEs is no
// promise that somebody listens there.
const labelServices = "banger.services"

// maxCapabilities bounds the list: each one that is waited for is a session.
const maxCapabilities = 32

// capability is something that a machine can do for others. There is nothing to
// undo: all of it ends with the machine.
type capability struct {
	name    string
	want    string // what the guest is asked for; empty: it is there with the agent
	problem string // why it cannot be had; that is no error of the VM
	// prepare puts it into a machine that is to be booted. nil: nothing to do.
	prepare func(*shim.Spec, banger.Kernel, banger.VMSpec) error
}

// capabilities are those of a VM, by what was asked for and what its image says.
func capabilities(s banger.VMSpec, labels map[string]string) []capability {
	var list []capability
	if s.Net == "nat" {
		list = append(list, capability{name: "nat", prepare: addNetwork})
	}
	list = append(list, capability{name: "agent"}, capability{name: "ssh"})
	for _, entry := range strings.FieldsFunc(labels[labelServices], func(r rune) bool { return r == ',' || r == ' ' }) {
		name, port, _ := strings.Cut(entry, ":")
		c := capability{name: name, want: hello.AwaitTCP + port}
		switch {
		case !labelName().MatchString(name) || len(name) > 64 || checkWait(c.want) != nil:
			c = capability{name: fmt.Sprintf("%.64q", entry), problem: "label " + labelServices + ": want NAME:PORT"}
		case s.Init == "banger":
			c.want, c.problem = "", "banger's own init starts no services"
		}
		list = append(list, c)
	}
	for _, want := range s.WaitFor {
		if want != waitAgent {
			list = append(list, capability{name: want, want: want})
		}
	}
	return list[:min(len(list), maxCapabilities)]
}

var unitName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9_@:.\\][A-Za-z0-9_@:.\\-]*$`) })

// waitAgent is the vsock port that every transport has: the agent's own.
const waitAgent = "vsock:22"

// checkWait checks one word of VMSpec.WaitFor.
func checkWait(word string) error {
	kind, what, _ := strings.Cut(word, ":")
	port, err := strconv.ParseUint(what, 10, 32)
	switch {
	case kind == "tcp" && err == nil && port > 0 && port < 1<<16:
		return nil
	case kind == "unit" && len(what) <= 255 && unitName().MatchString(what):
		return nil
	case word == waitAgent:
		return nil
	case kind == "vsock" && err == nil:
		return banger.Errorf(banger.Unsupported, "wait for %s: the transport is a virtio-serial port, on which a guest has no ports but its agent's, 22", word).
			WithHint("have it listen on TCP in the guest: tcp:%d", port)
	}
	return banger.Errorf(banger.Invalid, "cannot wait for %q: want tcp:PORT, unit:NAME or vsock:PORT", word)
}

func checkWaits(words []string) error {
	if len(words) > maxCapabilities/2 {
		return banger.Errorf(banger.Invalid, "%d things to wait for: want at most %d", len(words), maxCapabilities/2)
	}
	for _, w := range words {
		if err := checkWait(w); err != nil {
			return err
		}
	}
	return nil
}

// capable is what a record says of capabilities of a machine that boots.
func capable(list []capability) []banger.Capability {
	out := make([]banger.Capability, 0, len(list))
	for _, c := range list {
		b := banger.Capability{Name: c.name, Want: c.want, State: banger.CapabilityWaiting}
		if c.problem != "" {
			b.State, b.Detail = banger.CapabilityFailed, c.problem
		}
		out = append(out, b)
	}
	return out
}

// settle gives the capabilities with f applied to those that it is for.
func settle(list []banger.Capability, f func(*banger.Capability)) []banger.Capability {
	list = slices.Clone(list)
	for i := range list {
		f(&list[i])
	}
	return list
}

// withAgent notes that the agent answers, and with it all that needs no more.
func withAgent(list []banger.Capability) []banger.Capability {
	return settle(list, func(c *banger.Capability) {
		if c.Want == "" && c.State == banger.CapabilityWaiting {
			c.State = banger.CapabilityReady
		}
	})
}

// afresh is for a machine that boots once more.
func afresh(list []banger.Capability) []banger.Capability {
	return settle(list, func(c *banger.Capability) {
		if c.Want != "" || c.State == banger.CapabilityReady {
			c.State, c.Detail = banger.CapabilityWaiting, ""
		}
	})
}

// unsettled reports whether there is something left to wait for.
func unsettled(rec banger.VM) bool {
	return slices.ContainsFunc(rec.Capabilities, func(c banger.Capability) bool { return c.State == banger.CapabilityWaiting })
}

// awaitCapabilities waits for what the guest is to have, until all of it is there
// or its time is over, and notes what came of it.
func (v *vm) awaitCapabilities(c *shim.Client) {
	rec := v.record()
	limit := time.Duration(cmp.Or(rec.Spec.BootTimeout, defaultBoot)) * time.Second
	ctx, cancel := context.WithTimeout(v.d.life, limit)
	defer cancel()
	over := func(r banger.VM) bool { return v.machine() != c || !alive(r.State) || r.State == banger.Starting }
	v.d.tasks.Go(func() {
		defer cancel()
		_, _ = v.wait(ctx, over)
	})
	var all sync.WaitGroup
	for _, want := range rec.Capabilities {
		if want.State != banger.CapabilityWaiting {
			continue
		}
		all.Go(func() {
			seen, err := v.d.awaitOne(ctx, rec, want.Want)
			if v.d.life.Err() != nil || over(v.record()) {
				return // the next daemon looks again, and so does the next boot
			}
			state := banger.CapabilityReady
			switch {
			case ctx.Err() != nil:
				state, seen = banger.CapabilityFailed, fmt.Sprintf("not ready within %s; last seen: %s", limit, cmp.Or(seen, "nothing"))
			case err != nil:
				state, seen = banger.CapabilityFailed, banger.AsError(err).Msg
			default:
				seen = ""
			}
			_ = v.update(func(r *banger.VM) {
				r.Capabilities = settle(r.Capabilities, func(c *banger.Capability) {
					if c.Name == want.Name && c.Want == want.Want && c.State == banger.CapabilityWaiting {
						c.State, c.Detail = state, seen
					}
				})
			})
		})
	}
	all.Wait()
}

// awaitOne waits through the agent, and gives what was seen last in its place.
func (d *Daemon) awaitOne(ctx context.Context, rec banger.VM, want string) (seen string, err error) {
	c, err := d.dialAgent(ctx, rec)
	if err != nil {
		return "", err
	}
	defer c.Close()
	err = c.Await(ctx, want, func(line string) { seen = line })
	return seen, err
}

// capabilityError is why a start failed whose machine runs: one of the names that
// were waited for is not there. Nil: all are.
func capabilityError(rec banger.VM, names []string) error {
	for _, c := range rec.Capabilities {
		if c.State == banger.CapabilityFailed && c.Want != "" && slices.Contains(names, c.Name) {
			name := c.Name
			if c.Want != name {
				name += " (" + c.Want + ")"
			}
			return banger.Errorf(banger.Unavailable, "start vm %q: wait for %s: %s", rec.Name, name, c.Detail).
				WithHint("look inside while it runs: banger vm ssh %s; a longer wait: --boot-timeout SECONDS", rec.Name)
		}
	}
	return nil
}

// vmAwait waits for more than the VM's own capabilities.
func (d *Daemon) vmAwait(ctx context.Context, r banger.VMAwaitRequest, p progress) (banger.VM, error) {
	if err := checkWaits(r.WaitFor); err != nil {
		return banger.VM{}, err
	}
	v, err := d.find(r.Name)
	if err != nil {
		return banger.VM{}, err
	}
	machine := v.machine()
	if rec := v.record(); rec.State != banger.Running || machine == nil {
		return rec, banger.Errorf(banger.Conflict, "vm %q is %s", rec.Name, rec.State).WithHint("banger vm start %s", rec.Name)
	}
	_ = v.update(func(rec *banger.VM) {
		list := slices.Clone(rec.Capabilities)
		for _, word := range r.WaitFor {
			list = slices.DeleteFunc(list, func(c banger.Capability) bool { return c.Name == word && c.State != banger.CapabilityReady })
			if word != waitAgent && !slices.ContainsFunc(list, func(c banger.Capability) bool { return c.Name == word }) {
				list = append(list, banger.Capability{Name: word, Want: word, State: banger.CapabilityWaiting})
			}
		}
		rec.Capabilities = list[:min(len(list), maxCapabilities)]
	})
	d.tasks.Go(func() { v.awaitCapabilities(machine) })
	return d.waitCapabilities(ctx, v, r.WaitFor, p)
}

// wanted are the names of what a VM waits for; all: of what it has waited for in
// this boot too.
func wanted(rec banger.VM, all bool) (names []string) {
	for _, c := range rec.Capabilities {
		if c.Want != "" && (all || c.State == banger.CapabilityWaiting) {
			names = append(names, c.Name)
		}
	}
	return names
}

// waitCapabilities waits until all that a VM is to have is there, or is known not
// to be, which is an error for those of the names.
func (d *Daemon) waitCapabilities(ctx context.Context, v *vm, names []string, p progress) (banger.VM, error) {
	if len(names) > 0 {
		p(banger.Progress{Step: "wait for " + strings.Join(names, ", ")})
	}
	rec, err := v.wait(ctx, func(rec banger.VM) bool { return !alive(rec.State) || !unsettled(rec) })
	if err != nil {
		return rec, fmt.Errorf("start vm %q: %w", rec.Name, err)
	}
	if !alive(rec.State) {
		return rec, v.bootError(rec)
	}
	return rec, capabilityError(rec, names)
}
