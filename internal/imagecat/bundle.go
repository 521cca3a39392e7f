package imagecat

import (
	"fmt"
	"net/url"

	"banger"
	"banger/internal/fetch"
)

// maxBundle is how large a bundle may be, in bytes.
const maxBundle = 64 << 30

// Bundle is an image in one file of a server, for one architecture: an OCI
// layout in a tar, as banger image save writes it, or the tar of a root file
// system; packed with zstd or gzip, or plain.
type Bundle struct {
	URL       string `json:"url"`                  // may be relative to the catalog's own URL
	SHA256    string `json:"sha256"`               // of the file, hex
	SizeBytes int64  `json:"size_bytes,omitempty"` // of the file
	Arch      string `json:"arch"`                 // as uname -m

	from string // URL of the catalog, empty for the built-in one
}

// Pinned is the file.
func (b Bundle) Pinned() fetch.Pinned {
	return fetch.Pinned{URL: b.URL, SHA256: b.SHA256, Size: b.SizeBytes, Max: maxBundle, From: b.from}
}

func (b Bundle) check() error {
	switch {
	case b.URL == "" || badText(b.URL):
		return fmt.Errorf("url %.64q is missing, too long or no text", b.URL)
	case !fetch.IsHexSHA256(b.SHA256):
		return fmt.Errorf("sha256 %.80q is no SHA-256", b.SHA256)
	case b.SizeBytes < 0 || b.SizeBytes > maxBundle:
		return fmt.Errorf("size_bytes is %d", b.SizeBytes)
	case !archGrammar().MatchString(b.Arch):
		return fmt.Errorf("bad architecture %.64q", b.Arch)
	}
	return nil
}

// Resolve makes the URLs of the catalog absolute, base being its own. One on a
// server may not name files of this host. Its errors are Invalid.
func (c *Catalog) Resolve(base *url.URL) error {
	for _, e := range c.Entries {
		for _, s := range e.Sources {
			if s.Bundle == nil {
				continue
			}
			u, err := fetch.ResolveURL(base, s.Bundle.URL)
			if err == nil {
				err = fetch.CheckPinnedURL(u)
			}
			if err != nil {
				return banger.Errorf(banger.Invalid, "read image catalog: image %s: %w", e.Name, err)
			}
			s.Bundle.URL, s.Bundle.from = u.String(), base.String()
		}
	}
	return nil
}

// Outdated reports whether the catalog has another bundle for an architecture
// than the one whose digest, sha256:HEX, is given; "" is no bundle. Of other
// sources that is not known without asking them.
func (e Entry) Outdated(arch, digest string) bool {
	for _, s := range e.Sources {
		if s.Bundle != nil && s.Bundle.Arch == arch {
			return digest != "" && digest != "sha256:"+s.Bundle.SHA256
		}
	}
	return false
}
