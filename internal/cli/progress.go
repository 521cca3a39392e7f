package cli

import (
	"fmt"
	"time"

	"banger"
)

// redraw is the shortest time between two states of the progress line.
const redraw = 100 * time.Millisecond

// progress shows long work on a terminal, as one line that is drawn anew. The
// returned function takes the line away. Without a terminal only new steps
// that end in a word to the user (a source that was passed over) are told.
func (c *CLI) progress() (show func(banger.Progress), done func()) {
	if !isTerminal(c.Stderr) || c.Getenv("TERM") == "dumb" || c.Getenv("CI") != "" {
		return nil, func() {}
	}
	var last time.Time
	var step string
	show = func(p banger.Progress) {
		now := time.Now()
		if p.Step == step && now.Sub(last) < redraw && p.Done != p.Total {
			return
		}
		last, step = now, p.Step
		line := visible(p.Step)
		switch {
		case p.Total > 0:
			line += fmt.Sprintf("  %s of %s", size(p.Done), size(p.Total))
		case p.Done > 0:
			line += "  " + size(p.Done)
		}
		fmt.Fprintf(c.Stderr, "\r\x1b[K%s", clip(line))
	}
	return show, func() { fmt.Fprint(c.Stderr, "\r\x1b[K") }
}

// clip keeps a line from wrapping, which could not be taken away again.
func clip(line string) string {
	const width = 78
	if r := []rune(line); len(r) > width {
		return string(r[:width-1]) + "…"
	}
	return line
}
