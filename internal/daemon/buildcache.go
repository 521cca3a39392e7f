package daemon

import (
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	"banger/internal/oci"
	"banger/internal/state"
)

// buildRecord is what a step made: cache/builds/KEY.json. Without a blob it
// changed no file.
type buildRecord struct {
	Blob *oci.Blob `json:"blob,omitempty"`
	Step string    `json:"step"` // for people
	Made time.Time `json:"made"`
}

func (d *Daemon) buildRecordPath(key string) string {
	return filepath.Join(d.Layout.Builds(), key+".json")
}

// buildRecord finds what a step made before. A record whose layer is gone from
// the cache counts for nothing.
func (d *Daemon) buildRecord(key string) (rec buildRecord, ok bool) {
	b, err := os.ReadFile(d.buildRecordPath(key))
	if err != nil || json.Unmarshal(b, &rec) != nil {
		return rec, false
	}
	return rec, rec.Blob == nil || rec.Blob.Here(d.Layout.Blobs())
}

func (d *Daemon) writeBuildRecord(key string, rec buildRecord) error {
	rec.Made = time.Now().UTC().Truncate(time.Second)
	return state.WriteRecord(d.buildRecordPath(key), rec)
}
