package vmm

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"

	"banger"
)

// ProcessOf names the running process pid for good, by its start time.
// Format: proc(5), /proc/PID/stat; a pid that is not in use is a NotFound.
func ProcessOf(pid int) (banger.Process, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		// A process that ends during the read gives ESRCH, not ENOENT.
		return banger.Process{}, banger.Errorf(banger.NotFound, "read start time of process %d: %w", pid, err)
	}
	start, err := startTime(b)
	if err != nil {
		return banger.Process{}, fmt.Errorf("read start time of process %d: %w", pid, err)
	}
	return banger.Process{PID: pid, StartTime: start}, nil
}

// userHZ is the unit of times in /proc/PID/stat. The kernel's own tick may be
// another one, this is not: it is 100 for every architecture that banger has.
const userHZ = 100

// CPUTime is the processor time that a process has used, 0 if it is gone.
// Format: proc(5), fields 14 and 15 of /proc/PID/stat.
func CPUTime(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	const utime, stime = 14 - 3, 15 - 3 // field 3 is the first after the name
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) <= stime {
		return 0
	}
	user, _ := strconv.ParseInt(string(fields[utime]), 10, 64)
	system, _ := strconv.ParseInt(string(fields[stime]), 10, 64)
	return time.Duration(user+system) * time.Second / userHZ
}

// startTime takes field 22 out of a stat line. Field 2 is the program's name in
// parentheses and may itself hold spaces and parentheses: the last one counts.
func startTime(stat []byte) (uint64, error) {
	const after = 22 - 3 // field 3 is the first after the name
	i := bytes.LastIndexByte(stat, ')')
	fields := bytes.Fields(stat[i+1:])
	if i < 0 || len(fields) <= after {
		return 0, fmt.Errorf("parse stat line %q", stat)
	}
	return strconv.ParseUint(string(fields[after]), 10, 64)
}
