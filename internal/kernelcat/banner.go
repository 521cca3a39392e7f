package kernelcat

import (
	"bufio"
	"io"
	"strings"

	"github.com/klauspost/compress/gzip"
)

// bannerWord is how the banner of every Linux starts, which is in the kernel as
// "Linux version VERSION (builder@host) ...".
// Format: linux/init/version-timestamp.c, linux_banner.
const bannerWord = "Linux version "

// What is around the gzip file that CONFIG_IKCONFIG embeds.
// Format: linux/kernel/configs.c, linux/scripts/extract-ikconfig.
const (
	configStart = "IKCFG_ST"
	configEnd   = "IKCFG_ED"
)

// validVersion reports whether v can be a kernel's uname -r and a file name.
func validVersion(v string) bool {
	ok := v != "" && len(v) <= maxName && v[0] != '.' && v[0] != '-'
	for _, r := range v {
		ok = ok && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(".-_+~", r))
	}
	return ok
}

// bannerVersion is the version in the first banner of those at the places in r
// that is one; formats of messages look much the same. Empty if none is.
func bannerVersion(r io.ReaderAt, at []int64) string {
	b := make([]byte, maxName+len(" ("))
	for _, off := range at {
		n, err := r.ReadAt(b, off+int64(len(bannerWord)))
		if err != nil && err != io.EOF {
			continue
		}
		if v, _, ok := strings.Cut(string(b[:n]), " ("); ok && validVersion(v) {
			return v
		}
	}
	return ""
}

// embeddedConfig is the first build configuration of those at the places in r,
// which has size bytes. Nil if there is none that is whole: it only tells of
// features.
func embeddedConfig(r io.ReaderAt, size int64, at []int64) []byte {
	for _, off := range at {
		off += int64(len(configStart))
		if text, ok := readEmbedded(io.NewSectionReader(r, off, min(size-off, maxConfig))); ok {
			return text
		}
	}
	return nil
}

// readEmbedded reads a gzip file that configEnd follows.
func readEmbedded(r io.Reader) ([]byte, bool) {
	in := bufio.NewReader(r) // gzip reads no byte too many from it
	z, err := gzip.NewReader(in)
	if err != nil {
		return nil, false
	}
	z.Multistream(false)
	text, err := io.ReadAll(io.LimitReader(z, maxConfig+1))
	if err != nil || len(text) > maxConfig {
		return nil, false
	}
	end := make([]byte, len(configEnd))
	_, err = io.ReadFull(in, end)
	return text, err == nil && string(end) == configEnd
}
