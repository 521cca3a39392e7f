package banger

import "context"

// ImageBuildRequest asks for an image made by the steps of a Dockerfile, or of
// another image with packages added and a script run.
type ImageBuildRequest struct {
	Name string `json:"name"` // of the image
	// Context is the folder that COPY and ADD take files from, absolute; empty: there is none.
	Context string `json:"context,omitempty"`
	File    string `json:"file,omitempty"` // the Dockerfile, absolute; default: Dockerfile in Context
	Text    string `json:"text,omitempty"` // the Dockerfile itself, instead of File

	// FromImage is what a build without a Dockerfile begins with: Packages are
	// installed, then Script is run.
	FromImage string   `json:"from_image,omitempty"`
	Packages  []string `json:"packages,omitzero"` // nil: DefaultPackages; empty: none
	Script    string   `json:"script,omitempty"`  // its text

	Args        map[string]string `json:"args,omitempty"`   // build arguments
	Target      string            `json:"target,omitempty"` // the stage to stop at; default: the last one
	Platform    string            `json:"platform,omitempty"`
	NoCache     bool              `json:"no_cache,omitempty"`      // run every step again
	KeepOnError bool              `json:"keep_on_error,omitempty"` // keep the VM of a step that fails
	FS          string            `json:"fs,omitempty"`            // as of ImagePullRequest
	Kernel      string            `json:"kernel,omitempty"`        // that runs the steps, and that the image is to prefer
	CPUs        int               `json:"cpus,omitempty"`          // of the VM that runs the steps
	Memory      int64             `json:"memory,omitempty"`        // bytes
	Disk        int64             `json:"disk,omitempty"`          // bytes: what the steps of one stage may write
	Force       bool              `json:"force,omitempty"`         // replace an image that was not built
}

// DefaultPackages are those that a build from an image adds where none are named.
func DefaultPackages() []string {
	return []string{"ca-certificates", "curl", "git", "iproute2", "less", "openssh-client", "procps", "vim-tiny"}
}

// ImageOrigin says what a built image was made of.
type ImageOrigin struct {
	// Key is the hash of all that went into it: base, steps, files and
	// configuration. A build with the same key would make the same again.
	Key      string   `json:"key"`
	Base     string   `json:"base"`               // reference of the image it begins with, or scratch
	Digest   string   `json:"digest,omitempty"`   // of that
	Packages []string `json:"packages,omitempty"` // of a build from an image
	Script   string   `json:"script,omitempty"`   // SHA-256 of its script
}

// ImageBuild makes an image. What the steps print comes as progress with Output
// set. An image of that name that a build made before is replaced; one that
// would become the same is left as it is.
//
// Kinds: invalid (the Dockerfile, or a step that failed), not_found (a file of
// the context, an image), exists (an image that was not built), conflict (in use
// by a VM), unsupported, unavailable, exhausted.
func (c *Client) ImageBuild(ctx context.Context, r ImageBuildRequest, progress func(Progress)) (Image, error) {
	return stream[Image](ctx, c, "image.build", r, progress)
}
