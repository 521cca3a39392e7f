package qemu

const haveTSC = true

// rdtsc reads the time stamp counter of this CPU.
func rdtsc() uint64
