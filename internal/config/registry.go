package config

import (
	"regexp"
	"strings"
	"sync"
)

// host is that of a registry in a reference, with a port or without.
const host = `([A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?`

var (
	registryHost = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^` + host + `$`) })
	mirrorGoal   = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^` + host + `(/[a-z0-9._-]+)*$`) })
)

func checkRegistries(path string, registries []Registry) error {
	seen := map[string]bool{}
	for _, r := range registries {
		key := strings.ToLower(r.Host)
		switch {
		case r.Host == "":
			return invalid(path, r.Line, "a registry has no host").WithHint(`write: host = "registry.example.org:5000"; Docker Hub is docker.io`)
		case !registryHost().MatchString(r.Host):
			return invalid(path, r.Line, "%.200q is not the host of a registry", r.Host).
				WithHint("write host or host:port, as in references: no scheme and no path")
		case seen[key]:
			return invalid(path, r.Line, "the registry %q is there twice", r.Host).WithHint("make one table of the two")
		}
		seen[key] = true
		for _, m := range r.Mirrors {
			switch {
			case !mirrorGoal().MatchString(m):
				return invalid(path, r.Line, "%.200q is not a mirror", m).
					WithHint("write host, host:port or host:port/prefix; a mirror without TLS has a registry table of its own, with insecure = true")
			case strings.EqualFold(m, r.Host):
				return invalid(path, r.Line, "%q is a mirror of itself", m).WithHint("leave it out: the registry is asked last in any case")
			}
		}
	}
	return nil
}
