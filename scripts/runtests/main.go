// Command runtests runs the tests of banger and ends with one line of counts.
//
// It reads `go test -json`, prints a line per package, the output of what
// failed and the reason of what was skipped, and exits 1 unless every package
// was built, every test ended well and at least one test passed.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
)

// suites are the go test arguments of each suite.
var suites = map[string][]string{
	"unit": {"-race", "./..."},
	// One package at a time: each boots VMs of its own. -count=1: Go's cache of
	// results cannot know that bin/banger, a kernel or an image has changed.
	"e2e": {"-tags", "e2e", "-count=1", "-p=1", "-timeout=60m", "./internal/e2e/...", "./internal/vmm/..."},
}

func main() {
	pattern := flag.String("run", "", "run only the tests whose name matches this")
	verbose := flag.Bool("v", false, "print the output of all tests as it comes")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: runtests [-run REGEXP] [-v] unit|e2e...")
		flag.PrintDefaults()
	}
	flag.Parse()
	// Ctrl-C reaches go test as well, which then ends by itself; its last words
	// are still wanted. (Ignoring the signal would make the tests ignore it too.)
	signal.Notify(make(chan os.Signal, 1), os.Interrupt)

	t := &tally{out: os.Stdout, verbose: *verbose}
	for _, name := range flag.Args() {
		args, ok := suites[name]
		if !ok {
			fmt.Fprintf(os.Stderr, "runtests: there is no suite %q; there are unit and e2e\n", name)
			os.Exit(2)
		}
		if *pattern != "" {
			args = append([]string{"-run", *pattern}, args...)
		}
		fmt.Printf("== %s tests\n", name)
		if err := run(args, t); err != nil {
			t.problem(fmt.Sprintf("%s tests: %v", name, err))
		}
	}
	fmt.Println(t.summary())
	if !t.ok() {
		os.Exit(1)
	}
}

// run runs go test with the arguments and counts its events into t. A test
// that failed is in t; the error is of anything else.
func run(args []string, t *tally) error {
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("run go test: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run go test: %w", err)
	}
	before := t.failed
	readErr := t.read(stdout)
	// Whatever is left must be drained, or go test would never end.
	_, _ = io.Copy(io.Discard, stdout)
	if err := cmd.Wait(); err != nil && t.failed == before {
		return fmt.Errorf("go test: %w", err)
	}
	return readErr
}
