package main

import (
	"strings"
	"testing"
)

func TestTally(t *testing.T) {
	tests := []struct {
		name, in string
		summary  string
		ok       bool
		shows    []string
		hides    string
	}{
		{
			name: "a pass is counted and its output is not shown",
			in: `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"chatter\n"}
{"Action":"pass","Package":"p","Test":"TestA","Elapsed":0.1}
{"Action":"pass","Package":"p","Elapsed":0.25}
`,
			summary: "1 passed, 0 failed", ok: true, shows: []string{"ok    p 0.2s"}, hides: "chatter",
		},
		{
			name: "a skip is no pass",
			in: `{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:3: no KVM here\n"}
{"Action":"skip","Package":"p","Test":"TestA"}
{"Action":"skip","Package":"p"}
`,
			summary: "0 passed, 0 failed, 1 skipped", shows: []string{"skip  p TestA: no KVM here"},
		},
		{
			name: "a failed test shows its output and its package is not counted again",
			in: `{"Action":"pass","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Test":"TestA","Output":"got 1, want 2\n"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"fail","Package":"p"}
`,
			summary: "1 passed, 1 failed", shows: []string{"FAIL  p TestA\ngot 1, want 2\n"},
		},
		{
			name: "a package that was not built fails",
			in: `{"Action":"pass","Package":"q","Test":"TestB"}
{"ImportPath":"p [p.test]","Action":"build-output","Output":"p/a.go:1: undefined: x\n"}
{"ImportPath":"p [p.test]","Action":"build-fail"}
{"Action":"output","Package":"p","Output":"FAIL\tp [build failed]\n"}
{"Action":"fail","Package":"p","FailedBuild":"p [p.test]"}
`,
			summary: "1 passed, 1 failed", shows: []string{"undefined: x", "[build failed]"},
		},
		{
			name: "a package that panics or runs out of time shows the tests that did not end",
			in: `{"Action":"pass","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Test":"TestA","Output":"half way\n"}
{"Action":"output","Package":"p","Output":"panic: test timed out\n"}
{"Action":"fail","Package":"p"}
`,
			summary: "1 passed, 1 failed", shows: []string{"panic: test timed out", "did not end: TestA\nhalf way"},
		},
		{
			name:    "nothing run is no success",
			summary: "0 passed, 0 failed",
		},
		{
			name:    "other lines are passed on",
			in:      "go: downloading something\n",
			summary: "0 passed, 0 failed", shows: []string{"go: downloading something\n"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			tally := &tally{out: &out}
			if err := tally.read(strings.NewReader(tt.in)); err != nil {
				t.Fatal(err)
			}
			if got := tally.summary(); got != tt.summary || tally.ok() != tt.ok {
				t.Errorf("got %q, ok %v; want %q, ok %v", got, tally.ok(), tt.summary, tt.ok)
			}
			for _, s := range tt.shows {
				if !strings.Contains(out.String(), s) {
					t.Errorf("does not show %q:\n%s", s, out.String())
				}
			}
			if tt.hides != "" && strings.Contains(out.String(), tt.hides) {
				t.Errorf("shows %q:\n%s", tt.hides, out.String())
			}
		})
	}
}
