package dockerfile

import (
	"bytes"
	"errors"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"banger"
)

// Dockerfile is a text that was parsed.
type Dockerfile struct {
	Name string // for errors

	escape rune
	stages []instructions.Stage
	meta   []instructions.ArgCommand // the ARGs before the first FROM
}

// Parse parses the text of a Dockerfile. Its errors are Invalid and begin with
// the name and the line.
func Parse(name string, text []byte) (*Dockerfile, error) {
	f := &Dockerfile{Name: name}
	if len(text) > maxText {
		return nil, f.at(0, invalid("longer than %d bytes", maxText))
	}
	if bytes.IndexByte(text, 0) >= 0 {
		return nil, f.at(0, invalid("a NUL byte in it: it is no text"))
	}
	ast, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		return nil, f.wrap(err)
	}
	f.escape = ast.EscapeToken
	if f.stages, f.meta, err = instructions.Parse(ast.AST, nil); err != nil {
		return nil, f.wrap(err)
	}
	if len(f.stages) == 0 {
		return nil, f.at(0, invalid("no FROM in it"))
	}
	steps := 0
	for _, s := range f.stages {
		steps += len(s.Commands)
	}
	if steps > maxSteps {
		return nil, f.at(0, invalid("%d instructions, more than %d", steps, maxSteps))
	}
	return f, nil
}

// wrap makes an error of the parser one of ours: bare, with the line once.
func (f *Dockerfile) wrap(err error) error {
	line := 0
	var located *parser.LocationError
	if errors.As(err, &located) && len(located.Locations) > 0 {
		line = firstLine(located.Locations[0])
	}
	msg := err.Error()
	if rest, ok := strings.CutPrefix(msg, "dockerfile parse error on line "); ok {
		if number, text, ok := strings.Cut(rest, ": "); ok {
			if n, err := strconv.Atoi(number); err == nil {
				line, msg = n, text
			}
		}
	}
	if len(msg) > 1 && msg[1] >= 'a' && msg[1] <= 'z' { // no instruction
		msg = strings.ToLower(msg[:1]) + msg[1:]
	}
	return f.at(line, banger.Errorf(banger.Invalid, "%s", msg))
}

func firstLine(ranges []parser.Range) int {
	if len(ranges) == 0 {
		return 0
	}
	return ranges[0].Start.Line
}

// trigger parses one ONBUILD instruction of a base image.
func (f *Dockerfile) trigger(text string) (instructions.Command, error) {
	ast, err := parser.Parse(strings.NewReader(text))
	if err != nil {
		return nil, err
	}
	if len(ast.AST.Children) != 1 {
		return nil, errors.New("not one instruction")
	}
	return instructions.ParseCommand(ast.AST.Children[0])
}

// oneLine is an instruction for people: without its line breaks, and clipped.
func oneLine(text string) string {
	const most = 200
	first, rest, more := strings.Cut(strings.TrimSpace(text), "\n")
	for more && strings.HasSuffix(strings.TrimSpace(first), "\\") {
		var next string
		next, rest, more = strings.Cut(rest, "\n")
		first = strings.TrimSuffix(strings.TrimSpace(first), "\\") + strings.TrimSpace(next)
	}
	if more {
		first += " ..."
	}
	if r := []rune(first); len(r) > most {
		first = string(r[:most]) + "..."
	}
	return first
}
