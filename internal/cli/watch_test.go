package cli

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"banger"
	"banger/internal/agent"
)

func TestMeasure(t *testing.T) {
	at := time.Date(2026, 11, 23, 20, 0, 0, 0, time.UTC)
	before := []banger.VMStats{{ID: "a", VMMPID: 1, CPUTime: time.Second, Time: at}, {ID: "b", VMMPID: 2, CPUTime: 9 * time.Second, Time: at}}
	now := []banger.VMStats{
		{ID: "a", Name: "web", State: banger.Running, VMMPID: 1, CPUTime: 2500 * time.Millisecond, Time: at.Add(time.Second), Memory: 64 << 20, RSS: 150 << 20,
			DiskSize: 10 << 30, DiskAllocated: 1 << 20, DiskRead: 2 << 20, DiskWritten: -1, StartedAt: time.Now(), Restarts: 3},
		{ID: "b", Name: "db", State: banger.Starting, VMMPID: 7, CPUTime: time.Second, Time: at.Add(time.Second)}, // another machine
	}
	c, out, _ := newCLI(t)
	if err := c.printStats(measure(before, now)); err != nil {
		t.Fatal(err)
	}
	want := "web running 150.0 64 MiB 150 MiB 1 MiB of 10 GiB 2 MiB - 0s 3 1"
	lines := strings.Split(out.String(), "\n")
	if len(lines) != 4 || strings.Join(strings.Fields(lines[1]), " ") != want || !strings.HasPrefix(strings.Join(strings.Fields(lines[2]), " "), "db starting 0.0 ") {
		t.Errorf("got\n%s", out)
	}
	c.json = true
	out.Reset()
	var got []map[string]any
	if err := c.printStats(measure(before, now)); err != nil || json.Unmarshal(out.Bytes(), &got) != nil || got[0]["cpu_percent"] != 150.0 || got[0]["rss"] != 150.0*(1<<20) {
		t.Errorf("got %s", out)
	}
}

func TestBusiest(t *testing.T) {
	before := agent.Processes{UptimeMS: 1000, List: []agent.Process{{PID: 1, CPUMS: 900}, {PID: 5, CPUMS: 10}}}
	now := agent.Processes{UptimeMS: 3000, List: []agent.Process{
		{PID: 1, CPUMS: 900, Command: "init"}, {PID: 2, CPUMS: 2000, Kernel: true}, {PID: 5, CPUMS: 1010, Command: "busy"}, {PID: 6, CPUMS: 200, Command: "new"},
	}}
	var got []string
	for _, p := range busiest(before, now, false) {
		got = append(got, p.Command+" "+percentText(p.CPUPercent))
	}
	if want := "busy 50.0, new 10.0, init 0.0"; strings.Join(got, ", ") != want {
		t.Errorf("got %s, want %s", strings.Join(got, ", "), want)
	}
	if all := busiest(before, now, true); len(all) != 4 || all[0].PID != 2 {
		t.Errorf("with the kernel's threads: %+v", all)
	}
	c, out, _ := newCLI(t)
	c.json = true
	if err := c.printTop(before, now, false); err != nil || strings.Count(out.String(), `"processes"`) != 1 || !strings.Contains(out.String(), `"cpu_percent": 50`) {
		t.Errorf("got %s, %v", out, err)
	}
}

// Where nobody watches, two looks are made and one answer is given.
func TestWatchedOnce(t *testing.T) {
	c, _, _ := newCLI(t)
	looks, shown := 0, 0
	look := func() (int, error) { looks++; return looks, nil }
	err := watched(c, t.Context(), watch{interval: time.Millisecond}, look, func(before, now int) error {
		if shown++; before != 1 || now != 2 {
			t.Errorf("shown %d, %d", before, now)
		}
		return nil
	})
	if err != nil || shown != 1 || looks != 2 {
		t.Errorf("%d looks, shown %d times, %v", looks, shown, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := watched(c, ctx, watch{interval: time.Hour}, look, nil); err == nil {
		t.Error("an interrupt is no error")
	}
}
