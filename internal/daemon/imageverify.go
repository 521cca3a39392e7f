package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"

	"banger"
	"banger/internal/rootfs"
	"banger/internal/state"
)

// imageVerify compares the files of an image with its record, and its root file
// system with itself.
func (d *Daemon) imageVerify(ctx context.Context, r banger.NameRequest, p progress) (report banger.ImageReport, err error) {
	unlock, err := d.keys.Lock(ctx, "image/"+r.Name)
	if err != nil {
		return report, err
	}
	defer unlock()
	im, err := d.images.Get(r.Name)
	if err != nil {
		return report, err
	}
	if err := d.verifyDocuments(im); err != nil {
		return report, err
	}
	path, err := d.rootfsOf(im)
	if err != nil {
		return report, err
	}
	f, err := os.Open(path)
	if err != nil {
		return report, banger.Errorf(banger.Conflict, "image %q has no root file system: %w", im.Name, err).WithHint("%s", again(im))
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return report, err
	}
	report.Rootfs = path
	if report.SHA256, err = sumFile(ctx, f, fi.Size(), "read image "+im.Name, p); err != nil {
		return report, err
	}
	if im.SHA256 != "" && im.SHA256 != report.SHA256 {
		return report, banger.Errorf(banger.Conflict, "the root file system of image %q was changed: its sha256 is %.12s, it was %.12s", im.Name, report.SHA256, im.SHA256).
			WithHint("%s", again(im))
	}
	p(banger.Progress{Step: "check the file system of image " + im.Name})
	if report.Inodes, err = checkTree(ctx, f, fi.Size(), path); err != nil {
		err = fmt.Errorf("the root file system of image %q: %w", im.Name, err)
		return report, banger.AsError(err).WithHint("%s", again(im))
	}
	if report.First = im.SHA256 == ""; report.First {
		im.SHA256 = report.SHA256
		err = state.WriteRecord(d.images.Path(im.Name, state.ManifestFile), im)
	}
	report.Image = im
	return report, err
}

// verifyDocuments compares the manifest that an image came with with the record.
func (d *Daemon) verifyDocuments(im banger.Image) error {
	raw, err := d.ociDocument(im.Name, state.OCIManifestFile)
	if err != nil || raw == nil {
		return err
	}
	sum := sha256.Sum256(raw)
	if got := "sha256:" + hex.EncodeToString(sum[:]); got != im.Digest {
		return banger.Errorf(banger.Conflict, "the manifest of image %q was changed: its digest is %.19s, it was %.19s", im.Name, got, im.Digest).
			WithHint("%s", again(im))
	}
	return nil
}

// checkTree goes through the metadata, unless they are of a kind that guests
// mount and banger does not read.
func checkTree(ctx context.Context, f *os.File, size int64, path string) (inodes int, err error) {
	if _, err := rootfs.InspectDisk(f, size, path); err != nil {
		return 0, err
	}
	tree, err := rootfs.OpenTree(f, size)
	if err == nil {
		inodes, err = tree.Check(ctx)
	}
	if banger.IsKind(err, banger.Unsupported) {
		return 0, nil
	}
	return inodes, err
}

// again is how to get an image once more.
func again(im banger.Image) string {
	return fmt.Sprintf("make it anew from %s, with --force", im.Source)
}
