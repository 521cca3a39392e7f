package hello

// ProcessesSubsystem answers one line of JSON, a Processes.
const ProcessesSubsystem = "processes@banger"

// MaxProcesses bounds a Processes in JSON, in bytes: the busiest are told of.
const MaxProcesses = 56 << 10

// Processes is what runs in a guest at one moment, and what the guest has for it.
type Processes struct {
	UptimeMS     int64      `json:"uptime_ms"`
	CPUs         int        `json:"cpus"`
	MemTotal     int64      `json:"mem_total"` // bytes
	MemAvailable int64      `json:"mem_available"`
	Load         [3]float64 `json:"load"`  // processes that want to run, over 1, 5 and 15 minutes
	Total        int        `json:"total"` // processes there are; List may have fewer
	List         []Process  `json:"processes"`
}

// Process is one process of a guest.
type Process struct {
	PID     int    `json:"pid"`
	PPID    int    `json:"ppid"`
	User    string `json:"user"`             // by name, else by number
	State   string `json:"state"`            // the letter of proc(5)
	Kernel  bool   `json:"kernel,omitempty"` // it is one of the kernel's own threads
	Threads int    `json:"threads"`
	CPUMS   int64  `json:"cpu_ms"` // processor time that it has used
	RSS     int64  `json:"rss"`    // bytes
	Command string `json:"command"`
}
