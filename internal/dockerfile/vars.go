package dockerfile

import (
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// vars are the variables of one place of a Dockerfile, in the order in which
// they were set. It is the shell.EnvGetter of an expansion.
type vars struct {
	names  []string
	values map[string]string
}

func newVars(env []string) *vars {
	v := &vars{values: map[string]string{}}
	for _, kv := range env {
		name, value, _ := strings.Cut(kv, "=")
		v.set(name, value)
	}
	return v
}

func (v *vars) set(name, value string) {
	if _, ok := v.values[name]; !ok {
		v.names = append(v.names, name)
	}
	v.values[name] = value
}

// Get implements shell.EnvGetter.
func (v *vars) Get(name string) (string, bool) {
	value, ok := v.values[name]
	return value, ok
}

// Keys implements shell.EnvGetter.
func (v *vars) Keys() []string { return v.names }

// list is NAME=value of all.
func (v *vars) list() []string {
	var list []string
	for _, n := range v.names {
		list = append(list, n+"="+v.values[n])
	}
	return list
}

func (v *vars) clone() *vars { return newVars(v.list()) }

// longest is the length of the longest value.
func (v *vars) longest() int {
	n := 0
	for _, value := range v.values {
		n = max(n, len(value))
	}
	return n
}

// proxies are the build arguments that need no ARG: Dockerfile reference,
// "Predefined ARGs".
var proxies = []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "FTP_PROXY", "ftp_proxy",
	"NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"}

// platformArgs are those that BuildKit has in the global scope: Dockerfile
// reference, "Automatic platform ARGs in the global scope".
func platformArgs(arch string) *vars {
	v := newVars(nil)
	for _, side := range []string{"BUILD", "TARGET"} {
		v.set(side+"PLATFORM", "linux/"+arch)
		v.set(side+"OS", "linux")
		v.set(side+"ARCH", arch)
		v.set(side+"VARIANT", "")
	}
	return v
}

// globals are the variables of FROM lines: the platform, then the ARGs before
// the first FROM, each with what is before it.
func (p *planner) globals() error {
	p.platform = platformArgs(p.options.Arch)
	p.global = p.platform.clone()
	for _, arg := range p.file.meta {
		if err := p.declare(&arg, p.global, nil, p.platform); err != nil {
			return p.file.at(firstLine(arg.Location()), err)
		}
	}
	return nil
}

// declare takes over one ARG instruction: what the user gave, else its default,
// else what is known of the name. With none of them it stays unset.
func (p *planner) declare(arg *instructions.ArgCommand, into *vars, env []string, known *vars) error {
	for _, a := range arg.Args {
		scope := overlay(into, env)
		key, err := p.expand(a.Key, scope)
		if err != nil {
			return err
		}
		value, ok := p.options.Args[key]
		switch {
		case ok:
			p.used[key] = true
		case a.Value != nil:
			if value, err = p.expand(*a.Value, scope); err != nil {
				return err
			}
			ok = true
		default:
			value, ok = known.Get(key)
		}
		if len(value) > maxValue {
			return invalid("the value of %s is longer than %d bytes", key, maxValue)
		}
		if ok {
			into.set(key, value)
		}
	}
	return nil
}

// overlay is what an instruction sees: the environment goes before arguments.
func overlay(args *vars, env []string) *vars {
	v := args.clone()
	for _, kv := range env {
		name, value, _ := strings.Cut(kv, "=")
		v.set(name, value)
	}
	return v
}

// expand replaces the variables in one word.
func (p *planner) expand(word string, scope *vars) (string, error) {
	lex := shell.NewLex(p.file.escape)
	if err := affordable(word, scope); err != nil {
		return "", err
	}
	out, _, err := lex.ProcessWord(word, scope)
	return out, bare(err)
}

// expandWords replaces the variables and splits into words.
func (p *planner) expandWords(word string, scope *vars) ([]string, error) {
	if err := affordable(word, scope); err != nil {
		return nil, err
	}
	words, err := shell.NewLex(p.file.escape).ProcessWords(word, scope)
	return words, bare(err)
}

// expandText replaces the variables in a heredoc, whose quotes mean nothing.
func (p *planner) expandText(text string, scope *vars) (string, error) {
	if err := affordable(text, scope); err != nil {
		return "", err
	}
	lex := shell.NewLex('\\')
	lex.SkipProcessQuotes = true
	out, _, err := lex.ProcessWord(text, scope)
	return out, bare(err)
}

func bare(err error) error {
	if err == nil {
		return nil
	}
	return invalid("%w", err)
}

// affordable refuses a word whose variables could grow beyond all measure: each
// of them may hold several of those before it.
func affordable(word string, scope *vars) error {
	most := int64(strings.Count(word, "$")) * int64(scope.longest())
	if strings.Contains(word, "${") && strings.Contains(word, "/") {
		most *= int64(len(word)) // ${name//pattern/replacement}
	}
	if most+int64(len(word)) > maxWord {
		return invalid("its variables would make a word of more than %d MiB of it", maxWord>>20)
	}
	return nil
}

// merge sets NAME=value pairs in a list of them; an old value is replaced in its place.
func merge(env []string, name, value string) []string {
	env = slices.Clone(env)
	for i, kv := range env {
		if old, _, _ := strings.Cut(kv, "="); old == name {
			env[i] = name + "=" + value
			return env
		}
	}
	return append(env, name+"="+value)
}
