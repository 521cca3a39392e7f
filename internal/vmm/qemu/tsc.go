package qemu

import (
	"fmt"
	"math"
	"time"

	"golang.org/x/sys/unix"
)

// tscWindow is how long the TSC is compared with the clock: 5 ms give its rate
// to about 3 ppm, ten times better than the kernel's own early guess.
const tscWindow = 5 * time.Millisecond

// The rates that a TSC of a real CPU can have, in kHz.
const (
	minTSC = 100_000
	maxTSC = 10_000_000
)

// measureTSC gives the rate of this host's time stamp counter in kHz, 0 on a CPU
// without one. A guest under TCG reads the host's counter plus an offset, so it
// is the guest's rate as well.
func measureTSC() (int, error) {
	if !haveTSC {
		return 0, nil
	}
	tsc0, ns0, err := tscPair()
	if err != nil {
		return 0, err
	}
	time.Sleep(tscWindow) // the measurement itself; any longer time is as good
	tsc1, ns1, err := tscPair()
	if err != nil {
		return 0, err
	}
	khz := math.Round(float64(tsc1-tsc0) / float64(ns1-ns0) * 1e6)
	if khz < minTSC || khz > maxTSC {
		return 0, fmt.Errorf("measure TSC: %.0f kHz is not the rate of a CPU", khz)
	}
	return int(khz), nil
}

// tscPair reads the counter and the clock at the same moment: of many tries the
// tightest, for an interrupt may come between the two.
func tscPair() (tsc uint64, ns int64, err error) {
	best := uint64(math.MaxUint64)
	for range 50 {
		var ts unix.Timespec
		before := rdtsc()
		// RAW is not bent by NTP, as the counter is not.
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_RAW, &ts); err != nil {
			return 0, 0, fmt.Errorf("read clock: %w", err)
		}
		after := rdtsc()
		if after-before < best {
			best, tsc, ns = after-before, before+(after-before)/2, ts.Nano()
		}
	}
	return tsc, ns, nil
}
