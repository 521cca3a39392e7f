package fetch

import (
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"banger"
)

// version is what an answer says about which version of the file it holds.
type version struct {
	etag     string
	modified string
	strong   bool // modified is a strong validator: RFC 9110, 8.8.2.2
}

func versionOf(h http.Header) version {
	v := version{etag: h.Get("ETag"), modified: h.Get("Last-Modified")}
	modified, err := http.ParseTime(v.modified)
	if date, derr := http.ParseTime(h.Get("Date")); err == nil && derr == nil {
		v.strong = date.Sub(modified) >= time.Second
	}
	return v
}

// condition is the value of If-Range that makes a server send the rest of this
// very version only, or "" where none may be sent: RFC 9110, 13.1.5.
func (v version) condition() string {
	switch {
	case v.etag != "" && !strings.HasPrefix(v.etag, "W/"):
		return v.etag
	case v.etag == "" && v.strong:
		return v.modified
	}
	return ""
}

// differs reports whether two answers speak of different versions. What only
// one of them says proves nothing: an answer of status 206 may be terse.
func (v version) differs(w version) bool {
	weak := func(etag string) string { return strings.TrimPrefix(etag, "W/") }
	if v.etag != "" && w.etag != "" {
		return weak(v.etag) != weak(w.etag)
	}
	return v.modified != "" && w.modified != "" && v.modified != w.modified
}

// byteRange is a Content-Range: bytes first to last, of total or -1.
type byteRange struct{ first, last, total int64 }

// parseRange reads a Content-Range of the unit bytes. Source: RFC 9110, 14.4.
// An unsatisfied one ("bytes */N") has first -1.
func parseRange(s string) (byteRange, bool) {
	rest, ok := strings.CutPrefix(s, "bytes ")
	span, total, ok2 := strings.Cut(rest, "/")
	if !ok || !ok2 {
		return byteRange{}, false
	}
	r := byteRange{first: -1, last: -1, total: -1}
	if total != "*" {
		if r.total, ok = number(total); !ok {
			return byteRange{}, false
		}
	}
	if span == "*" {
		return r, r.total >= 0
	}
	first, last, ok := strings.Cut(span, "-")
	if !ok {
		return byteRange{}, false
	}
	r.first, ok = number(first)
	r.last, ok2 = number(last)
	return r, ok && ok2 && r.first <= r.last && (r.total < 0 || r.last < r.total)
}

// number parses decimal digits alone.
func number(s string) (int64, bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

// changed is the error for a file that is not the one whose beginning was read.
func changed(how string) error {
	return banger.Errorf(banger.Unavailable, "the file changed on the server while it was being read (%s)", how).
		WithHint("run the command again")
}

// wrongSize is the error for an answer that is longer or shorter than the file
// is known to be. A web page in its place is worth telling: it is how a login
// page of a network looks.
func wrongSize(resp *http.Response, got, want int64) error {
	what := "bytes"
	if t := mediaType(resp.Header); t == "text/html" {
		what += " of " + t
	}
	return banger.Errorf(banger.Invalid, "the server sends %d %s instead of %d", got, what, want)
}

func tooLong(limit int64) error {
	return banger.Errorf(banger.Invalid, "longer than the %d bytes it may have", limit)
}

// mediaType is the media type of an answer, "" if it has none that can be read.
func mediaType(h http.Header) string {
	t, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return t
}

// rangeHeader asks for the bytes from off on.
func rangeHeader(off int64) string { return fmt.Sprintf("bytes=%d-", off) }
