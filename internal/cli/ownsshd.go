package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"banger"
	"banger/internal/agent"
)

// ownSSHDFlag is the flag of commands that can use the image's own SSH server.
func ownSSHDFlag(cmd *cobra.Command, own *bool, usage string) {
	cmd.Flags().BoolVar(own, "guest-sshd", false, usage)
}

// dialOwnSSHD connects to the SSH server that the guest runs, by way of the agent
// and without a network. Both are to be closed, the agent last.
func (c *CLI) dialOwnSSHD(ctx context.Context, vm banger.VM, user string) (*agent.Client, *agent.OwnSSHD, ssh.Signer, error) {
	signer, err := agent.LoadOrCreateUserKey(c.layout.UserKey())
	if err != nil {
		return nil, nil, nil, err
	}
	client, err := c.dialAgent(ctx, vm)
	if err != nil {
		return nil, nil, nil, err
	}
	own, err := client.OwnSSHD(ctx, user, signer.PublicKey())
	if err != nil {
		client.Close()
		return nil, nil, nil, err
	}
	return client, own, signer, nil
}

// ownSession runs one request at the guest's own SSH server.
func (c *CLI) ownSession(ctx context.Context, vm banger.VM, r agent.Request) (int, error) {
	if r.Dir != "" || strings.Contains(r.User, ":") {
		return 0, usageError{errors.New("with --guest-sshd there is no --workdir, and no group of a --user"), nil}
	}
	user := cmp.Or(r.User, "root")
	client, own, signer, err := c.dialOwnSSHD(ctx, vm, user)
	if err != nil {
		return 0, ownFailure{err}
	}
	defer client.Close()
	login, err := own.Login(user, signer)
	if err != nil {
		return 0, ownFailure{err}
	}
	defer login.Close()
	return c.attended(ctx, r, login.Shell)
}

// proxyOwnSSHD joins stdin and stdout to the guest's own SSH server.
func (c *CLI) proxyOwnSSHD(ctx context.Context, name, user string) error {
	vm, err := c.findVM(ctx, name)
	if err != nil {
		return err
	}
	client, own, _, err := c.dialOwnSSHD(ctx, vm, user)
	if err != nil {
		return err
	}
	defer client.Close()
	defer own.Close()
	return c.joinStdio(own.Conn)
}

// printOwnKnownHost prints the host keys of the guest's own SSH server, as its
// agent has read them.
func (c *CLI) printOwnKnownHost(ctx context.Context, host string) error {
	vm, err := c.findVM(ctx, strings.TrimSuffix(host, sshDomain))
	if err != nil {
		return err
	}
	client, err := c.dialAgent(ctx, vm)
	if err != nil {
		return err
	}
	defer client.Close()
	keys, err := client.OwnHostKeys(ctx)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if _, err := fmt.Fprintf(c.Stdout, "%s %s", host, ssh.MarshalAuthorizedKey(k)); err != nil {
			return err
		}
	}
	return nil
}
