package fetch

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"banger"
)

const size = 100_000

// TestResume breaks connections in every way and expects the whole file.
func TestResume(t *testing.T) {
	b := content(size)
	const at = size * 99 / 100
	old := "Mon, 02 Jan 2006 15:04:05 GMT"
	stall := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(size))
		_, _ = w.Write(b[:at])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
	cutChunks := func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(b)
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	whole := func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("Range")
		file(b)(w, r)
	}
	for name, c := range map[string]struct {
		steps []http.HandlerFunc
		o     Options
		asked int
		want  [2]string // Range and If-Range of the last request
	}{
		"nothing happens":     {steps: []http.HandlerFunc{file(b)}, asked: 1},
		"cut at 99 %":         {steps: []http.HandlerFunc{cut(b, at), file(b)}, asked: 2, want: [2]string{"bytes=99000-", ""}},
		"known size":          {steps: []http.HandlerFunc{cut(b, at), file(b)}, o: Options{Size: size, Max: size}, asked: 2, want: [2]string{"bytes=99000-", ""}},
		"stall":               {steps: []http.HandlerFunc{stall, file(b)}, asked: 2, want: [2]string{"bytes=99000-", ""}},
		"entity tag":          {steps: []http.HandlerFunc{cut(b, at, "ETag", `"1"`), file(b, "ETag", `"1"`)}, asked: 2, want: [2]string{"bytes=99000-", `"1"`}},
		"date":                {steps: []http.HandlerFunc{cut(b, at, "Last-Modified", old), file(b, "Last-Modified", old)}, asked: 2, want: [2]string{"bytes=99000-", old}},
		"weak tag":            {steps: []http.HandlerFunc{cut(b, at, "ETag", `W/"1"`, "Last-Modified", old), file(b, "ETag", `W/"1"`)}, asked: 2, want: [2]string{"bytes=99000-", ""}},
		"no ranges":           {steps: []http.HandlerFunc{cut(b, at), whole}, asked: 2, want: [2]string{"bytes=99000-", ""}},
		"no ranges, no size":  {steps: []http.HandlerFunc{cut(b, at), chunks(b)}, asked: 2, want: [2]string{"bytes=99000-", ""}},
		"cut while skipping":  {steps: []http.HandlerFunc{cut(b, at), cut(b, 100), whole}, asked: 3, want: [2]string{"bytes=99000-", ""}},
		"no size":             {steps: []http.HandlerFunc{chunks(b)}, asked: 1},
		"no size, then known": {steps: []http.HandlerFunc{cutChunks, partial("bytes */100000", nil), file(b)}, o: Options{Size: size}, asked: 1},
		"no size, cut at the very end": {steps: []http.HandlerFunc{cutChunks, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", "bytes */100000")
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		}}, asked: 2, want: [2]string{"bytes=100000-", ""}},
		"no size, cut": {steps: []http.HandlerFunc{func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(b[:at])
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, file(b)}, asked: 2, want: [2]string{"bytes=99000-", ""}},
		"part by part":   {steps: []http.HandlerFunc{cut(b, 10), partial("bytes 10-19/100000", b[10:20]), file(b)}, asked: 3, want: [2]string{"bytes=20-", ""}},
		"errors between": {steps: []http.HandlerFunc{status(500), cut(b, 10), status(503), status(502), file(b)}, asked: 5, want: [2]string{"bytes=10-", ""}},
		"mirrors":        {steps: []http.HandlerFunc{cut(b, at, "ETag", `"1"`), file(b, "ETag", `"2"`)}, o: Options{Immutable: true}, asked: 2, want: [2]string{"bytes=99000-", ""}},
		"empty":          {steps: []http.HandlerFunc{file(nil)}, asked: 1},
	} {
		t.Run(name, func(t *testing.T) {
			srv := serve(t, c.steps...)
			got, err := read(t, patientless(), srv.URL+"/f", c.o)
			want := b
			if name == "empty" {
				want = nil
			}
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			asks := srv.requests()
			if len(asks) != c.asked {
				t.Fatalf("%d requests, want %d", len(asks), c.asked)
			}
			last := asks[len(asks)-1]
			if h := [2]string{last.Get("Range"), last.Get("If-Range")}; h != c.want {
				t.Errorf("Range and If-Range %q, want %q", h, c.want)
			}
			if last.Get("User-Agent") != "banger" || last.Get("Accept-Encoding") != "identity" {
				t.Errorf("header %v", last)
			}
		})
	}
}

// TestNeverAMix changes the file, or lets the server lie, between two
// connections: what was read before is all that is ever read.
func TestNeverAMix(t *testing.T) {
	b := content(size)
	other := bytes.Clone(b)
	for i := range other {
		other[i] ^= 0xff
	}
	const at = 50_000
	none := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Range", "bytes */400")
		w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
	}
	for name, c := range map[string]struct {
		first, second http.HandlerFunc
		o             Options
		kind          banger.Kind
		words         string
	}{
		"tag, ranges honest":   {first: cut(b, at, "ETag", `"1"`), second: file(other, "ETag", `"2"`)},
		"tag, If-Range unread": {first: cut(b, at, "ETag", `"1"`), second: partial("bytes 50000-99999/100000", other[at:], "ETag", `"2"`)},
		"weak tag":             {first: cut(b, at, "ETag", `W/"1"`), second: file(other, "ETag", `W/"2"`)},
		"date":                 {first: cut(b, at, "Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT"), second: file(other, "Last-Modified", "Mon, 02 Jan 2006 15:04:06 GMT")},
		"same tag, all anew":   {first: cut(b, at, "ETag", `"1"`), second: chunks(other, "ETag", `"1"`)},
		"nothing known":        {first: cut(b, at), second: chunks(other)},
		"immutable":            {first: cut(b, at), second: chunks(other), o: Options{Immutable: true}},
		"longer":               {first: cut(b, at), second: partial("bytes 50000-100000/100001", content(at+1)), words: "100001 bytes instead of 100000"},
		"longer, all anew":     {first: cut(b, at), second: file(append(bytes.Clone(b), 1)[: size+1 : size+1]), words: "changed"},
		"shorter":              {first: cut(b, at), second: none, words: "shorter"},
		"longer than known":    {first: cut(b, at), second: partial("bytes 50000-100000/100001", content(at+1)), o: Options{Size: size}, kind: banger.Invalid, words: "100001 bytes instead of 100000"},
		"earlier range":        {first: cut(b, at), second: partial("bytes 0-99999/100000", b), kind: banger.Invalid, words: "the range"},
		"later range":          {first: cut(b, at), second: partial("bytes 50001-99999/100000", b[at+1:]), kind: banger.Invalid, words: "the range"},
		"range of other size":  {first: cut(b, at), second: partial("bytes 50000-99999/100000", b[at+1:], "Content-Length", "49999"), kind: banger.Invalid, words: "the range"},
		"no range":             {first: cut(b, at), second: partial("", b[at:]), kind: banger.Invalid, words: "the range"},
		"several ranges":       {first: cut(b, at), second: partial("", b[at:], "Content-Type", "multipart/byteranges; boundary=x"), kind: banger.Invalid, words: "the range"},
		"range without end": {first: func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(b[:at])
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, second: partial("bytes 50000-99999/*", b[at:]), kind: banger.Invalid, words: "the range"},
	} {
		t.Run(name, func(t *testing.T) {
			kind, words := c.kind, c.words
			if kind == "" {
				kind = banger.Unavailable
			}
			if words == "" {
				words = "changed on the server"
			}
			srv := serve(t, c.first, c.second)
			got, err := read(t, patientless(), srv.URL+"/f", c.o)
			wantErr(t, err, kind, "get "+srv.URL+"/f: ", words)
			if !bytes.Equal(got, b[:at]) {
				t.Errorf("%d bytes, of which not all are of the first version", len(got))
			}
			if n := len(srv.requests()); n != 2 {
				t.Errorf("%d requests, want 2: this is final", n)
			}
		})
	}
}

// TestSizes holds a server to the length it or the caller gives.
func TestSizes(t *testing.T) {
	b := content(1000)
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		o      Options
		kind   banger.Kind
		words  string
		read   int
	}{
		"too short":              {file(b[:999]), Options{Size: 1000}, banger.Invalid, "999 bytes instead of 1000", 0},
		"too long":               {file(append(bytes.Clone(b), 0)), Options{Size: 1000}, banger.Invalid, "1001 bytes instead of 1000", 0},
		"a web page":             {file(b[:10], "Content-Type", "text/html; charset=utf-8"), Options{Size: 1000}, banger.Invalid, "10 bytes of text/html instead", 0},
		"too short, length open": {chunks(b[:999]), Options{Size: 1000}, banger.Unavailable, "after 999 of 1000 bytes (tried 3 times)", 999},
		"too long, length open":  {chunks(append(bytes.Clone(b), 0)), Options{Size: 1000}, banger.Invalid, "more than 1000 bytes", 1000},
		"above the limit":        {file(b), Options{Max: 999}, banger.Invalid, "longer than the 999 bytes", 0},
		"above, length open":     {chunks(b), Options{Max: 999}, banger.Invalid, "longer than the 999 bytes", 999},
		"above, said beforehand": {file(b), Options{Size: 1000, Max: 999}, banger.Invalid, "longer than the 999 bytes", 0},
		"at the limit":           {file(b), Options{Max: 1000}, "", "", 1000},
		"at the limit, open":     {chunks(b), Options{Max: 1000}, "", "", 1000},
		"as known, open":         {chunks(b), Options{Size: 1000}, "", "", 1000},
		"a range nobody wanted":  {partial("bytes 0-999/1000", b), Options{}, banger.Invalid, "the range", 0},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := read(t, patientless(), serve(t, c.answer).URL, c.o)
			if c.kind != "" {
				wantErr(t, err, c.kind, c.words)
			} else if err != nil {
				t.Error(err)
			}
			if !bytes.Equal(got, b[:c.read]) {
				t.Errorf("%d bytes, want %d", len(got), c.read)
			}
		})
	}
}

// TestTries counts requests and the pauses between them.
func TestTries(t *testing.T) {
	b := content(size)
	crumb := func(n int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			var off int
			_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &off)
			w.Header().Set("Content-Length", fmt.Sprint(size-off))
			if off > 0 {
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", off, size-1, size))
				w.WriteHeader(http.StatusPartialContent)
			}
			_, _ = w.Write(b[off:min(off+n, size)])
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
	}
	for name, c := range map[string]struct {
		steps  []http.HandlerFunc
		asked  int
		pauses string
		words  []string // nil: it succeeds
	}{
		"progress counts anew":  {[]http.HandlerFunc{crumb(size / 10)}, 10, strings.Repeat("500ms ", 9), nil},
		"no end of crumbs":      {[]http.HandlerFunc{crumb(1)}, maxRequests, strings.Repeat("500ms ", maxRequests-1), []string{"after 100 of 100000 bytes (100 requests)"}},
		"nothing more":          {[]http.HandlerFunc{cut(b, 10), cut(b, 10)}, 4, "500ms 500ms 2s ", []string{"after 10 of 100000 bytes (tried 3 times)"}},
		"server is broken":      {[]http.HandlerFunc{status(500)}, 3, "500ms 2s ", []string{"500 Internal Server Error", "tried 3 times"}},
		"unavailable, then not": {[]http.HandlerFunc{status(503), status(503), file(b)}, 3, "500ms 2s ", nil},
		"asked to wait":         {[]http.HandlerFunc{status(429, "Retry-After", "7"), file(b)}, 2, "7s ", nil},
		"asked to wait less":    {[]http.HandlerFunc{status(429, "Retry-After", "0"), file(b)}, 2, "500ms ", nil},
		"asked to wait an hour": {[]http.HandlerFunc{status(503, "Retry-After", "3600"), file(b)}, 1, "", []string{"503", "come back in 1h0m0s"}},
		"in mid-file":           {[]http.HandlerFunc{cut(b, 10), status(429, "Retry-After", "5"), file(b)}, 3, "500ms 5s ", nil},
	} {
		t.Run(name, func(t *testing.T) {
			srv := serve(t, c.steps...)
			cl := patientless()
			var pauses strings.Builder
			cl.Retry.wait = func(_ context.Context, d time.Duration) error {
				fmt.Fprintf(&pauses, "%s ", d)
				return nil
			}
			got, err := read(t, cl, srv.URL, Options{})
			if c.words == nil {
				if err != nil || !bytes.Equal(got, b) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
			} else {
				wantErr(t, err, banger.Unavailable, c.words...)
			}
			if n := len(srv.requests()); n != c.asked || pauses.String() != c.pauses {
				t.Errorf("%d requests with pauses %q between, want %d with %q", n, &pauses, c.asked, c.pauses)
			}
		})
	}
}

// TestHTTP2 breaks streams, which is not the end of their connection.
func TestHTTP2(t *testing.T) {
	b := content(size)
	stall := func(w http.ResponseWriter, r *http.Request) {
		partial("bytes 10-99999/100000", b[10:20], "Content-Length", fmt.Sprint(size-10))(w, r)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
	steps := []http.HandlerFunc{status(503), cut(b, 10, "ETag", `"1"`), stall, file(b, "ETag", `"1"`)}
	var protos []string
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		protos = append(protos, r.Proto)
		steps[len(protos)-1](w, r)
	}))
	srv.EnableHTTP2 = true
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()
	c := patientless()
	c.hooks.roots = x509.NewCertPool()
	c.hooks.roots.AddCert(srv.Certificate())
	got, err := read(t, c, srv.URL, Options{})
	if err != nil || !bytes.Equal(got, b) || fmt.Sprint(protos) != "[HTTP/2.0 HTTP/2.0 HTTP/2.0 HTTP/2.0]" {
		t.Errorf("%d bytes by %v, %v", len(got), protos, err)
	}
}

// TestServerRestarts loses not only the connection in mid-file but the server too.
func TestServerRestarts(t *testing.T) {
	b := content(size)
	first := httptest.NewServer(cut(b, 10))
	addr := first.Listener.Addr().String()
	c := patientless()
	var again *httptest.Server
	pauses := 0
	c.Retry.wait = func(context.Context, time.Duration) error {
		switch pauses++; pauses {
		case 1: // from here on nobody answers
			first.Close()
		case 2:
			l, err := net.Listen("tcp", addr)
			if err != nil {
				return err
			}
			again = httptest.NewUnstartedServer(file(b))
			again.Listener.Close()
			again.Listener = l
			again.Start()
		}
		return nil
	}
	got, err := read(t, c, "http://"+addr, Options{})
	if again != nil {
		again.Close()
	}
	if err != nil || !bytes.Equal(got, b) || pauses != 2 {
		t.Errorf("%d bytes after %d pauses, %v", len(got), pauses, err)
	}
	// Where nothing has been read it is known at once that nobody is there.
	_, err = read(t, c, "http://"+addr, Options{})
	wantErr(t, err, banger.Unavailable, "refused")
	if pauses != 2 {
		t.Error("an absent server was asked again")
	}
}

func TestProgress(t *testing.T) {
	b := content(1000)
	srv := serve(t, cut(b, 600, "ETag", `"1"`, "Content-Type", "application/zstd; x=y"), file(b))
	body, err := patientless().Open(t.Context(), srv.URL, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if body.Size() != 1000 || body.Offset() != 0 || body.ETag() != `"1"` || body.ContentType() != "application/zstd" {
		t.Errorf("at first: %d of %d, %s, %s", body.Offset(), body.Size(), body.ETag(), body.ContentType())
	}
	p := make([]byte, 400)
	for i, want := range []int64{400, 600, 1000} {
		n, err := body.Read(p)
		if err != nil && err != io.EOF || body.Offset() != want {
			t.Errorf("read %d: %d bytes, %v, now at %d, want %d", i, n, err, body.Offset(), want)
		}
	}
	if n, err := body.Read(p); n != 0 || err != io.EOF {
		t.Errorf("at the end: %d, %v", n, err)
	}
	body, err = patientless().Open(t.Context(), serve(t, chunks(b)).URL, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if body.Size() != -1 {
		t.Errorf("size %d before it is known", body.Size())
	}
	if _, err := io.ReadAll(body); err != nil || body.Size() != 1000 {
		t.Errorf("size %d in the end, %v", body.Size(), err)
	}
}

// TestNothingIsLeft ends the reading in the middle in every way.
func TestNothingIsLeft(t *testing.T) {
	b := content(size)
	hang := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(size))
		_, _ = w.Write(b[:10])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
	srv := serve(t, hang)
	before := runtime.NumGoroutine()
	c := patientless()
	c.Stall = time.Minute
	for name, end := range map[string]func(context.CancelFunc, io.Closer){
		"cancel": func(cancel context.CancelFunc, _ io.Closer) { cancel() },
		"close":  func(_ context.CancelFunc, r io.Closer) { _ = r.Close() },
	} {
		ctx, cancel := context.WithCancel(t.Context())
		body, err := c.Open(ctx, srv.URL, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(body, make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		end(cancel, body)
		_, err = body.Read(make([]byte, 10))
		if name == "cancel" && (!banger.IsKind(err, banger.Canceled) || !errors.Is(err, context.Canceled)) || name == "close" && !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
		if err := errors.Join(body.Close(), body.Close()); err != nil {
			t.Error(err)
		}
		cancel()
	}
	srv.CloseClientConnections()
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<16)
			t.Fatalf("%d goroutines, before %d:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		}
		time.Sleep(10 * time.Millisecond) // no event tells of a goroutine's end
	}
}

// TestConnectionsAreClosed waits for the end of every connection, which comes
// before idleTimeout only if somebody lets go of it.
func TestConnectionsAreClosed(t *testing.T) {
	b := content(size)
	for name, h := range map[string]http.HandlerFunc{
		"read to the end": file(b), "no such file": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) },
		"too long": file(append(bytes.Clone(b), 0)), "too much": chunks(append(bytes.Clone(b), 0)), "broken": cut(b, 10),
	} {
		closed := make(chan struct{}, 100)
		var opened atomic.Int32
		srv := httptest.NewUnstartedServer(h)
		srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
			switch s {
			case http.StateNew:
				opened.Add(1) // before the client has an answer
			case http.StateClosed:
				closed <- struct{}{}
			}
		}
		srv.Start()
		_, err := read(t, patientless(), srv.URL, Options{Size: size})
		if (err == nil) != (name == "read to the end") {
			t.Errorf("%s: %v", name, err)
		}
		late := time.NewTimer(idleTimeout / 2)
		for range opened.Load() {
			select {
			case <-closed:
			case <-late.C:
				t.Fatalf("%s: a connection is left", name)
			}
		}
		late.Stop()
		srv.Close()
	}
}

func TestCancelInPause(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	c := patientless()
	c.Retry = Retry{Pause: time.Hour}
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		status(503)(w, r)
		time.AfterFunc(50*time.Millisecond, func() { cancel(errors.New("enough")) })
	})
	_, err := c.Open(ctx, srv.URL, Options{})
	wantErr(t, err, banger.Canceled, "enough")
}
