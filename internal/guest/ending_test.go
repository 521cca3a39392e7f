package guest

import (
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"
)

func TestAwaitProcess(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	others := otherProcesses("/proc")
	if !slices.Contains(others, pid) || slices.Contains(others, os.Getpid()) || slices.Contains(others, 1) {
		t.Errorf("pid %d, others %v", pid, others)
	}
	if awaitProcess(pid, time.Now()) {
		t.Error("a process that runs has ended")
	}
	killed := 0
	endOthers([]int{pid}, 0, func() { killed++ })
	if killed != 1 {
		t.Errorf("a process that stays was killed %d times", killed)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if !awaitProcess(pid, time.Now().Add(time.Minute)) {
		t.Error("a process that was killed has not ended")
	}
	_ = cmd.Wait()
	if !awaitProcess(pid, time.Now()) {
		t.Error("a process that is gone has not ended")
	}
	endOthers([]int{pid}, time.Minute, func() { t.Error("there is nobody to kill") })
}
