// Command banger turns container images into microVMs: command line, daemon and shim in one binary.
package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"runtime/debug"

	"banger"
	"banger/internal/cli"
	"banger/internal/daemon"
	"banger/internal/shim"
	"banger/internal/state"
	"banger/internal/vmm/qemu"
)

// version is set by the linker for releases.
var version = "dev"

func main() {
	c := &cli.CLI{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv,
		Version: banger.VersionInfo{Version: version, Build: buildID(), PID: os.Getpid()},
		Shim:    runShim,
	}
	c.Daemon = func(ctx context.Context, l state.Layout, ready func(error)) error {
		err := runDaemon(ctx, l, c.Version, ready)
		ready(err)
		return err
	}
	os.Exit(c.Run(context.Background(), os.Args[1:]))
}

// runDaemon serves until ctx ends or a client asks for the end. VMs run on.
func runDaemon(ctx context.Context, l state.Layout, v banger.VersionInfo, ready func(error)) error {
	// Most of the time a daemon waits; what a pull needed is given back early.
	debug.SetGCPercent(50)
	d := &daemon.Daemon{Layout: l, Version: v, Driver: qemu.New(), Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	if err := d.Open(ctx); err != nil {
		return err
	}
	listener, err := d.Listen()
	if err == nil {
		ready(nil)
		err = d.Serve(listener)
	}
	return errors.Join(err, d.Close())
}

// shimFD is the descriptor of the listening socket that a shim inherits.
const shimFD = 3

func runShim(ctx context.Context, dir string) error {
	f := os.NewFile(shimFD, "shim socket")
	l, err := net.FileListener(f)
	_ = f.Close()
	if err != nil {
		return err
	}
	s := &shim.Shim{Dir: dir, Driver: qemu.New()}
	return s.Run(ctx, l.(*net.UnixListener))
}

// buildID is the content ID that the Go linker put into this binary, so that a
// command and a daemon of different builds find out.
func buildID() string {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return version
	}
	defer f.Close()
	id, err := readBuildID(f)
	if err != nil {
		return version
	}
	return id
}
