package banger

import "time"

// Image is one image of the store: images/NAME/manifest.json beside rootfs.img.
type Image struct {
	Name      string      `json:"name"`
	Source    string      `json:"source"`            // what it was made from, for instance oci:docker.io/library/debian:bookworm
	Catalog   string      `json:"catalog,omitempty"` // that it was pulled from by name; empty for the built-in one and for none
	Digest    string      `json:"digest"`            // of the OCI manifest, sha256:..., empty for other sources
	Kernel    string      `json:"kernel,omitempty"`  // the kernel it prefers
	Arch      string      `json:"arch"`              // as uname -m
	CreatedAt time.Time   `json:"created_at"`        // when banger made it
	Size      int64       `json:"size"`              // bytes that rootfs.img takes on disk
	Config    ImageConfig `json:"config"`
	// Problem says why the record cannot be used; such an image is listed, never hidden.
	Problem string `json:"problem,omitempty"`
}

// ImageConfig is the part of the OCI image configuration that banger acts on.
// Source: OCI image-spec v1.1, config.md.
type ImageConfig struct {
	Entrypoint []string `json:"entrypoint,omitempty"`
	Cmd        []string `json:"cmd,omitempty"`
	Env        []string `json:"env,omitempty"` // NAME=value
	WorkingDir string   `json:"working_dir,omitempty"`
	User       string   `json:"user,omitempty"` // user[:group], names or numbers
	StopSignal string   `json:"stop_signal,omitempty"`
}

// ImageOffer is one entry of the image catalogs.
type ImageOffer struct {
	Name        string   `json:"name"`    // by which it is pulled: NAME, or CATALOG/NAME where NAME means another one
	Catalog     string   `json:"catalog"` // that has it: builtin, or one of the configuration
	Arch        string   `json:"arch"`
	Description string   `json:"description"`
	Sources     []string `json:"sources"` // in the order they are tried
	State       string   `json:"state"`   // available or pulled
}

// Progress is one step of long work, for a person to watch.
type Progress struct {
	Step  string `json:"step"`            // a short sentence in the present: "pull layer 1/3"
	Done  int64  `json:"done,omitempty"`  // bytes so far
	Total int64  `json:"total,omitempty"` // bytes in all, 0 if not known
	// Notice says that Step is news to keep, not a state that passes: a source
	// that could not be reached, for instance.
	Notice bool `json:"notice,omitempty"`
}
