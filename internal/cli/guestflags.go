package cli

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"banger"
)

// guestFlags are those of a new VM that say what its guest is like.
type guestFlags struct {
	env, labels, keys []string
}

func (f *guestFlags) flags(cmd *cobra.Command, spec *banger.VMSpec) {
	fl := cmd.Flags()
	fl.StringArrayVarP(&f.env, "env", "e", nil, "set NAME=value, or pass NAME on, for all commands in the VM; may be repeated")
	fl.StringVarP(&spec.WorkingDir, "workdir", "w", "", "directory in which its commands start (default: the image's)")
	fl.StringVarP(&spec.User, "user", "u", "", "user[:group] that its commands run as (default: the image's)")
	fl.StringVar(&spec.Hostname, "hostname", "", "its host name (default: the VM's name)")
	fl.StringArrayVar(&f.keys, "ssh-key", nil, "`file` with public SSH keys that may come in as well; may be repeated")
	fl.StringArrayVarP(&f.labels, "label", "l", nil, "`NAME=value` to find it by (vm ls --filter label=NAME=value); may be repeated")
}

// fill puts what the flags say into the spec.
func (f *guestFlags) fill(c *CLI, spec *banger.VMSpec) (err error) {
	if spec.Env, err = c.environment(f.env); err != nil {
		return err
	}
	for _, l := range f.labels {
		name, value, _ := strings.Cut(l, "=")
		if spec.Labels == nil {
			spec.Labels = map[string]string{}
		}
		spec.Labels[name] = value
	}
	for _, path := range f.keys {
		b, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read SSH keys: %w", err)
		}
		if strings.Contains(string(b), "PRIVATE KEY") {
			return banger.Errorf(banger.Invalid, "%s is a private key", path).WithHint("--ssh-key %s.pub", path)
		}
		for line := range strings.Lines(string(b)) {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				spec.AuthorizedKeys = append(spec.AuthorizedKeys, line)
			}
		}
	}
	return nil
}

// environment makes NAME=value of each flag --env, with values of our own where
// only the name is given.
func (c *CLI) environment(flags []string) (env []string, err error) {
	for _, e := range flags {
		name, _, set := strings.Cut(e, "=")
		if name == "" {
			return nil, usageError{fmt.Errorf("bad --env %q: want NAME=value or NAME", e), nil}
		}
		if !set {
			e = name + "=" + c.Getenv(name)
		}
		env = append(env, e)
	}
	return env, nil
}
