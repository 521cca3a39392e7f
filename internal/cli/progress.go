package cli

import (
	"fmt"
	"time"

	"banger"
)

// redraw is the shortest time between two states of the progress line.
const redraw = 100 * time.Millisecond

// progress shows long work on a terminal, as one line that is drawn anew; the
// returned function takes the line away. News is told as lines of its own,
// also where there is no terminal.
func (c *CLI) progress() (show func(banger.Progress), done func()) {
	line := isTerminal(c.Stderr) && c.Getenv("TERM") != "dumb" && c.Getenv("CI") == ""
	var last time.Time
	var step string
	show = func(p banger.Progress) {
		now := time.Now()
		switch {
		case p.Output && line:
			fmt.Fprintf(c.Stderr, "\r\x1b[K%s\n", visible(p.Step))
		case p.Output:
			fmt.Fprintln(c.Stderr, visible(p.Step))
		case p.Notice && line:
			fmt.Fprintf(c.Stderr, "\r\x1b[Kbanger: %s\n", visible(p.Step))
		case p.Notice:
			fmt.Fprintf(c.Stderr, "banger: %s\n", visible(p.Step))
		case line && (p.Step != step || now.Sub(last) >= redraw || p.Done == p.Total):
			last, step = now, p.Step
			fmt.Fprintf(c.Stderr, "\r\x1b[K%s", clip(visible(describe(p))))
		}
	}
	return show, func() {
		if line {
			fmt.Fprint(c.Stderr, "\r\x1b[K")
		}
	}
}

func describe(p banger.Progress) string {
	switch {
	case p.Total > 0:
		return fmt.Sprintf("%s  %s of %s", p.Step, size(p.Done), size(p.Total))
	case p.Done > 0:
		return p.Step + "  " + size(p.Done)
	}
	return p.Step
}

// clip keeps a line from wrapping, which could not be taken away again.
func clip(line string) string {
	const width = 78
	if r := []rune(line); len(r) > width {
		return string(r[:width-1]) + "…"
	}
	return line
}
