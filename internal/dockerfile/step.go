package dockerfile

import (
	"path"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// add resolves one instruction and takes it over.
func (s *stageBuilder) add(c instructions.Command, line int, text string) error {
	step := Step{Line: line, Text: oneLine(text)}
	scope := s.scope()
	expand := func(word string) (string, error) { return s.p.expand(word, scope) }
	if arg, ok := c.(*instructions.ArgCommand); ok {
		// ARGs see those before them on the same line.
		if err := s.p.declare(arg, s.args, s.Config.Env, s.p.global); err != nil {
			return err
		}
		s.Steps = append(s.Steps, step)
		return nil
	}
	if e, ok := c.(instructions.SupportsSingleWordExpansion); ok {
		if err := e.Expand(expand); err != nil {
			return bare(err)
		}
	}
	if e, ok := c.(instructions.SupportsSingleWordExpansionRaw); ok {
		if err := e.ExpandRaw(func(text string) (string, error) { return s.p.expandText(text, scope) }); err != nil {
			return bare(err)
		}
	}
	var err error
	switch c := c.(type) {
	case *instructions.RunCommand:
		step.Op, err = s.run(c, scope)
	case *instructions.CopyCommand:
		step.Op, err = s.copy(c)
	case *instructions.AddCommand:
		step.Op, err = s.addFiles(c)
	case *instructions.WorkdirCommand:
		step.Op, err = s.workdir(c)
	default:
		err = s.configure(c, scope)
	}
	if err != nil {
		return err
	}
	s.Steps = append(s.Steps, step)
	return nil
}

func (s *stageBuilder) workdir(c *instructions.WorkdirCommand) (any, error) {
	if c.Path == "" {
		return nil, invalid("WORKDIR without a path")
	}
	dir := s.dir(c.Path)
	if err := checkPath(dir); err != nil {
		return nil, err
	}
	s.Config.WorkingDir = dir
	if dir == "/" {
		return nil, nil
	}
	return &Mkdir{Path: dir, User: s.Config.User}, nil
}

// maxPath is PATH_MAX of Linux.
const maxPath = 4096

func checkPath(p string) error {
	if len(p) >= maxPath || strings.ContainsRune(p, 0) {
		return invalid("the path %.100q is too long, or no path", p)
	}
	return nil
}

// configure takes over an instruction that makes no layer.
func (s *stageBuilder) configure(c instructions.Command, scope *vars) error {
	switch c := c.(type) {
	case *instructions.EnvCommand:
		for _, kv := range c.Env {
			if len(kv.Value) > maxValue || kv.Key == "" || strings.ContainsAny(kv.Key, "=\x00") || strings.ContainsRune(kv.Value, 0) {
				return invalid("ENV %.100q: not a variable of up to %d bytes", kv.Key, maxValue)
			}
			s.Config.Env = merge(s.Config.Env, kv.Key, kv.Value)
		}
	case *instructions.LabelCommand:
		for _, kv := range c.Labels {
			s.label(kv.Key, kv.Value)
		}
	case *instructions.MaintainerCommand:
		s.Author = c.Maintainer
	case *instructions.CmdCommand:
		s.Config.Cmd, s.hasCmd = s.command(c.ShellDependantCmdLine), true
	case *instructions.EntrypointCommand:
		s.Config.Entrypoint = s.command(c.ShellDependantCmdLine)
		if !s.hasCmd {
			s.Config.Cmd = nil // that of the base was for its own entry point
		}
	case *instructions.UserCommand:
		if c.User == "" {
			return invalid("USER without a name")
		}
		s.Config.User = c.User
	case *instructions.ExposeCommand:
		return s.expose(c, scope)
	case *instructions.VolumeCommand:
		for _, v := range c.Volumes {
			if v == "" {
				return invalid("VOLUME with an empty path")
			}
			if s.Config.Volumes == nil {
				s.Config.Volumes = map[string]struct{}{}
			}
			s.Config.Volumes[v] = struct{}{}
		}
	case *instructions.StopSignalCommand:
		s.Config.StopSignal = c.Signal
	case *instructions.ShellCommand:
		if len(c.Shell) == 0 {
			return invalid("SHELL without a program")
		}
		s.Config.Shell = slices.Clone(c.Shell)
	case *instructions.HealthCheckCommand:
		h := c.Health
		s.Config.Healthcheck = &Healthcheck{Test: h.Test, Interval: h.Interval, Timeout: h.Timeout,
			StartPeriod: h.StartPeriod, StartInterval: h.StartInterval, Retries: h.Retries}
	case *instructions.OnbuildCommand:
		if _, err := s.p.file.trigger(c.Expression); err != nil {
			return invalid("%w", err)
		}
		s.Config.OnBuild = append(slices.Clone(s.Config.OnBuild), c.Expression)
	default:
		return unsupported("%s", strings.ToUpper(c.Name()))
	}
	return nil
}

func (s *stageBuilder) label(key, value string) {
	if s.Config.Labels == nil {
		s.Config.Labels = map[string]string{}
	}
	s.Config.Labels[key] = value
}

// expose notes ports: NUMBER[-NUMBER][/tcp|udp|sctp].
func (s *stageBuilder) expose(c *instructions.ExposeCommand, scope *vars) error {
	for _, port := range c.Ports {
		words, err := s.p.expandWords(port, scope)
		if err != nil {
			return err
		}
		for _, w := range words {
			first, last, proto, err := parsePorts(w)
			if err != nil {
				return err
			}
			for n := first; n <= last; n++ {
				if s.Config.ExposedPorts == nil {
					s.Config.ExposedPorts = map[string]struct{}{}
				}
				s.Config.ExposedPorts[portName(n, proto)] = struct{}{}
			}
		}
	}
	return nil
}

// command is a command line as the configuration has it.
func (s *stageBuilder) command(c instructions.ShellDependantCmdLine) []string {
	if c.PrependShell {
		return append(slices.Clone(s.shell()), c.CmdLine...)
	}
	return slices.Clone(c.CmdLine)
}

func (s *stageBuilder) shell() []string {
	if len(s.Config.Shell) > 0 {
		return s.Config.Shell
	}
	return []string{"/bin/sh", "-c"}
}

// destination resolves where files go.
func (s *stageBuilder) destination(op *Copy, dest string, sources int) error {
	if dest == "" {
		return invalid("the destination is empty")
	}
	op.IntoDir = strings.HasSuffix(dest, "/") || path.Base(dest) == "." || path.Base(dest) == ".."
	op.Dest = s.dir(dest)
	if sources > 1 && !op.IntoDir {
		return invalid("with several sources the destination %q must be a directory and end with /", dest)
	}
	return checkPath(op.Dest)
}
