package vmm

import (
	"bytes"
	"fmt"
	"os"
	"strconv"

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
