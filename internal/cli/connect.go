package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"banger"
	"banger/internal/state"
)

// startTime is how long a daemon may take to come up, or an old one to go.
const startTime = 20 * time.Second

// readyFD is the descriptor on which a daemon that was started here says that
// it serves, or why it cannot.
const readyFD = 3

// ensureDaemon gives a client whose daemon answers and is of this very build.
// It starts one where there is none; of two commands that race for it, the
// second finds the daemon of the first.
func (c *CLI) ensureDaemon(ctx context.Context) (*banger.Client, error) {
	client := &banger.Client{Socket: c.layout.Socket()}
	if err := c.layout.MakeRun(); err != nil { // else a folder of somebody else's looks like a daemon that hangs
		return nil, state.Classify(err)
	}
	if ok, err := c.usable(ctx, client); ok || err != nil {
		return client, err
	}
	if err := c.layout.Make(); err != nil {
		return nil, state.Classify(err)
	}
	lock, err := state.LockFile(c.layout.Path(state.StartLock), true)
	if err != nil {
		return nil, err
	}
	defer lock.Unlock()
	if ok, err := c.usable(ctx, client); ok || err != nil {
		return client, err
	}
	return client, c.startDaemon(ctx)
}

// usable reports whether a daemon answers. One of another build is asked to
// go: VMs run on without it. One that is busy is left alone, with a word.
func (c *CLI) usable(ctx context.Context, client *banger.Client) (bool, error) {
	v, err := client.SystemVersion(ctx)
	switch {
	case ctx.Err() != nil:
		return false, err
	case err != nil && (errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED)):
		return false, nil
	case err != nil && !banger.IsKind(err, banger.Unavailable):
		return false, err
	case err == nil && v.Build == c.Version.Build:
		return true, nil
	}
	if err == nil {
		err = client.SystemShutdown(ctx, banger.NameRequest{})
		client.Close()
		if banger.IsKind(err, banger.Conflict) {
			fmt.Fprintf(c.Stderr, "banger: the daemon is of another build (%s) and busy; it stays until it is idle\n", v.Version)
			return true, nil
		}
	}
	return false, c.awaitEnd(ctx)
}

// awaitEnd waits until no daemon has the state root.
func (c *CLI) awaitEnd(ctx context.Context) error {
	free := make(chan error, 1)
	go func() {
		lock, err := state.LockFile(c.layout.Path(state.DaemonLock), true)
		if err == nil {
			lock.Unlock()
		}
		free <- err
	}()
	select {
	case err := <-free:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(startTime):
		return banger.Errorf(banger.Unavailable, "the daemon does not answer, and has not ended within %s", startTime).
			WithHint("see %s", c.layout.Path(state.DaemonLog))
	}
}

// startDaemon starts a daemon in a session of its own and waits until it serves.
func (c *CLI) startDaemon(ctx context.Context) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	log, err := openLog(c.layout.Path(state.DaemonLog))
	if err != nil {
		_ = w.Close()
		return err
	}
	cmd := exec.Command("/proc/self/exe", "daemon", "--ready")
	cmd.Args[0] = "banger"
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, []*os.File{w}
	cmd.Dir, cmd.Env = "/", c.daemonEnv()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = w.Close()
	_ = log.Close()
	if err != nil {
		return fmt.Errorf("start the daemon: %w", err)
	}
	_ = r.SetReadDeadline(time.Now().Add(startTime))
	defer context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Now()) })()
	var e banger.Event
	if err := json.NewDecoder(r).Decode(&e); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return banger.Errorf(banger.Unavailable, "start the daemon: it did not come up: %w", err).
			WithHint("see %s", c.layout.Path(state.DaemonLog))
	}
	_ = cmd.Process.Release()
	if e.Error != nil {
		return e.Error
	}
	return nil
}

// daemonEnv is the daemon's environment: as it is here, but for paths that
// mean something else in the folder where the daemon works.
func (c *CLI) daemonEnv() []string {
	env := os.Environ()
	if c.Getenv("BANGER_ROOT") != "" {
		env = append(env, "BANGER_ROOT="+c.layout.Root)
	}
	if c.Getenv("BANGER_CONFIG") != "" {
		env = append(env, "BANGER_CONFIG="+c.layout.Config)
	}
	return env
}

// maxLog is the size at which the daemon's log begins anew at its next start.
const maxLog = 1 << 20

func openLog(path string) (*os.File, error) {
	if fi, err := os.Stat(path); err == nil && fi.Size() > maxLog {
		_ = os.Rename(path, path+state.RotatedSuffix)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, state.Classify(fmt.Errorf("open the daemon's log: %w", err))
	}
	return f, nil
}

// call runs f with a client of a daemon that answers.
func (c *CLI) call(ctx context.Context, f func(*banger.Client) error) error {
	client, err := c.ensureDaemon(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	return f(client)
}
