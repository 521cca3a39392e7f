package dockerfile

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// defaultPath is what an image that sets none is given, as BuildKit does.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// planner is one File.Plan.
type planner struct {
	file     *Dockerfile
	options  Options
	platform *vars
	global   *vars
	used     map[string]bool // build arguments that something asked for
	bases    []Source        // of each stage, with its variables replaced
	needed   []bool
	done     []*Stage
}

// Plan resolves the stages that the target needs. Its errors begin with the name
// and the line; those of Options.Base are passed on.
func (f *Dockerfile) Plan(o Options) (*Plan, error) {
	p := &planner{file: f, options: o, used: map[string]bool{}, needed: make([]bool, len(f.stages)), done: make([]*Stage, len(f.stages))}
	if err := p.globals(); err != nil {
		return nil, err
	}
	target, err := p.target()
	if err != nil {
		return nil, err
	}
	if err := p.need(target); err != nil {
		return nil, err
	}
	plan := &Plan{}
	for i := range f.stages[:target+1] {
		if !p.needed[i] {
			continue
		}
		if p.done[i], err = p.stage(i); err != nil {
			return nil, err
		}
		plan.Stages = append(plan.Stages, p.done[i])
	}
	for _, name := range slices.Sorted(maps.Keys(o.Args)) {
		if !p.used[name] && !slices.Contains(proxies, name) {
			plan.Warnings = append(plan.Warnings, fmt.Sprintf("no ARG asks for the build argument %s", name))
		}
	}
	return plan, nil
}

// target is the index of the stage that is asked for.
func (p *planner) target() (int, error) {
	last := len(p.file.stages) - 1
	if p.options.Target == "" {
		return last, nil
	}
	if i := p.find(p.options.Target, last+1); i >= 0 {
		return i, nil
	}
	return 0, p.file.at(0, invalid("no stage named %q in it", p.options.Target))
}

// find is the stage of that name, or that number, among the first n, or -1.
func (p *planner) find(name string, n int) int {
	for i := n - 1; i >= 0; i-- {
		if s := p.file.stages[i]; s.Name != "" && strings.EqualFold(s.Name, name) {
			return i
		}
	}
	if i, err := strconv.Atoi(name); err == nil && i >= 0 && i < n {
		return i
	}
	return -1
}

// need marks a stage and all that it needs. A stage only needs those before it.
func (p *planner) need(target int) error {
	p.bases = make([]Source, len(p.file.stages))
	p.needed[target] = true
	for i := target; i >= 0; i-- {
		if !p.needed[i] {
			continue
		}
		s := p.file.stages[i]
		line := firstLine(s.Location)
		base, err := p.expand(s.BaseName, p.global)
		if err == nil && base == "" {
			err = invalid("the name of the base is empty after its variables were replaced")
		}
		if err == nil {
			err = p.checkPlatform(s.Platform)
		}
		if err != nil {
			return p.file.at(line, err)
		}
		switch k := p.findNamed(base, i); {
		case base == "scratch":
			p.bases[i] = Source{Scratch: true}
		case k >= 0:
			p.needed[k] = true
		default:
			p.bases[i] = Source{Image: base}
		}
		for _, c := range s.Commands {
			if copied, ok := c.(*instructions.CopyCommand); ok && copied.From != "" {
				if k := p.find(copied.From, i); k >= 0 {
					p.needed[k] = true
				}
			}
		}
	}
	return nil
}

// findNamed is find without numbers: FROM takes none.
func (p *planner) findNamed(name string, n int) int {
	if _, err := strconv.Atoi(name); err == nil {
		return -1
	}
	return p.find(name, n)
}

// checkPlatform refuses a FROM for another machine.
func (p *planner) checkPlatform(platform string) error {
	platform, err := p.expand(platform, p.global)
	if err != nil || platform == "" {
		return err
	}
	return CheckPlatform(platform, p.options.Arch)
}

// CheckPlatform refuses a platform that is not linux/arch.
func CheckPlatform(platform, arch string) error {
	system, rest, _ := strings.Cut(strings.ToLower(platform), "/")
	if platform == arch || system == "linux" && (rest == arch || strings.HasPrefix(rest, arch+"/")) {
		return nil
	}
	return unsupported("a build for %q: this host is linux/%s, and a build for another machine", platform, arch)
}

// stage resolves one stage.
func (p *planner) stage(i int) (*Stage, error) {
	parsed := p.file.stages[i]
	s := &stageBuilder{p: p, args: newVars(nil), Stage: &Stage{Name: parsed.Name, Index: i, Base: p.bases[i], Line: firstLine(parsed.Location)}}
	if s.Name == "" && len(p.file.stages) > 1 {
		s.Name = "stage-" + strconv.Itoa(i)
	}
	commands := parsed.Commands
	switch {
	case s.Base.Image != "":
		config, err := p.options.Base(s.Base.Image)
		if err != nil {
			return nil, p.file.at(s.Line, err)
		}
		s.Config = config
	case !s.Base.Scratch:
		base, err := p.expand(parsed.BaseName, p.global)
		if err != nil {
			return nil, p.file.at(s.Line, err)
		}
		s.Base.Stage = p.done[p.findNamed(base, i)]
		s.Config = s.Base.Stage.Config
	}
	triggers := s.Config.OnBuild
	s.Config = s.Config.clone()
	s.Config.OnBuild = nil
	if _, ok := newVars(s.Config.Env).Get("PATH"); !ok { // so that one may be put before it
		s.Config.Env = append(s.Config.Env, "PATH="+defaultPath)
	}
	for _, text := range triggers {
		c, err := p.file.trigger(text)
		if err == nil {
			err = s.add(c, s.Line, "ONBUILD "+text)
		}
		if err != nil {
			return nil, p.file.at(s.Line, fmt.Errorf("the base's ONBUILD %s: %w", oneLine(text), err))
		}
	}
	for _, c := range commands {
		line := firstLine(c.Location())
		if err := s.add(c, line, source(c)); err != nil {
			return nil, p.file.at(line, err)
		}
	}
	return s.Stage, nil
}

// source is the text of an instruction.
func source(c instructions.Command) string {
	if s, ok := c.(fmt.Stringer); ok {
		return s.String()
	}
	return strings.ToUpper(c.Name())
}

// clone is a copy that shares nothing which a step changes.
func (c Config) clone() Config {
	c.Env = slices.Clone(c.Env)
	c.ExposedPorts, c.Volumes, c.Labels = maps.Clone(c.ExposedPorts), maps.Clone(c.Volumes), maps.Clone(c.Labels)
	return c
}

// stageBuilder is a stage on its way.
type stageBuilder struct {
	*Stage
	p      *planner
	args   *vars
	hasCmd bool
}

// scope are the variables that an instruction sees.
func (s *stageBuilder) scope() *vars { return overlay(s.args, s.Config.Env) }

// dir is a path as the stage's instructions mean it: from its working directory.
func (s *stageBuilder) dir(name string) string {
	if !path.IsAbs(name) {
		name = path.Join("/", s.Config.WorkingDir, name)
	}
	return path.Clean(name)
}
