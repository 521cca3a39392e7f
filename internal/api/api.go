// Package api is the daemon's HTTP interface: routes, streams, peer credentials.
package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"banger"
)

const (
	maxBody    = 1 << 20          // bytes of one request; the largest real one has a few KiB
	bodyTime   = 10 * time.Second // for a client to send its request
	headerTime = 5 * time.Second
	listPart   = 16 << 10    // bytes of a list that go out together
	sendTime   = time.Minute // for a client to take an item of a feed
)

// Route is one operation of the API.
type Route struct {
	Name   string // noun.verb
	handle func(w http.ResponseWriter, r *http.Request) error
}

// Unary makes the route of an operation that answers at once.
func Unary[In, Out any](name string, f func(context.Context, In) (Out, error)) Route {
	return Route{name, func(w http.ResponseWriter, r *http.Request) error {
		in, err := decode[In](w, r)
		if err != nil {
			return err
		}
		out, err := f(r.Context(), in)
		if err != nil {
			return err
		}
		w.Header().Set("Content-Type", "application/json")
		return json.NewEncoder(w).Encode(out)
	}}
}

// List is Unary for an answer of many items: they go out while the next ones
// are encoded, so that the client's work goes on beside the daemon's.
func List[In, Item any](name string, f func(context.Context, In) ([]Item, error)) Route {
	return Route{name, func(w http.ResponseWriter, r *http.Request) error {
		in, err := decode[In](w, r)
		if err != nil {
			return err
		}
		items, err := f(r.Context(), in)
		if err != nil {
			return err
		}
		w.Header().Set("Content-Type", "application/json")
		out := bufio.NewWriterSize(w, listPart)
		enc := json.NewEncoder(out)
		separator := byte('[')
		for _, item := range items {
			_ = out.WriteByte(separator) // the error stays until Flush
			if err := enc.Encode(item); err != nil {
				return err
			}
			separator = ','
		}
		if separator == '[' {
			_ = out.WriteByte('[')
		}
		_, _ = out.WriteString("]\n")
		return out.Flush()
	}}
}

// Encoded is Unary for an answer that is JSON already.
func Encoded[In any](name string, f func(context.Context, In) ([]byte, error)) Route {
	return Route{name, func(w http.ResponseWriter, r *http.Request) error {
		in, err := decode[In](w, r)
		if err != nil {
			return err
		}
		b, err := f(r.Context(), in)
		if err != nil {
			return err
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(b)))
		_, err = w.Write(b)
		return err
	}}
}

// Stream makes the route of long work: JSON lines of progress, then one result
// or error. A client that goes away ends the work's context.
func Stream[In, Out any](name string, f func(context.Context, In, func(banger.Progress)) (Out, error)) Route {
	return Route{name, func(w http.ResponseWriter, r *http.Request) error {
		in, err := decode[In](w, r)
		if err != nil {
			return err
		}
		lines := newLines(w)
		out, err := f(r.Context(), in, func(p banger.Progress) { _ = lines.send(banger.Event{Progress: &p}) })
		if err != nil {
			return lines.fail(err)
		}
		b, err := json.Marshal(out)
		if err != nil {
			return lines.fail(err)
		}
		_ = lines.send(banger.Event{Result: b})
		return nil
	}}
}

// Feed makes the route of a list that grows while it is read: JSON lines of its
// items. send fails once the client has gone, or does not read for sendTime.
func Feed[In, Item any](name string, f func(ctx context.Context, in In, send func(Item) error) error) Route {
	return Route{name, func(w http.ResponseWriter, r *http.Request) error {
		in, err := decode[In](w, r)
		if err != nil {
			return err
		}
		lines := newLines(w)
		err = f(r.Context(), in, func(item Item) error {
			b, err := json.Marshal(item)
			if err != nil {
				return err
			}
			return lines.push(banger.Event{Item: b})
		})
		if err != nil {
			return lines.fail(err)
		}
		_ = lines.send(banger.Event{Result: json.RawMessage("{}")})
		return nil
	}}
}

// decode reads a request as a whole, within bounds of size and time.
func decode[In any](w http.ResponseWriter, r *http.Request) (in In, err error) {
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyTime))
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&in); err != nil && !errors.Is(err, io.EOF) {
		return in, banger.Errorf(banger.Invalid, "decode request: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return in, banger.Errorf(banger.Invalid, "decode request: more than one JSON value")
	}
	// The deadline must not end the work that follows.
	_ = rc.SetReadDeadline(time.Time{})
	return in, nil
}

// Server serves the routes to processes of one user.
type Server struct {
	Routes []Route
	UID    int // the only user who may call, beside root
	Log    *slog.Logger
}

type peerKey struct{}

// Serve answers on l until ctx ends; then the contexts of all calls end too,
// and Serve waits for them.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	for _, route := range s.Routes {
		mux.Handle("POST /"+banger.APIVersion+"/"+route.Name, s.guard(route))
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, banger.Errorf(banger.NotFound, "no operation %s %q", r.Method, r.URL.Path))
	})
	base, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	srv := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: headerTime,
		MaxHeaderBytes:    16 << 10,
		BaseContext:       func(net.Listener) context.Context { return base },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, peerKey{}, peerOf(c))
		},
		ErrorLog: slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		cancel(banger.Errorf(banger.Canceled, "the daemon is going down"))
		wait, done := context.WithTimeout(context.Background(), 10*time.Second) // handlers undo their work
		defer done()
		_ = srv.Shutdown(wait)
	})
	err := srv.Serve(l)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve: %w", err)
}

// guard lets only this user's own programs in, and never a web page.
func (s *Server) guard(route Route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peer := Peer(r.Context())
		switch {
		case peer == nil || (int(peer.Uid) != s.UID && peer.Uid != 0):
			writeError(w, banger.Errorf(banger.Invalid, "this daemon serves another user"))
			return
		case r.Header.Get("Origin") != "" || r.Header.Get("Referer") != "" || r.Host != "banger":
			writeError(w, banger.Errorf(banger.Invalid, "browsers are not served"))
			return
		}
		defer func() {
			if p := recover(); p != nil {
				s.Log.Error("panic in a handler", "call", route.Name, "panic", p)
				writeError(w, banger.Errorf(banger.Internal, "%s: %v", route.Name, p))
			}
		}()
		if err := route.handle(w, r); err != nil {
			s.Log.Debug("call", "call", route.Name, "err", err)
			writeError(w, err)
		}
	})
}

// Peer is the credentials of the process that made the call, or nil.
func Peer(ctx context.Context) *unix.Ucred {
	cred, _ := ctx.Value(peerKey{}).(*unix.Ucred)
	return cred
}

func peerOf(c net.Conn) *unix.Ucred {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return nil
	}
	var cred *unix.Ucred
	if err := raw.Control(func(fd uintptr) {
		cred, _ = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil
	}
	return cred
}

func writeError(w http.ResponseWriter, err error) {
	e := banger.AsError(err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(e.Kind.Status())
	_ = json.NewEncoder(w).Encode(banger.Event{Error: e})
}
