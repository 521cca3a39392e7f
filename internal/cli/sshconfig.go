package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/agent"
)

// sshDomain ends the names by which OpenSSH knows VMs.
const sshDomain = ".banger"

func (c *CLI) sshConfigCommand() *cobra.Command {
	var hint, own bool
	var knownHost string
	cmd := &cobra.Command{
		Use:   "ssh-config",
		Short: "Print a configuration for OpenSSH: ssh NAME.banger",
		Long: `Print a configuration for OpenSSH by which ssh, scp, sftp, rsync and editors reach every VM,
also those to come, as NAME.banger: through banger's own server in the guest, with
banger's key and the VM's host key, without a question and without a network. Nothing of
the user's own is changed; --install-hint says how to make OpenSSH read it.`,
		Example: `  banger ssh-config > ~/.ssh/banger.conf     # and Include banger.conf, see --install-hint
  ssh testbox.banger
  rsync -a src/ testbox.banger:/root/src/`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case knownHost != "" && own:
				return c.printOwnKnownHost(cmd.Context(), knownHost)
			case knownHost != "":
				return c.printKnownHost(cmd.Context(), knownHost)
			case hint:
				_, err := io.WriteString(c.Stdout, `Once:
  mkdir -p -m 700 ~/.ssh
  banger ssh-config > ~/.ssh/banger.conf
and as the first line of ~/.ssh/config:
  Include banger.conf
Again after banger was moved to another place, or another BANGER_ROOT is to be used.
`)
				return err
			}
			return c.printSSHConfig(own)
		},
	}
	ownSSHDFlag(cmd, &own, "reach the SSH servers that the images themselves run, not banger's")
	cmd.Flags().BoolVar(&hint, "install-hint", false, "say how to make OpenSSH read it")
	cmd.Flags().StringVar(&knownHost, "known-host", "", "print the known_hosts line of one NAME.banger (OpenSSH asks for it)")
	return cmd
}

// sshEnv are the variables that decide where banger's files are; the
// configuration keeps those that are set.
var sshEnv = []string{"BANGER_ROOT", "BANGER_CONFIG", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"}

// sshConfig is the configuration for a banger at exe. AES-GCM moves three times
// as much as OpenSSH's own first choice.
const sshConfig = `# OpenSSH's way to the VMs of banger, as NAME.banger. Made by: banger ssh-config
Host *.banger
	User root
	ProxyCommand %[1]s vm proxy --pass-fd %%h
	ProxyUseFdpass yes
	KnownHostsCommand %[1]s ssh-config --known-host %%H
	UserKnownHostsFile none
	GlobalKnownHostsFile none
	StrictHostKeyChecking yes
	HostKeyAlgorithms ssh-ed25519
	UpdateHostKeys no
	CheckHostIP no
	IdentityFile %[2]s
	IdentitiesOnly yes
	PreferredAuthentications publickey
	GSSAPIAuthentication no
	Ciphers aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com
`

// ownSSHConfig is the same for the servers of the images: of those nobody knows
// what they can do.
const ownSSHConfig = `# OpenSSH's way to the SSH servers in the VMs of banger, as NAME.banger. Made by: banger ssh-config --guest-sshd
Host *.banger
	User root
	ProxyCommand %[1]s vm proxy --guest-sshd --user %%r %%h
	KnownHostsCommand %[1]s ssh-config --guest-sshd --known-host %%H
	UserKnownHostsFile none
	GlobalKnownHostsFile none
	StrictHostKeyChecking yes
	UpdateHostKeys no
	CheckHostIP no
	IdentityFile %[2]s
	IdentitiesOnly yes
	PreferredAuthentications publickey
	GSSAPIAuthentication no
`

func (c *CLI) printSSHConfig(own bool) error {
	if _, err := agent.LoadOrCreateUserKey(c.layout.UserKey()); err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	words := []string{exe}
	for _, name := range sshEnv {
		if value := c.Getenv(name); value != "" {
			if name == "BANGER_ROOT" {
				value = c.layout.Root // the same wherever ssh is called
			}
			if len(words) == 1 {
				words = []string{"/usr/bin/env", exe}
			}
			words = append(words[:len(words)-1], name+"="+value, exe)
		}
	}
	key, err := sshWord(c.layout.UserKey())
	for i := range words {
		var werr error
		words[i], werr = sshWord(words[i])
		err = errors.Join(err, werr)
	}
	if err != nil {
		return err
	}
	text := sshConfig
	if own {
		text = ownSSHConfig
	}
	_, err = fmt.Fprintf(c.Stdout, text, strings.Join(words, " "), key)
	return err
}

// sshWord quotes a path for ssh_config(5) and for the shell alike.
func sshWord(s string) (string, error) {
	if strings.ContainsAny(s, "\n'\"\\") {
		return "", banger.Errorf(banger.Invalid, "write the path %q for OpenSSH: it has quotes, backslashes or newlines", s).
			WithHint("move banger, or set BANGER_ROOT to another folder")
	}
	s = strings.ReplaceAll(s, "%", "%%")
	if strings.ContainsAny(s, " \t$`&|;<>()*?[]#~!{}") {
		return "'" + s + "'", nil
	}
	return s, nil
}

// printKnownHost prints the host key of the VM that OpenSSH connects to. Of one
// that is not there it prints nothing, and OpenSSH refuses.
func (c *CLI) printKnownHost(ctx context.Context, host string) error {
	return c.call(ctx, func(client *banger.Client) error {
		vm, err := client.VMShow(ctx, strings.TrimSuffix(host, sshDomain))
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.Stdout, "%s %s\n", host, strings.TrimSpace(vm.HostKey))
		return err
	})
}

// vmProxyCommand joins stdin and stdout to the SSH server of a VM, for OpenSSH's ProxyCommand.
func (c *CLI) vmProxyCommand() *cobra.Command {
	var pass, own bool
	var user string
	cmd := &cobra.Command{
		Use: "proxy VM", Short: "Join stdin and stdout to the SSH server of a VM (for ProxyCommand)",
		Example:           `  ssh -o ProxyCommand="banger vm proxy testbox" root@testbox`,
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: c.completeVMs,
		RunE: func(cmd *cobra.Command, a []string) error {
			name := strings.TrimSuffix(a[0], sshDomain)
			if own {
				return c.proxyOwnSSHD(cmd.Context(), name, user)
			}
			conn, err := c.connectVM(cmd.Context(), name)
			if err != nil {
				return err
			}
			defer conn.Close()
			if pass {
				return c.passFD(conn)
			}
			return c.joinStdio(conn)
		},
	}
	ownSSHDFlag(cmd, &own, "to the SSH server that the image itself runs, not banger's")
	cmd.Flags().StringVar(&user, "user", "root", "who is to be let in there")
	cmd.Flags().BoolVar(&pass, "pass-fd", false, "hand the connection over as a descriptor (for ProxyUseFdpass)")
	cmd.MarkFlagsMutuallyExclusive("guest-sshd", "pass-fd")
	return cmd
}

func (c *CLI) connectVM(ctx context.Context, name string) (conn net.Conn, err error) {
	err = c.call(ctx, func(client *banger.Client) error {
		vm, err := client.VMShow(ctx, name)
		if err != nil {
			return err
		}
		if err := running(vm); err != nil {
			return err
		}
		conn, err = agent.Connect(ctx, vm.Agent)
		return err
	})
	return conn, err
}

func (c *CLI) joinStdio(conn net.Conn) error {
	go func() {
		_, _ = io.Copy(conn, c.Stdin)
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	}()
	_, err := io.Copy(c.Stdout, conn)
	return err
}

// passFD sends the connection over the socket that stdout is: OpenSSH then uses
// it without a process in between.
func (c *CLI) passFD(conn net.Conn) error {
	out, ok1 := c.Stdout.(*os.File)
	sock, ok2 := conn.(*net.UnixConn)
	if !ok1 || !ok2 {
		return errors.New("pass the connection on: stdout is no socket")
	}
	raw, err := sock.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Control(func(fd uintptr) {
		sent = unix.Sendmsg(int(out.Fd()), []byte{0}, unix.UnixRights(int(fd)), nil, 0)
	})
	if err = errors.Join(err, sent); err != nil {
		return fmt.Errorf("pass the connection on: %w", err)
	}
	return nil
}
