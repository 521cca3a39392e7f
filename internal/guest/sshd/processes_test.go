package sshd

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/hello"
)

func TestListProcesses(t *testing.T) {
	t.Parallel()
	proc := t.TempDir()
	for path, text := range map[string]string{
		"1/stat":     "1 (a) b) (c) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 0 0 20 0 3 0 25 1000 7 184 0\n",
		"1/cmdline":  "/sbin/init\x00two words\x00",
		"2/stat":     "2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 100 0 0 0 20 0 1 0 25 0 0 184 0\n",
		"2/cmdline":  "",
		"9/stat":     "9 (bad", // it ended while it was read
		"77/cmdline": "no stat",
		"meminfo":    "MemTotal:  100 kB\nMemFree: 1 kB\nMemAvailable:   40 kB\n",
		"loadavg":    "0.50 1.25 3.00 1/2 3\n",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(proc, path)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(proc, path), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all, err := listProcesses(proc, func(string) string { return "me" })
	if err != nil || all.Total != 2 || len(all.List) != 2 {
		t.Fatalf("%+v, %v", all, err)
	}
	page := int64(os.Getpagesize())
	want := []hello.Process{
		{PID: 2, User: "me", State: "S", Kernel: true, Threads: 1, CPUMS: 1000, Command: "[kthreadd]"},
		{PID: 1, User: "me", State: "S", Threads: 3, CPUMS: 110, RSS: 7 * page, Command: "/sbin/init two words"},
	}
	for i := range want {
		if all.List[i] != want[i] {
			t.Errorf("got %+v\nwant %+v", all.List[i], want[i])
		}
	}
	if all.MemTotal != 100<<10 || all.MemAvailable != 40<<10 || all.Load != [3]float64{0.5, 1.25, 3} {
		t.Errorf("%+v", all)
	}
}

// A guest with very many processes tells of those that matter most.
func TestFitProcesses(t *testing.T) {
	t.Parallel()
	all := hello.Processes{Total: 5000}
	for i := range 5000 {
		all.List = append(all.List, hello.Process{PID: i, Command: strings.Repeat("\x01", maxCommand)})
	}
	b, err := fitProcesses(all)
	var got hello.Processes
	if err != nil || len(b) > hello.MaxProcesses || json.Unmarshal(b, &got) != nil {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	if len(got.List) < 20 || got.List[0].PID != 0 || got.Total != 5000 {
		t.Errorf("%d processes of %d, the first is %d", len(got.List), got.Total, got.List[0].PID)
	}
}
