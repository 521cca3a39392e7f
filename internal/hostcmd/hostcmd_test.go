package hostcmd

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"banger"
)

func TestRunKeepsTheTailOfAnError(t *testing.T) {
	err := Run(t.Context(), Cmd{Path: "sh", Args: []string{"-c", "echo first; echo 'it''s over' >&2; exit 3"}})
	if err == nil || ExitCode(err) != 3 {
		t.Fatalf("%v, code %d", err, ExitCode(err))
	}
	if !strings.Contains(err.Error(), "its over") || !strings.Contains(err.Error(), "run sh -c 'echo first") {
		t.Error(err)
	}
}

func TestOutput(t *testing.T) {
	b, err := Output(t.Context(), Cmd{Path: "tr", Args: []string{"a-z", "A-Z"}, Stdin: strings.NewReader("hi")})
	if err != nil || string(b) != "HI" {
		t.Fatalf("%q, %v", b, err)
	}
}

func TestLookHintsThePackage(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := Look("qemu-system-x86_64")
	if e := banger.AsError(err); e.Kind != banger.Unavailable || !strings.Contains(e.Hint, "apt-get install") {
		t.Errorf("%+v", e)
	}
}

// TestCancelLeavesNoGrandchild starts a shell whose child ignores SIGTERM.
func TestCancelLeavesNoGrandchild(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	out := &firstLine{done: func() { cancel(errors.New("enough")) }}
	err := Run(ctx, Cmd{Path: "sh", Args: []string{"-c", `sh -c 'trap "" TERM; echo $$; while :; do sleep 1; done' & wait`}, Stdout: out})
	if err == nil || !strings.Contains(err.Error(), "enough") {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(out.b.String()))
	if err != nil {
		t.Fatal(err)
	}
	// A kill is carried out when its target is next scheduled.
	for range 500 {
		if zombie(pid) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("process %d is still there", pid)
}

// zombie reports whether the process is gone or waits for its parent to notice.
func zombie(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || bytes.Contains(b, []byte(") Z "))
}

// firstLine calls done once something was written. It must not be an
// io.ReaderFrom, which a bytes.Buffer in it would make of it.
type firstLine struct {
	b    bytes.Buffer
	done func()
}

func (f *firstLine) Write(p []byte) (int, error) {
	defer f.done()
	return f.b.Write(p)
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{"": "''", "a-b_c/d.e": "a-b_c/d.e", "a b": "'a b'", "it's": `'it'\''s'`, "$x": "'$x'"} {
		if got := Quote(in); got != want {
			t.Errorf("Quote(%q) = %s, want %s", in, got, want)
		}
	}
}
