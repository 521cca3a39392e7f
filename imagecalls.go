package banger

import "context"

// ImagePullRequest asks for an image of the catalog or of a registry.
type ImagePullRequest struct {
	Ref    string `json:"ref"`              // NAME or CATALOG/NAME of the catalogs, or a registry reference
	Name   string `json:"name,omitempty"`   // default: the catalog name, or repository-tag
	Kernel string `json:"kernel,omitempty"` // the kernel that the image is to prefer
	// Platform chooses one of those that the image is made for: OS/ARCH[/VARIANT]
	// as OCI has them, or what uname -m says; default: this host's.
	Platform string `json:"platform,omitempty"`
	// FS is what the root file system is written as: ext4, the default, or erofs.
	FS    string `json:"fs,omitempty"`
	Force bool   `json:"force,omitempty"` // replace one that is there
}

// ImageImportRequest asks for an image of files on this host.
type ImageImportRequest struct {
	// Path is an OCI layout, a docker-archive, a root file system as a directory
	// or a tar, or a disk: which of them is told by its content. It is absolute.
	Path string `json:"path,omitempty"`
	// FD is read in the place of Path: a descriptor of the calling process, for
	// instance 0.
	FD       *int   `json:"fd,omitempty"`
	Name     string `json:"name,omitempty"`     // default: that of the image in an archive, or the file's
	Ref      string `json:"ref,omitempty"`      // which image of an archive that has several
	Platform string `json:"platform,omitempty"` // as of ImagePullRequest
	FS       string `json:"fs,omitempty"`       // as of ImagePullRequest; a disk is copied as it is, and must have it
	Kernel   string `json:"kernel,omitempty"`   // the kernel that the image is to prefer
	Force    bool   `json:"force,omitempty"`    // replace one that is there
}

// ImageRegisterRequest asks for an image of a disk that stays where it is.
type ImageRegisterRequest struct {
	Name   string `json:"name"`
	Rootfs string `json:"rootfs"` // path of an ext4 or erofs file system, absolute
	Kernel string `json:"kernel,omitempty"`
	Force  bool   `json:"force,omitempty"`
}

// ImageTagRequest asks for another name of an image.
type ImageTagRequest struct {
	Name  string `json:"name"`
	New   string `json:"new"`
	Force bool   `json:"force,omitempty"` // replace one that has the name
}

// ImageSaveRequest asks for an image as an OCI layout in a tar.
type ImageSaveRequest struct {
	Name string `json:"name"`
	Path string `json:"path,omitempty"` // of the file to make, absolute; one that is there is replaced
	// FD is written to in the place of Path: a descriptor of the calling process.
	FD *int `json:"fd,omitempty"`
	// Compression of a layer that has to be made: gzip, the default, zstd or none.
	Compression string `json:"compression,omitempty"`
}

// ImagePushRequest asks to put an image into a registry.
type ImagePushRequest struct {
	Name        string `json:"name"`
	Ref         string `json:"ref"` // with a tag
	Compression string `json:"compression,omitempty"`
}

// ImagePruneRequest asks to remove what nothing needs any more.
type ImagePruneRequest struct {
	DryRun bool `json:"dry_run,omitempty"` // only tell
	All    bool `json:"all,omitempty"`     // also the images that no VM uses
}

// ImageList lists the images of the store, also those with a bad record.
func (c *Client) ImageList(ctx context.Context) ([]Image, error) {
	return callList[Image](ctx, c, "image.list", nil)
}

// ImageCatalog lists what ImagePull knows by name. All catalogs are asked; those
// that cannot be read are among the problems. Kind: invalid (configuration).
func (c *Client) ImageCatalog(ctx context.Context) (Offers[ImageOffer], error) {
	return call[Offers[ImageOffer]](ctx, c, "image.catalog", nil)
}

// ImagePull makes an image from the catalog or a registry. Kinds: not_found, exists, invalid, unavailable, exhausted.
func (c *Client) ImagePull(ctx context.Context, r ImagePullRequest, progress func(Progress)) (Image, error) {
	return stream[Image](ctx, c, "image.pull", r, progress)
}

// ImageDelete removes an image. Kinds: not_found, conflict (in use).
func (c *Client) ImageDelete(ctx context.Context, r NameRequest) error {
	return c.Call(ctx, "image.delete", r, nil)
}

// ImageShow describes one image. Kinds: not_found, conflict (bad record).
func (c *Client) ImageShow(ctx context.Context, name string) (ImageDetails, error) {
	return call[ImageDetails](ctx, c, "image.show", NameRequest{Name: name})
}

// ImageImport makes an image of files on this host. Kinds: not_found (the file,
// or a ref that the archive lacks), exists, invalid, unsupported, conflict,
// unavailable (it cannot be read), exhausted.
func (c *Client) ImageImport(ctx context.Context, r ImageImportRequest, progress func(Progress)) (Image, error) {
	return stream[Image](ctx, c, "image.import", r, progress)
}

// ImageRegister makes an image of a disk that stays where it is and is never
// written. Kinds: not_found, exists, invalid, unsupported, conflict (it is not clean, or in use).
func (c *Client) ImageRegister(ctx context.Context, r ImageRegisterRequest) (Image, error) {
	return call[Image](ctx, c, "image.register", r)
}

// ImageTag gives an image one more name. Kinds: not_found, exists, conflict.
func (c *Client) ImageTag(ctx context.Context, r ImageTagRequest) (Image, error) {
	return call[Image](ctx, c, "image.tag", r)
}

// ImageHistory tells how an image was made, the first step first. Kinds: not_found, conflict.
func (c *Client) ImageHistory(ctx context.Context, name string) ([]ImageStep, error) {
	return call[[]ImageStep](ctx, c, "image.history", NameRequest{Name: name})
}

// ImageVerify reads an image's root file system and compares it with what it
// was. Kinds: not_found, conflict (it was changed), invalid (it is damaged).
func (c *Client) ImageVerify(ctx context.Context, name string, progress func(Progress)) (ImageReport, error) {
	return stream[ImageReport](ctx, c, "image.verify", NameRequest{Name: name}, progress)
}

// ImagePrune removes what nothing needs any more, or only tells. What a VM uses stays.
func (c *Client) ImagePrune(ctx context.Context, r ImagePruneRequest) (PruneReport, error) {
	return call[PruneReport](ctx, c, "image.prune", r)
}

// ImageSave writes an image as an OCI layout in a tar. Kinds: not_found,
// unsupported, conflict (a registered file was changed), exhausted.
func (c *Client) ImageSave(ctx context.Context, r ImageSaveRequest, progress func(Progress)) (ImagePushed, error) {
	return stream[ImagePushed](ctx, c, "image.save", r, progress)
}

// ImagePush puts an image into a registry. Kinds: not_found, invalid, unavailable.
func (c *Client) ImagePush(ctx context.Context, r ImagePushRequest, progress func(Progress)) (ImagePushed, error) {
	return stream[ImagePushed](ctx, c, "image.push", r, progress)
}
