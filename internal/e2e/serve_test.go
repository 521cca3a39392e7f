//go:build e2e

package e2e

import (
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// servers are the servers of one script, by the variable that has the URL.
type servers map[string]*http.Server

// serversKey is where a script's servers are among its values.
type serversKey struct{}

// serve serves a folder on a loopback port until the script ends or says stop;
// the variable gets the URL. The same variable again is the same URL again.
func serve(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: serve VARIABLE FOLDER|stop")
	}
	name, dir := args[0], args[1]
	running := ts.Value(serversKey{}).(servers)
	if dir == "stop" {
		if running[name] == nil {
			ts.Fatalf("%s does not serve", name)
		}
		ts.Check(running[name].Close())
		delete(running, name)
		return
	}
	addr := "127.0.0.1:0"
	if url := ts.Getenv(name); url != "" {
		addr = strings.TrimPrefix(url, "http://")
	}
	l, err := net.Listen("tcp", addr)
	ts.Check(err)
	dir = ts.MkAbs(dir)
	if filepath.Clean(dir) == "/" {
		ts.Fatalf("all of this host is not for serving")
	}
	srv := &http.Server{Handler: http.FileServer(http.Dir(dir))}
	running[name] = srv
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	ts.Defer(func() {
		_ = srv.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			ts.Fatalf("serve: %v", err)
		}
	})
	ts.Setenv(name, "http://"+l.Addr().String())
}
