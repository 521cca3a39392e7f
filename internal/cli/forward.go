package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"banger"
	"banger/internal/agent"
)

// maxForwarded bounds the connections at a time: the guest's agent takes 1000 on
// one connection of SSH.
const maxForwarded = 500

func (c *CLI) vmForwardCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "forward VM LOCAL:REMOTE...",
		Short: "Reach ports and sockets of a VM from here, until interrupted",
		Long: `Listen here and join each connection to a port or a socket in the VM, until interrupted; the
VM may be stopped and started meanwhile. It needs no network of the VM. LOCAL is
[ADDRESS:]PORT, at 127.0.0.1 unless said, or the path of a socket to make; port 0 picks a
free one. REMOTE is [HOST:]PORT as seen in the VM, its 127.0.0.1 unless said, or the path of a
socket there. Addresses of IPv6 stand in brackets. What is listened on is printed, a line each.`,
		Example: `  banger vm forward testbox 8080:80
  banger vm forward testbox 0:5432 /tmp/docker.sock:/run/docker.sock`,
		Args:              args(cobra.MinimumNArgs(2)),
		ValidArgsFunction: c.completeFirst(c.completeVMs),
		RunE: func(cmd *cobra.Command, a []string) error {
			var all []forward
			for _, word := range a[1:] {
				f, err := parseForward(word)
				if err != nil {
					return usageError{err, cmd}
				}
				all = append(all, f)
			}
			return c.forward(cmd.Context(), a[0], all)
		},
	}
	return cmd
}

// forward joins one place here to one in a VM.
type forward struct {
	localNet, local   string // tcp or unix, and an address
	remoteNet, remote string
}

// parseForward reads LOCAL:REMOTE.
func parseForward(word string) (f forward, err error) {
	bad := fmt.Errorf("bad forward %q: want LOCAL:REMOTE, as 8080:80 or /tmp/x.sock:/run/x.sock", word)
	rest := word
	if f.localNet, f.local, rest, err = parsePlace(rest, "./"); err != nil || rest == "" {
		return f, bad
	}
	if f.remoteNet, f.remote, rest, err = parsePlace(rest[1:], "/"); err != nil || rest != "" {
		return f, bad
	}
	if _, port, _ := net.SplitHostPort(f.remote); f.remoteNet == "tcp" && port == "0" {
		return f, bad
	}
	return f, nil
}

// parsePlace reads [HOST:]PORT or a path, which begins with one of the
// characters, from the beginning of text; rest begins with a colon or is empty.
func parsePlace(text, path string) (network, addr, rest string, err error) {
	if text == "" {
		return "", "", "", errors.New("nothing there")
	}
	if strings.ContainsRune(path, rune(text[0])) {
		i := strings.IndexByte(text, ':')
		if i < 0 {
			i = len(text)
		}
		return "unix", text[:i], text[i:], nil
	}
	host := "127.0.0.1"
	first, rest := cutColon(text)
	if _, err := strconv.ParseUint(first, 10, 16); err != nil { // a host, then
		if rest == "" || first == "" {
			return "", "", "", errors.New("no port")
		}
		host = strings.Trim(first, "[]")
		first, rest = cutColon(rest[1:])
	}
	if _, err := strconv.ParseUint(first, 10, 16); err != nil {
		return "", "", "", err
	}
	return "tcp", net.JoinHostPort(host, first), rest, nil
}

// cutColon cuts text before its first colon that is not in brackets.
func cutColon(text string) (first, rest string) {
	from := 0
	if strings.HasPrefix(text, "[") {
		from = strings.IndexByte(text, ']') + 1
	}
	if i := strings.IndexByte(text[from:], ':'); i >= 0 {
		return text[:from+i], text[from+i:]
	}
	return text, ""
}

// forward listens, says where, and serves until ctx ends.
func (c *CLI) forward(ctx context.Context, vm string, all []forward) error {
	d := &vmDialer{cli: c, vm: vm}
	if _, err := d.get(ctx, nil); err != nil { // a VM that is not there is said at once
		return err
	}
	defer d.close()
	var listeners []net.Listener
	defer func() {
		for _, l := range listeners {
			_ = l.Close()
		}
	}()
	old := syscall.Umask(0o077) // a socket is for its maker
	for _, f := range all {
		l, err := net.Listen(f.localNet, f.local)
		if err != nil {
			syscall.Umask(old)
			return banger.Errorf(banger.Conflict, "forward %s: %w", f.local, err)
		}
		listeners = append(listeners, l)
	}
	syscall.Umask(old)
	for i, l := range listeners {
		if err := c.printForward(l.Addr().String(), all[i].remote); err != nil {
			return err
		}
	}
	slots := make(chan struct{}, maxForwarded)
	var serving sync.WaitGroup
	for i, l := range listeners {
		serving.Go(func() { c.serveForward(ctx, l, all[i], d, slots) })
	}
	<-ctx.Done()
	for _, l := range listeners {
		_ = l.Close()
	}
	d.close() // ends what is under way
	serving.Wait()
	return context.Cause(ctx)
}

func (c *CLI) printForward(local, remote string) error {
	if c.json {
		return c.printJSON(map[string]string{"local": local, "remote": remote})
	}
	_, err := fmt.Fprintln(c.Stdout, local)
	return err
}

func (c *CLI) serveForward(ctx context.Context, l net.Listener, f forward, d *vmDialer, slots chan struct{}) {
	for {
		near, err := l.Accept()
		if err != nil {
			return
		}
		select {
		case slots <- struct{}{}:
		default:
			_ = near.Close()
			continue
		}
		go func() {
			defer func() { <-slots }()
			defer near.Close()
			far, err := d.dial(ctx, f.remoteNet, f.remote)
			if err != nil {
				if ctx.Err() == nil {
					fmt.Fprintf(c.Stderr, "banger: forward to %s: %s\n", visible(f.remote), visible(err.Error()))
				}
				return
			}
			join(near, far)
		}()
	}
}

// join copies both ways and passes on the end of each direction by itself.
func join(a, b net.Conn) {
	var up sync.WaitGroup
	half := func(to, from net.Conn) {
		_, err := io.Copy(to, from)
		if cw, ok := to.(interface{ CloseWrite() error }); ok && err == nil {
			err = cw.CloseWrite()
		}
		if err != nil {
			_ = a.Close()
			_ = b.Close()
		}
	}
	up.Go(func() { half(b, a) })
	half(a, b)
	up.Wait()
	_ = b.Close()
}

// vmDialer keeps a connection to a VM's agent, and makes a new one when that is gone.
type vmDialer struct {
	cli *CLI
	vm  string

	mu     sync.Mutex
	client *agent.Client
	closed bool
}

// get gives a client that is not the broken one.
func (d *vmDialer) get(ctx context.Context, broken *agent.Client) (*agent.Client, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, os.ErrClosed
	}
	if d.client != nil && d.client != broken {
		return d.client, nil
	}
	if d.client != nil {
		_ = d.client.Close()
		d.client = nil
	}
	client, err := d.cli.agentOf(ctx, d.vm)
	d.client = client
	return client, err
}

// dial connects to a place in the guest.
func (d *vmDialer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	client, err := d.get(ctx, nil)
	if err != nil {
		return nil, err
	}
	far, err := client.Forward(ctx, network, addr)
	if err == nil || !banger.IsKind(err, banger.Unavailable) {
		return far, err
	}
	if client, err = d.get(ctx, client); err != nil {
		return nil, err
	}
	return client.Forward(ctx, network, addr)
}

func (d *vmDialer) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	if d.client != nil {
		_ = d.client.Close()
	}
}
