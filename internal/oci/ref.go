package oci

import (
	"net"
	"regexp"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"

	"banger"
	"banger/internal/fetch"
)

// The grammars of the OCI distribution-spec v1.1 (pull) and of image-spec v1.1
// (descriptor.md). go-containerregistry is laxer: it takes a/../b.
// Those with bounded repeats are slow to compile, and most commands need none.
var (
	repositoryGrammar = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	})
	registryGrammar = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$`)
	})
	tagGrammar    = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`) })
	digestGrammar = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^sha256:[0-9a-f]{64}$`) })
	objectName    = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`) }) // of an image here
)

const (
	maxRef  = 512 // bytes of a reference
	maxName = 128 // bytes of an image name, which becomes a directory
	hubHost = "index.docker.io"
	hubName = "docker.io" // what people call it
)

// reference is a parsed image reference.
type reference struct {
	name.Reference
	full  string // with registry, namespace and tag
	short string // for progress: debian:bookworm

	insecure bool // its registry need not have a certificate, nor TLS
	mirror   bool // its registry is a mirror that the user chose
}

// registry is the name of the registry as people write it.
func (r reference) registry() string {
	if host := r.Context().RegistryStr(); host != hubHost {
		return host
	}
	return hubName
}

// parse parses what the user typed.
func parse(s string) (reference, error) {
	bad := func(why string) (reference, error) {
		return reference{}, banger.Errorf(banger.Invalid, "image reference %q: %s", s, why).
			WithHint("write it as [HOST[:PORT]/]REPOSITORY[:TAG] or [HOST[:PORT]/]REPOSITORY@sha256:DIGEST")
	}
	if len(s) > maxRef {
		return reference{}, banger.Errorf(banger.Invalid, "image reference %.40q...: longer than %d bytes", s, maxRef)
	}
	ref, err := name.ParseReference(s, name.WeakValidation)
	if err != nil {
		switch {
		case strings.Contains(s, "://"):
			return bad("it is a URL, not a reference")
		case strings.ContainsRune(s, '@'):
			return bad("no digest of the form sha256: and 64 hex digits")
		case strings.ToLower(s) != s:
			return bad("a repository name is in lower case")
		}
		return bad("cannot be parsed")
	}
	if plainHTTP(ref.Context().RegistryStr()) {
		if ref, err = name.ParseReference(s, name.WeakValidation, name.Insecure); err != nil {
			return bad("cannot be parsed")
		}
	}
	if !registryGrammar().MatchString(ref.Context().RegistryStr()) {
		return bad("the registry's name is not that of a host")
	}
	repo := ref.Context().RepositoryStr()
	if !repositoryGrammar().MatchString(repo) {
		return bad("the repository name breaks the grammar of image names")
	}
	r := reference{Reference: ref}
	last := repo[strings.LastIndexByte(repo, '/')+1:]
	switch id := ref.Identifier(); {
	case digestGrammar().MatchString(id):
		r.full, r.short = "@"+id, last+"@"+shortDigest(id)
	case tagGrammar().MatchString(id):
		r.full, r.short = ":"+id, last+":"+id
	default:
		return bad("neither a tag nor a sha256 digest")
	}
	r.full = r.registry() + "/" + repo + r.full
	return r, nil
}

// DefaultName is the name an image gets if the user gives none: the last part
// of the repository and the tag, or the first 12 digits of the digest.
// docker.io/library/debian:bookworm is debian-bookworm.
func DefaultName(ref string) (string, error) {
	r, err := parse(ref)
	if err != nil {
		return "", err
	}
	last, id, _ := strings.Cut(r.short, ":")
	last = strings.TrimSuffix(last, "@sha256")
	n := last + "-" + id
	if len(n) > maxName {
		return "", banger.Errorf(banger.Invalid, "image name %q: longer than %d bytes", n, maxName).
			WithHint("choose a shorter one with --name")
	}
	return n, nil
}

// FullRef is a reference with its registry, namespace and tag. The error is Invalid.
func FullRef(ref string) (string, error) {
	r, err := parse(ref)
	return r.full, err
}

// shortDigest is the form of a digest for people. Its argument has passed digestGrammar.
func shortDigest(digest string) string {
	return digest[:len("sha256:")+12]
}

// plainHTTP reports whether a registry may be spoken to without TLS: only one
// on this machine, where nobody can listen or answer in its place.
func plainHTTP(registry string) bool {
	host := registry
	if h, _, err := net.SplitHostPort(registry); err == nil {
		host = h
	}
	return fetch.Near(strings.Trim(host, "[]")) == fetch.Loopback
}
