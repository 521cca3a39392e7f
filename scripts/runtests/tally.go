package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// event is one line of go test -json. Source: go doc test2json, and for the
// build events go help buildjson.
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build events
	Test        string
	Output      string
	Elapsed     float64 // seconds
	FailedBuild string  // import path of the package whose build failed
}

// tally counts tests and prints what a person wants to see of them.
type tally struct {
	out     io.Writer
	verbose bool

	passed, failed, skipped int

	output map[string]*strings.Builder // of tests, packages and builds that still run
	fails  map[string]int              // failed tests of each package that still runs
}

// read counts the events of one go test -json.
func (t *tally) read(r io.Reader) error {
	t.output, t.fails = map[string]*strings.Builder{}, map[string]int{}
	br := bufio.NewReader(r)
	for {
		line, err := br.ReadBytes('\n')
		var e event
		if len(line) > 0 && json.Unmarshal(line, &e) == nil && e.Action != "" {
			t.add(e)
		} else {
			// Something other than go test wrote to its output.
			fmt.Fprintf(t.out, "%s", line)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read go test: %w", err)
		}
	}
}

// add counts one event.
func (t *tally) add(e event) {
	key := e.Package + "\x00" + e.Test
	switch e.Action {
	case "output":
		if t.verbose {
			fmt.Fprint(t.out, e.Output)
		}
		t.keep(key, e.Output)
	case "build-output":
		t.keep("build\x00"+e.ImportPath, e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			t.endPackage(e, key)
		} else {
			t.endTest(e, key)
		}
	}
}

// endTest counts a test that ended. The output of a passed one is dropped.
func (t *tally) endTest(e event, key string) {
	output := t.take(key)
	switch e.Action {
	case "pass":
		t.passed++
	case "skip":
		t.skipped++
		fmt.Fprintf(t.out, "skip  %s %s: %s\n", e.Package, e.Test, reason(output))
	case "fail":
		t.failed++
		t.fails[e.Package]++
		fmt.Fprintf(t.out, "FAIL  %s %s\n", e.Package, e.Test)
		t.show(output)
	}
}

// endPackage prints a package that ended. One that failed without a failed
// test (it was not built, it panicked, it ran out of time) counts as one.
func (t *tally) endPackage(e event, key string) {
	output := t.take(key)
	switch {
	case e.Action == "pass":
		fmt.Fprintf(t.out, "ok    %s %.1fs\n", e.Package, e.Elapsed)
	case e.Action == "fail" && t.fails[e.Package] > 0:
		fmt.Fprintf(t.out, "FAIL  %s: %d tests in %.1fs\n", e.Package, t.fails[e.Package], e.Elapsed)
	case e.Action == "fail":
		t.failed++
		fmt.Fprintf(t.out, "FAIL  %s\n", e.Package)
		t.show(t.take("build\x00" + e.FailedBuild))
		t.show(output)
		t.showUnfinished(e.Package)
	}
	// The rest are packages without tests: nothing to say.
}

// showUnfinished prints the output of the tests that were still running when
// their package ended.
func (t *tally) showUnfinished(pkg string) {
	for key := range t.output {
		if test, ok := strings.CutPrefix(key, pkg+"\x00"); ok && test != "" {
			fmt.Fprintf(t.out, "did not end: %s\n", test)
			t.show(t.take(key))
		}
	}
}

// problem counts a failure that no test reported.
func (t *tally) problem(text string) {
	t.failed++
	fmt.Fprintf(t.out, "FAIL  %s\n", text)
}

// show prints output, unless it was printed as it came.
func (t *tally) show(output string) {
	if !t.verbose {
		fmt.Fprint(t.out, output)
	}
}

func (t *tally) keep(key, output string) {
	b := t.output[key]
	if b == nil {
		b = &strings.Builder{}
		t.output[key] = b
	}
	b.WriteString(output)
}

func (t *tally) take(key string) string {
	b := t.output[key]
	if b == nil {
		return ""
	}
	delete(t.output, key)
	return b.String()
}

// ok reports whether all went well. A run in which nothing passed did not.
func (t *tally) ok() bool { return t.failed == 0 && t.passed > 0 }

// summary is the closing line.
func (t *tally) summary() string {
	s := fmt.Sprintf("%d passed, %d failed", t.passed, t.failed)
	if t.skipped > 0 {
		s += fmt.Sprintf(", %d skipped", t.skipped)
	}
	return s
}

// reason is what a skipped test said: the lines that are not of the go command,
// without the file name and line number before the first.
func reason(output string) string {
	var words []string
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "=== ") || strings.HasPrefix(line, "--- ") {
			continue
		}
		if _, said, ok := strings.Cut(line, ".go:"); ok && len(words) == 0 {
			if _, after, ok := strings.Cut(said, ": "); ok {
				line = after
			}
		}
		words = append(words, line)
	}
	if len(words) == 0 {
		return "no reason given"
	}
	return strings.Join(words, " ")
}
