package qemu

import (
	"context"
	"regexp"
	"strings"
)

// Look reads the registers as QEMU prints them for people: QMP has no other way.
func (m *machine) Look(ctx context.Context) (string, error) {
	var text string
	err := m.qmp.executeWith(ctx, "human-monitor-command", map[string]any{"command-line": "info registers -a"}, &text)
	return describe(text), err
}

// describe puts the output of "info registers -a" of an x86 machine into a line.
func describe(registers string) string {
	field := func(text, pattern string) string {
		if m := regexp.MustCompile(pattern).FindStringSubmatch(text); m != nil {
			return m[1]
		}
		return ""
	}
	var words []string
	for _, cpu := range strings.Split(registers, "CPU#")[1:] {
		word := "CPU " + field(cpu, `^(\d+)`)
		switch {
		case field(cpu, `\bHLT=(1)`) != "":
			word += " is idle"
		case field(cpu, `\bCPL=(3)`) != "":
			word += " runs a program"
		default:
			word += " runs the kernel at " + field(cpu, `\b[RE]IP=([0-9a-f]+)`)
		}
		words = append(words, word)
	}
	return strings.Join(words, ", ")
}
