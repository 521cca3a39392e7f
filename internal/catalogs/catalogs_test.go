package catalogs

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"banger"
)

// server is a server of static files on loopback.
type server struct {
	*httptest.Server
	mu    sync.Mutex
	files map[string]string
	asked []string // "PATH STATUS" of each answer
	hold  func(path string)
}

func newServer(t *testing.T) *server {
	s := &server{files: map[string]string{}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	text, ok := s.files[r.URL.Path]
	hold := s.hold
	s.mu.Unlock()
	if hold != nil {
		hold(r.URL.Path)
	}
	status := http.StatusOK
	etag := fmt.Sprintf(`"%x"`, sha256.Sum256([]byte(text)))
	switch {
	case !ok:
		status = http.StatusNotFound
	case r.Header.Get("If-None-Match") == etag:
		status = http.StatusNotModified
	}
	s.mu.Lock()
	s.asked = append(s.asked, fmt.Sprint(r.URL.Path, " ", status))
	s.mu.Unlock()
	w.Header().Set("ETag", etag)
	w.WriteHeader(status)
	if status == http.StatusOK {
		_, _ = w.Write([]byte(text))
	}
}

func (s *server) put(path, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[path] = text
}

// log is what was asked since the last time.
func (s *server) log() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	log := strings.Join(s.asked, ", ")
	s.asked = nil
	return log
}

const catalogPath = "/k/catalog.json"

// publish signs a catalog and puts it on the server.
func (s *server) publish(k keyPair, text string) {
	s.put(catalogPath, text)
	s.put(catalogPath+".sig", string(k.sign(text)))
}

// names is the catalog of these tests: {"serial": N, "names": [...]}.
func names(text []byte, base *url.URL) ([]string, error) {
	var c struct{ Names []string }
	if err := json.Unmarshal(text, &c); err != nil {
		return nil, banger.Errorf(banger.Invalid, "read names: %w", err)
	}
	if base == nil || base.Path == "" {
		return nil, errors.New("no base")
	}
	return c.Names, nil
}

func catalog(serial int, names ...string) string {
	b, _ := json.Marshal(map[string]any{"serial": serial, "names": names})
	return string(b)
}

func (r *Reader) one(t *testing.T, o Origin, maxAge time.Duration) Book[[]string] {
	t.Helper()
	return Load(t.Context(), r, []Origin{o}, maxAge, names)[0]
}

// wantBook wants the names, or an error with the words, and of both where a
// copy is used.
func wantBook(t *testing.T, b Book[[]string], want string, words ...string) {
	t.Helper()
	if got := strings.Join(b.Catalog, " "); got != want {
		t.Errorf("got the names %q, want %q (%v, %v)", got, want, b.Err, b.Stale)
	}
	err := b.Err
	if want != "" {
		if b.Err != nil {
			t.Error(b.Err)
		}
		err = b.Stale
	}
	if len(words) == 0 && err != nil {
		t.Error(err)
	}
	for _, w := range words {
		e := banger.AsError(err)
		if e == nil || !strings.Contains(e.Msg+"\n"+e.Hint, w) {
			t.Errorf("got the error %v, want %q in it", err, w)
		} else if e.Kind == banger.Internal {
			t.Errorf("%v has no kind", err)
		}
	}
}

func TestSigned(t *testing.T) {
	s, k := newServer(t), keygen(t)
	r := &Reader{Dir: filepath.Join(t.TempDir(), "catalogs")}
	o := Origin{Kind: "kernel", URL: s.URL + catalogPath, Key: k.pub, Where: "config.toml:1"}
	s.publish(k, catalog(3, "a", "b"))
	wantBook(t, r.one(t, o, time.Hour), "a b")
	if got := s.log(); got != "/k/catalog.json 200, /k/catalog.json.sig 200" {
		t.Errorf("asked for %s", got)
	}
	// Young enough: nobody is asked.
	wantBook(t, r.one(t, o, time.Hour), "a b")
	if got := s.log(); got != "" {
		t.Errorf("asked for %s", got)
	}
	// Old: its entity tag settles it, and makes it young again.
	then := time.Now().Add(-2 * time.Hour)
	old := func(when time.Time) {
		t.Helper()
		if err := os.Chtimes(r.path(o), when, when); err != nil {
			t.Fatal(err)
		}
	}
	for _, when := range []time.Time{then, time.Now().Add(time.Hour)} { // the clock was set back
		old(when)
		wantBook(t, r.one(t, o, time.Hour), "a b")
		wantBook(t, r.one(t, o, time.Hour), "a b")
		if got := s.log(); got != "/k/catalog.json 304" {
			t.Errorf("asked for %s", got)
		}
	}
	s.publish(k, catalog(4, "c"))
	wantBook(t, r.one(t, o, time.Hour), "a b")
	wantBook(t, r.one(t, o, 0), "c")
	s.log()

	// What is not right does not get into the place of what was.
	for name, tt := range map[string]struct{ text, sig, want string }{
		"changed":            {catalog(5, "evil"), s.files[catalogPath+".sig"], "one of the two was changed"},
		"signed by another":  {catalog(5, "evil"), string(keygen(t).sign(catalog(5, "evil"))), "it is signed by SHA256:"},
		"for another use":    {catalog(5, "evil"), string(k.signFor("git", catalog(5, "evil"))), "not for a catalog"},
		"no signature":       {catalog(5, "evil"), "", "is none"},
		"an old one":         {catalog(3, "a", "b"), string(k.sign(catalog(3, "a", "b"))), "the serial 3, and 4 has been here"},
		"one without serial": {`{"names":["z"]}`, string(k.sign(`{"names":["z"]}`)), "the serial 0"},
		"no catalog":         {`{"serial":9,`, string(k.sign(`{"serial":9,`)), "read names"},
		"too long":           {strings.Repeat(" ", maxCatalog+1), "", "longer than"},
	} {
		s.put(catalogPath, tt.text)
		s.put(catalogPath+".sig", tt.sig)
		b := r.one(t, o, 0)
		if t.Run(name, func(t *testing.T) { wantBook(t, b, "c", tt.want) }); t.Failed() {
			return
		}
		wantBook(t, r.one(t, o, time.Hour), "c") // and is not asked for again at each turn
		fresh := &Reader{Dir: t.TempDir()}
		if name != "an old one" && name != "one without serial" {
			wantBook(t, fresh.one(t, o, time.Hour), "", tt.want)
			if left, _ := os.ReadDir(fresh.Dir); len(left) > 0 {
				t.Errorf("%s: kept %v", name, left)
			}
		}
	}
	s.put(catalogPath+".sig", "")
	delete(s.files, catalogPath+".sig")
	s.put(catalogPath, catalog(5, "x"))
	wantBook(t, r.one(t, o, 0), "c", "its signature: get ", "404")
	s.publish(k, catalog(4, "same", "serial"))
	wantBook(t, r.one(t, o, 0), "same serial")
}

// A copy is good only for the key that the configuration has now.
func TestKeyChanges(t *testing.T) {
	s, k, next := newServer(t), keygen(t), keygen(t)
	r := &Reader{Dir: t.TempDir()}
	o := Origin{Kind: "kernel", URL: s.URL + catalogPath, AllowUnsigned: true, Where: "config.toml:1"}
	s.publish(k, catalog(7, "a"))
	wantBook(t, r.one(t, o, time.Hour), "a")
	o.Key = next.pub
	wantBook(t, r.one(t, o, time.Hour), "", "it is signed by SHA256:")
	o.Key = k.pub
	wantBook(t, r.one(t, o, time.Hour), "a")
	// The same catalog signed anew: the old signature is not kept for its entity tag.
	o.Key = next.pub
	s.publish(next, catalog(7, "a"))
	wantBook(t, r.one(t, o, time.Hour), "a")
	// With another key the serials begin anew.
	o.Key = k.pub
	s.publish(k, catalog(1, "b"))
	wantBook(t, r.one(t, o, time.Hour), "b")
}

func TestRefusedOrigins(t *testing.T) {
	k := keygen(t)
	for name, tt := range map[string]struct {
		o    Origin
		want []string
	}{
		"unsigned":         {Origin{URL: "https://example.org/c.json"}, []string{"comes from a server, https://example.org/c.json", "in config.toml:1 write", "allow_unsigned = true", `key = "ssh-ed25519`}},
		"unsigned, nearby": {Origin{URL: "http://127.0.0.1:1/c.json"}, []string{"allow_unsigned"}},
		"ECDSA key":        {Origin{URL: "https://example.org/c.json", Key: keygen(t, "-t", "ecdsa").pub}, []string{"of the type ecdsa-sha2-nistp256", "in config.toml:1: make one"}},
		"no key":           {Origin{URL: "https://example.org/c.json", Key: "secret", AllowUnsigned: true}, []string{"no public key", "in config.toml:1"}},
		"plain HTTP":       {Origin{URL: "http://192.0.2.1/c.json", Key: k.pub}, []string{"plain HTTP", "use https"}},
		"a relative path":  {Origin{URL: "c.json"}, []string{"neither an https URL nor the absolute path", "in config.toml:1"}},
		"another scheme":   {Origin{URL: "ftp://example.org/c.json"}, []string{"neither"}},
		"no host":          {Origin{URL: "https:///c.json"}, []string{"neither"}},
		"another's file":   {Origin{URL: "file://example.org/c.json"}, []string{"neither"}},
		"no file":          {Origin{URL: "/nonexistent/c.json"}, []string{"no such file"}},
		"a folder":         {Origin{URL: "file:///tmp"}, []string{"not a regular file"}},
		"a login":          {Origin{URL: "https://me:secret@example.org/c.json?token=secret"}, []string{"https://example.org/c.json?..."}},
	} {
		t.Run(name, func(t *testing.T) {
			tt.o.Kind, tt.o.Where = "kernel", "config.toml:1"
			r := &Reader{Dir: t.TempDir()}
			b := r.one(t, tt.o, 0)
			wantBook(t, b, "", tt.want...)
			if b.Err != nil && strings.Contains(b.Err.Error(), "secret") && name != "no key" {
				t.Errorf("%v shows a secret", b.Err)
			}
		})
	}
}

func TestLocal(t *testing.T) {
	k, dir := keygen(t), t.TempDir()
	path := filepath.Join(dir, "catalog.json")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := &Reader{Dir: filepath.Join(dir, "cache")}
	write("catalog.json", catalog(0, "a"))
	for _, u := range []string{path, "file://" + path, "file://localhost" + path} {
		wantBook(t, r.one(t, Origin{Kind: "kernel", URL: u}, 0), "a")
	}
	signed := Origin{Kind: "kernel", URL: path, Key: k.pub}
	wantBook(t, r.one(t, signed, 0), "", "read its signature", "no such file")
	write("catalog.json.sig", string(k.sign(catalog(0, "a"))))
	wantBook(t, r.one(t, signed, 0), "a")
	// No copy of a file is kept: it is as it is now.
	write("catalog.json", catalog(0, "b"))
	wantBook(t, r.one(t, signed, time.Hour), "", "one of the two was changed")
	wantBook(t, r.one(t, Origin{Kind: "kernel", URL: path}, time.Hour), "b")
	if err := os.Truncate(path, maxCatalog+1); err != nil {
		t.Fatal(err)
	}
	wantBook(t, r.one(t, Origin{Kind: "kernel", URL: path}, 0), "", "longer than")
	if _, err := os.Stat(r.Dir); err == nil {
		t.Error("a copy was kept")
	}
}

// What one catalog does, or does not, takes nothing from the others.
func TestOthersGoOn(t *testing.T) {
	s, k := newServer(t), keygen(t)
	s.publish(k, catalog(1, "a"))
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	r := &Reader{Dir: t.TempDir()}
	books := Load(t.Context(), r, []Origin{
		{Kind: "kernel", URL: gone.URL + catalogPath, Key: k.pub},
		{Kind: "kernel", URL: s.URL + catalogPath, Key: k.pub},
		{Kind: "kernel", URL: "nonsense"},
	}, 0, names)
	wantBook(t, books[0], "", "connection refused")
	wantBook(t, books[1], "a")
	wantBook(t, books[2], "", "neither")
}

func TestOffline(t *testing.T) {
	s, k := newServer(t), keygen(t)
	s.publish(k, catalog(1, "a"))
	r := &Reader{Dir: t.TempDir()}
	o := Origin{Kind: "kernel", URL: s.URL + catalogPath, Key: k.pub}
	wantBook(t, r.one(t, o, 0), "a")
	s.Close()
	wantBook(t, r.one(t, o, 0), "a", "connection refused")
	// A copy that is spoiled is as good as none.
	b, err := os.ReadFile(r.path(o))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"empty": "", "garbage": "x\ny", "cut off": string(b[:len(b)-1]), "changed": strings.Replace(string(b), `"a"`, `"b"`, 1), "no text": strings.Split(string(b), "\n")[0],
	} {
		if err := os.WriteFile(r.path(o), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		book := r.one(t, o, time.Hour)
		t.Run(name, func(t *testing.T) { wantBook(t, book, "", "connection refused") })
	}
}

// Of those who want a catalog at once one asks for all, also where that fails;
// who gives up goes alone.
func TestTwoAtOnce(t *testing.T) {
	for _, good := range []bool{true, false} {
		t.Run(fmt.Sprint(good), func(t *testing.T) {
			s, k := newServer(t), keygen(t)
			s.publish(k, catalog(1, "a"))
			r := &Reader{Dir: t.TempDir()}
			o := Origin{Kind: "kernel", URL: s.URL + catalogPath, Key: k.pub}
			wantBook(t, r.one(t, o, 0), "a")
			if !good {
				delete(s.files, catalogPath)
			}
			s.log()
			begun, release := make(chan string, 100), make(chan bool)
			s.hold = func(path string) { begun <- path; <-release }
			var all sync.WaitGroup
			var waiting sync.WaitGroup
			read := func(ctx context.Context, words ...string) {
				waiting.Add(1)
				var once sync.Once
				all.Go(func() {
					wantBook(t, Load(ctx, r, []Origin{o}, 0, func(text []byte, base *url.URL) ([]string, error) {
						once.Do(waiting.Done) // it has found the copy too old
						return names(text, base)
					})[0], "a", words...)
				})
			}
			gone, giveUp := context.WithCancel(t.Context())
			read(gone, "context canceled")
			<-begun
			for range 8 {
				if good {
					read(t.Context())
				} else {
					read(t.Context(), "404")
				}
			}
			waiting.Wait()
			giveUp()
			<-begun // one of the others begins anew
			close(release)
			all.Wait()
			if log := s.log(); strings.Count(log, catalogPath) > 2 {
				t.Errorf("asked for %s", log)
			}
		})
	}
}

func TestPrune(t *testing.T) {
	s := newServer(t)
	s.put("/a", catalog(0, "a"))
	s.put("/b", catalog(0, "b"))
	r := &Reader{Dir: t.TempDir()}
	var origins []Origin
	for _, kind := range []string{"kernel", "image"} {
		for _, path := range []string{"/a", "/b"} {
			o := Origin{Kind: kind, URL: s.URL + path, AllowUnsigned: true}
			wantBook(t, r.one(t, o, 0), path[1:])
			origins = append(origins, o)
		}
	}
	r.Prune("kernel", origins[:1])
	for i, o := range origins {
		if _, err := os.Stat(r.path(o)); (err == nil) != (i != 1) {
			t.Errorf("copy %d: %v", i, err)
		}
	}
}

// A catalog is not kept where it cannot be, and that is said.
func TestNoRoom(t *testing.T) {
	s, dir := newServer(t), t.TempDir()
	s.put("/a", catalog(0, "a"))
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := &Reader{Dir: file}
	b := r.one(t, Origin{Kind: "kernel", URL: s.URL + "/a", AllowUnsigned: true}, 0)
	if b.Err == nil || !strings.Contains(b.Err.Error(), "keep a copy") {
		t.Errorf("got %v", b.Err)
	}
}
