package api

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger"
)

type in struct {
	Word string `json:"word"`
}

// serve runs a server with the routes and returns a client of it and its socket.
func serve(t *testing.T, uid int, routes ...Route) (*banger.Client, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	s := &Server{Routes: routes, UID: uid, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	go func() { done <- s.Serve(ctx, l) }()
	client := &banger.Client{Socket: path}
	t.Cleanup(func() {
		client.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return client, path
}

func echo(_ context.Context, i in) (in, error) { return i, nil }

func TestUnary(t *testing.T) {
	c, _ := serve(t, os.Getuid(), Unary("a.echo", echo))
	var out in
	if err := c.Call(t.Context(), "a.echo", in{"hi"}, &out); err != nil || out.Word != "hi" {
		t.Fatalf("%+v, %v", out, err)
	}
	if err := c.Call(t.Context(), "a.none", nil, nil); !banger.IsKind(err, banger.NotFound) {
		t.Errorf("unknown operation: %v", err)
	}
}

func TestErrorsKeepKindAndHint(t *testing.T) {
	fail := func(context.Context, in) (in, error) {
		return in{}, banger.Errorf(banger.Exhausted, "no space").WithHint("rm something")
	}
	late := func(_ context.Context, _ in, p func(banger.Progress)) (in, error) {
		p(banger.Progress{Step: "one"})
		return fail(t.Context(), in{})
	}
	c, _ := serve(t, os.Getuid(), Unary("a.fail", fail), Stream("a.late", late))
	var steps int
	for name, err := range map[string]error{
		"unary":  c.Call(t.Context(), "a.fail", nil, nil),
		"stream": c.Stream(t.Context(), "a.late", nil, nil, func(banger.Progress) { steps++ }),
	} {
		if e := banger.AsError(err); e.Kind != banger.Exhausted || e.Hint != "rm something" || e.Msg != "no space" {
			t.Errorf("%s: %+v", name, e)
		}
	}
	if steps != 1 {
		t.Errorf("%d steps, want 1", steps)
	}
}

func TestBadRequests(t *testing.T) {
	_, path := serve(t, os.Getuid(), Unary("a.echo", echo))
	h := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	post := func(host, body string, header ...string) int {
		req, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+host+"/v0/a.echo", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range header {
			req.Header.Set(k, "http://evil.example")
		}
		resp, err := h.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	for name, got := range map[string]int{
		"origin":        post("banger", "{}", "Origin"),
		"referer":       post("banger", "{}", "Referer"),
		"host":          post("evil.example", "{}"),
		"unknown field": post("banger", `{"wrod": "x"}`),
		"two values":    post("banger", `{} {}`),
		"no JSON":       post("banger", `hello`),
		"too long":      post("banger", `{"word": "`+string(bytes.Repeat([]byte("x"), maxBody))+`"}`),
		"too deep":      post("banger", strings.Repeat("[", 20000)),
	} {
		if got != http.StatusBadRequest {
			t.Errorf("%s: status %d", name, got)
		}
	}
	if got := post("banger", "{}"); got != http.StatusOK {
		t.Errorf("good request: status %d", got)
	}
}

func TestOtherUsersAreRefused(t *testing.T) {
	if os.Getuid() == 0 {
		// root may call every daemon, so the check is made on the guard itself.
		s := &Server{UID: 4242, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
		w := &recorder{header: http.Header{}}
		r, _ := http.NewRequest("POST", "http://banger/v0/a.echo", nil)
		s.guard(Unary("a.echo", echo)).ServeHTTP(w, r)
		if w.status != http.StatusBadRequest {
			t.Fatalf("a caller without credentials got %d", w.status)
		}
		return
	}
	c, _ := serve(t, os.Getuid()+1, Unary("a.echo", echo))
	if err := c.Call(t.Context(), "a.echo", nil, nil); !banger.IsKind(err, banger.Invalid) {
		t.Fatalf("another user's daemon answered: %v", err)
	}
}

type recorder struct {
	header http.Header
	status int
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) Write(p []byte) (int, error) { return len(p), nil }
func (r *recorder) WriteHeader(status int)      { r.status = status }

func TestPeerIsThisProcess(t *testing.T) {
	var pid int32
	c, _ := serve(t, os.Getuid(), Unary("a.peer", func(ctx context.Context, i in) (in, error) {
		pid = Peer(ctx).Pid
		return i, nil
	}))
	if err := c.Call(t.Context(), "a.peer", nil, nil); err != nil || int(pid) != os.Getpid() {
		t.Fatalf("peer %d, %v", pid, err)
	}
}

func TestWorkEndsWithItsClient(t *testing.T) {
	began, ended := make(chan struct{}), make(chan error, 1)
	c, _ := serve(t, os.Getuid(), Stream("a.wait", func(ctx context.Context, i in, p func(banger.Progress)) (in, error) {
		close(began)
		<-ctx.Done()
		ended <- ctx.Err()
		return i, ctx.Err()
	}))
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		<-began
		cancel(errors.New("went away"))
	}()
	if err := c.Stream(ctx, "a.wait", nil, nil, nil); !banger.IsKind(err, banger.Canceled) {
		t.Errorf("client: %v", err)
	}
	if err := <-ended; err == nil {
		t.Error("the work did not see its client go")
	}
}

func TestAPanicIsAnErrorOfOneCall(t *testing.T) {
	c, _ := serve(t, os.Getuid(), Unary("a.echo", echo), Unary("a.panic", func(context.Context, in) (in, error) { panic("oh") }))
	if err := c.Call(t.Context(), "a.panic", nil, nil); !banger.IsKind(err, banger.Internal) {
		t.Fatal(err)
	}
	if err := c.Call(t.Context(), "a.echo", nil, nil); err != nil {
		t.Fatal(err)
	}
}

// A client that does not read a feed holds up nobody but the feed, which ends when it goes.
func TestFeed(t *testing.T) {
	ended := make(chan error, 1)
	c, _ := serve(t, os.Getuid(),
		Feed("a.few", func(_ context.Context, i in, send func(in) error) error {
			return errors.Join(send(i), send(in{"two"}))
		}),
		Feed("a.many", func(ctx context.Context, _ in, send func(in) error) (err error) {
			for err == nil && ctx.Err() == nil {
				err = send(in{strings.Repeat("x", 1000)})
			}
			ended <- err
			return err
		}),
		Feed("a.fail", func(context.Context, in, func(in) error) error { return banger.Errorf(banger.Invalid, "no") }))
	var got []byte
	check := func(e banger.Event) error { got = append(got, e.Item...); return nil }
	if err := c.Feed(t.Context(), "a.few", in{"one"}, nil, check); err != nil || string(got) != `{"word":"one"}{"word":"two"}` {
		t.Errorf("%s, %v", got, err)
	}
	if err := c.Feed(t.Context(), "a.fail", nil, nil, check); !banger.IsKind(err, banger.Invalid) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- c.Feed(ctx, "a.many", nil, nil, func(banger.Event) error { // reads no more
			close(first)
			<-ctx.Done()
			return ctx.Err()
		})
	}()
	<-first
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	<-ended
}
