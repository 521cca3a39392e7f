package oci

import (
	"archive/tar"
	"bytes"
	"path"
	"regexp"
	"sync"
)

// archiveName is how the first file of an archive may be called by those who
// write one: the layout's own names, those that are digests, and the JSON and tar
// files in which Docker and its kin put the rest.
var archiveName = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^(oci-layout|repositories|blobs(/.*)?|[^/]+\.json|[^/]+\.tar(\.gz)?|(sha256:)?[0-9a-f]{64}.*)$`)
})

// TarHead looks at the first bytes of a file: whether it is a tar, and whether
// that may be an archive of images. A few KiB tell; a tar of a root file system
// has other names in it.
func TarHead(head []byte) (isTar, mayBeArchive bool) {
	tr := tar.NewReader(bytes.NewReader(head))
	for {
		h, err := tr.Next()
		if err != nil {
			return isTar, false
		}
		isTar = true
		if name := path.Clean("/" + h.Name)[1:]; name != "" && h.Typeflag != tar.TypeXGlobalHeader {
			return true, archiveName().MatchString(name)
		}
	}
}
