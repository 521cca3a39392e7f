package oci

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"banger"
)

// Registry is how one registry is asked.
type Registry struct {
	Host string // as in references: host[:port], docker.io for Docker Hub
	// Insecure takes it with a certificate that nobody vouches for, and without TLS.
	Insecure bool
	// Mirrors are asked before it, in their order: host[:port][/prefix], under
	// which they have the same repositories.
	Mirrors []string
}

func (o Options) registry(host string) Registry {
	i := slices.IndexFunc(o.Registries, func(r Registry) bool { return strings.EqualFold(r.Host, host) })
	if i < 0 {
		return Registry{Host: host}
	}
	return o.Registries[i]
}

// reference parses a reference with what is configured of its registry.
func (o Options) reference(s string) (reference, error) {
	r, err := parse(s)
	if err != nil || !o.registry(r.registry()).Insecure {
		return r, err
	}
	r.insecure = true
	r.Reference, err = name.ParseReference(s, name.WeakValidation, name.Insecure)
	return r, err
}

// places are the references under which an image is asked for: that of each
// mirror, and its own, which is the last.
func (o Options) places(s string) ([]reference, error) {
	own, err := o.reference(s)
	if err != nil {
		return nil, err
	}
	var list []reference
	for _, m := range o.registry(own.registry()).Mirrors {
		r, err := o.reference(m + strings.TrimPrefix(own.full, own.registry()))
		if err != nil {
			return nil, fmt.Errorf("mirror of %s: %w", own.registry(), err)
		}
		r.mirror = true
		list = append(list, r)
	}
	return append(list, own), nil
}

// ask asks the mirrors and then the registry itself. A mirror that cannot be
// reached, or lacks the image, is passed over with a word.
func ask[T any](ctx context.Context, ref string, o Options, get func(*client) (T, error)) (T, error) {
	var none T
	places, err := o.places(ref)
	if err != nil {
		return none, err
	}
	own := places[len(places)-1]
	for _, place := range places {
		var c *client
		if c, err = connect(ctx, place, own, o); err == nil {
			var got T
			if got, err = get(c); err == nil {
				return got, nil
			}
			c.guard.CloseIdleConnections()
		}
		if !place.mirror || ctx.Err() != nil || !banger.IsKind(err, banger.Unavailable) && !banger.IsKind(err, banger.NotFound) {
			break
		}
		if o.Progress != nil {
			o.Progress(banger.Progress{Notice: true, Step: fmt.Sprintf("mirror %s: %v", place.registry(), err)})
		}
	}
	return none, err
}
