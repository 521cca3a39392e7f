package catalogs

import (
	"net/url"
	"path/filepath"

	"golang.org/x/crypto/ssh"

	"banger"
	"banger/internal/fetch"
)

// Builtin is how the catalog that is part of banger is named.
const Builtin = "builtin"

// Origin is where one catalog of the configuration comes from, and whom it is
// taken from. The zero value stands for the built-in catalog.
type Origin struct {
	Kind          string // of what it lists: kernel, image
	Name          string // for CATALOG/NAME; may be empty
	URL           string // https://..., file:///... or an absolute path
	Key           string // of who signs it, as in authorized_keys
	AllowUnsigned bool   // take it from a server without a key
	AllowPrivate  bool   // it may send banger to private addresses
	Where         string // its place in the configuration, for hints
}

// Label is how the catalog is named to people: by its name or by where it is.
func (o Origin) Label() string {
	switch {
	case o.Name != "":
		return o.Name
	case o.URL == "":
		return Builtin
	}
	if u, err := url.Parse(o.URL); err == nil && u.Host != "" {
		return u.Host
	}
	return o.URL
}

// Recorded is how the record of what came from the catalog names it: not at
// all for the built-in one.
func (o Origin) Recorded() string {
	if o.URL == "" {
		return ""
	}
	return o.Label()
}

// Host is the host[:port] that the catalog comes from, empty for one of this host.
func (o Origin) Host() string {
	if s, err := o.site(); err == nil && s.path == "" {
		return s.base.Host
	}
	return ""
}

// Check says what is wrong with an origin as far as that shows without asking
// it. Its errors are Invalid and say what to write where.
func (o Origin) Check() error {
	_, err := o.site()
	return err
}

// site is an origin that makes sense.
type site struct {
	base *url.URL
	path string        // of the file, for one on this host
	key  ssh.PublicKey // nil: unsigned
}

func (o Origin) site() (s site, err error) {
	switch u, perr := url.Parse(o.URL); {
	case filepath.IsAbs(o.URL):
		s.path = filepath.Clean(o.URL)
		s.base = &url.URL{Scheme: "file", Path: s.path}
	case perr == nil && u.Scheme == "file" && (u.Host == "" || u.Host == "localhost") && filepath.IsAbs(u.Path):
		s.path, s.base = filepath.Clean(u.Path), u
	case perr == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Hostname() != "":
		s.base = u
	default:
		return s, banger.Errorf(banger.Invalid, "its url %.200q is neither an https URL nor the absolute path of a file", o.URL).
			WithHint(`in %s write: url = "https://HOST/catalog.json", or the absolute path of a file`, o.Where)
	}
	if o.Key != "" {
		if s.key, err = parseKey(o.Key); err != nil {
			e := banger.AsError(err)
			return s, e.WithHint("in %s: %s", o.Where, e.Hint)
		}
	}
	if s.key == nil && s.path == "" && !o.AllowUnsigned {
		return s, banger.Errorf(banger.Invalid, "it comes from a server, %s, and no key says who has to have signed it", fetch.Redacted(o.URL)).
			WithHint(`in %s write the publisher's key = "ssh-ed25519 AAAA...", or allow_unsigned = true to trust whoever answers there`, o.Where)
	}
	return s, nil
}

// sigURL is where the signature of the catalog at u is.
func sigURL(u *url.URL) string {
	sig := *u
	sig.Path += sigSuffix
	if sig.RawPath != "" {
		sig.RawPath += sigSuffix
	}
	return sig.String()
}
