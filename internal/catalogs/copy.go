package catalogs

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"banger"
	"banger/internal/state"
)

// kept is the copy of a catalog as it is on disk, in one file so that no crash
// can part the text from its signature: these fields as one line of JSON, then
// the text as it came. The time of the file is when its origin last had it.
type kept struct {
	URL  string `json:"url"` // for people
	ETag string `json:"etag,omitempty"`
	Sig  string `json:"sig,omitempty"` // checked again at each use: the key may be another one by then

	text    []byte
	checked time.Time
}

// maxHeader bounds the line of JSON: a URL, an entity tag and a signature.
const maxHeader = 512 << 10

// file is the name of the copy.
func (o Origin) file() string {
	sum := sha256.Sum256([]byte(o.URL))
	return o.Kind + "-" + hex.EncodeToString(sum[:8]) + ".json"
}

func (r *Reader) path(o Origin) string { return filepath.Join(r.Dir, o.file()) }

// open reads the copy and checks it as if it had just come. One that does not
// pass is as good as none.
func (r *Reader) open(o Origin, s site, check func([]byte) error) (kept, error) {
	path := r.path(o)
	b, err := readFile(path, maxHeader+maxCatalog)
	if err != nil {
		return kept{}, err
	}
	var c kept
	header, text, ok := bytes.Cut(b, []byte("\n"))
	if !ok || json.Unmarshal(header, &c) != nil {
		return kept{}, fmt.Errorf("%s is no copy of a catalog", path)
	}
	if s.key != nil {
		if err := verify(text, []byte(c.Sig), s.key); err != nil {
			return kept{}, err
		}
	}
	if err := check(text); err != nil {
		return kept{}, err
	}
	fi, err := os.Stat(path)
	if err != nil {
		return kept{}, err
	}
	c.text, c.checked = text, fi.ModTime()
	return c, nil
}

// age is for how long the copy has not been compared with its origin. A clock
// that was set back makes it old, not new.
func (c kept) age() time.Duration {
	age := time.Since(c.checked)
	if age < 0 {
		return 1<<63 - 1
	}
	return age
}

// keep replaces the copy as a whole.
func (r *Reader) keep(o Origin, c kept) error {
	header, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if len(header) >= maxHeader {
		return banger.Errorf(banger.Invalid, "its entity tag and signature have %d bytes", len(header))
	}
	if err := os.MkdirAll(r.Dir, 0o700); err != nil {
		return state.Classify(fmt.Errorf("keep a copy: %w", err))
	}
	return state.WriteFile(r.path(o), bytes.Join([][]byte{header, c.text}, []byte("\n")), 0o600)
}

// confirm notes that the origin still has what the copy holds.
func (r *Reader) confirm(o Origin) error {
	now := time.Now()
	return state.Classify(os.Chtimes(r.path(o), now, now))
}
