package banger

import "time"

// Image is one image of the store: images/NAME/manifest.json beside rootfs.img.
type Image struct {
	Name      string      `json:"name"`
	Source    string      `json:"source"`                 // what it was made from, for instance oci:docker.io/library/debian:bookworm
	Catalog   string      `json:"catalog,omitempty"`      // that it was pulled from by name; empty for the built-in one and for none
	Digest    string      `json:"digest"`                 // of the OCI manifest, sha256:..., empty for other sources
	Named     string      `json:"named_digest,omitempty"` // that the reference had: of an index, or Digest again
	Bundle    string      `json:"bundle,omitempty"`       // digest of the file that it was pulled from, sha256:..., where that was a catalog's bundle
	Kernel    string      `json:"kernel,omitempty"`       // the kernel it prefers
	Arch      string      `json:"arch"`                   // as uname -m
	CreatedAt time.Time   `json:"created_at"`             // when banger made it
	Size      int64       `json:"size"`                   // bytes that its root file system takes on disk
	FS        string      `json:"fs,omitempty"`           // of its root: ext4 or erofs; empty is ext4
	SHA256    string      `json:"sha256,omitempty"`       // of its root file system, hex; of one that was built since it was first verified
	Config    ImageConfig `json:"config"`
	// Layers are those of the OCI image that it was made from, the lowest first.
	Layers []ImageLayer `json:"layers,omitempty"`
	// InPlace is set for an image that was registered: its root file system is
	// this file, and not one of the store.
	InPlace *ImageFile `json:"in_place,omitempty"`
	// Built is set for an image that banger built.
	Built *ImageOrigin `json:"built,omitempty"`
	// Temporary is set for what the VM of a build is booted from; it goes with that VM.
	Temporary bool `json:"temporary,omitempty"`
	// Problem says why the record cannot be used; such an image is listed, never hidden.
	Problem string `json:"problem,omitempty"`
}

// ImageLayer is one layer of an OCI image.
type ImageLayer struct {
	Digest string `json:"digest,omitempty"` // of the blob, sha256:...; a docker-archive has none
	DiffID string `json:"diff_id"`          // of the tar, sha256:...
	Size   int64  `json:"size"`             // bytes of the blob
}

// ImageFile is a file outside the store, and what it was when it was registered.
// Its device is not part of that: numbers of devices change from boot to boot.
type ImageFile struct {
	Path  string    `json:"path"`
	Size  int64     `json:"size"` // bytes of it
	MTime time.Time `json:"mtime"`
	Inode uint64    `json:"inode"`
}

// ImageDetails is an image with what is not in its record.
type ImageDetails struct {
	Image
	Rootfs string            `json:"rootfs"`           // path of its root file system
	UsedBy []string          `json:"used_by"`          // the VMs that need it, for instance "vm web"
	Cached int               `json:"cached"`           // of its layers, how many are in the cache; with all of them it can be saved as it came
	Labels map[string]string `json:"labels,omitempty"` // of its OCI config
}

// ImageStep is one step of how an image was made, as its OCI config tells it.
type ImageStep struct {
	Created time.Time `json:"created,omitzero"`
	By      string    `json:"by"` // the command or the instruction
	Comment string    `json:"comment,omitempty"`
	Layer   string    `json:"layer,omitempty"` // the diff ID of the layer that it made; empty: it made none
	Size    int64     `json:"size"`            // bytes of that layer as transferred
}

// ImageReport is what ImageVerify found.
type ImageReport struct {
	Image  Image  `json:"image"`
	Rootfs string `json:"rootfs"`           // path of the file that was read
	SHA256 string `json:"sha256"`           // of it, hex
	First  bool   `json:"first"`            // there was nothing to compare it with; it is noted now
	Inodes int    `json:"inodes,omitempty"` // files whose metadata were found sound; 0: its file system is of a kind that is not read
}

// Pruned is one thing that ImagePrune removed, or would remove.
type Pruned struct {
	Kind string `json:"kind"` // image, layer, boot disk, initrd or modules disk
	Name string `json:"name"`
	Size int64  `json:"size"` // bytes on disk that it frees
	Why  string `json:"why"`
}

// PruneReport is what ImagePrune did, or would do.
type PruneReport struct {
	Items []Pruned `json:"items"`
	Freed int64    `json:"freed"` // bytes in all
	Dry   bool     `json:"dry_run,omitempty"`
}

// ImagePushed says what a push made.
type ImagePushed struct {
	Ref    string `json:"ref"`    // in full
	Digest string `json:"digest"` // of the manifest that the registry has now
	Reused bool   `json:"reused"` // its layers are those of the image that it was made from, byte for byte
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
	// Output says that Step is a line that the work itself prints, to be shown as it is.
	Output bool `json:"output,omitempty"`
	// Notice says that Step is news to keep, not a state that passes: a source
	// that could not be reached, for instance.
	Notice bool `json:"notice,omitempty"`
}
