package daemon

import (
	"testing"

	"banger"
	"banger/internal/hostmem"
)

func TestStats(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	h.mustCreate("web", false)
	h.mustCreate("off", true)
	all, err := h.client.VMStats(t.Context(), banger.VMStatsRequest{})
	h.must(err)
	if len(all) != 1 || all[0].Name != "web" { // of those that run
		t.Fatalf("got %+v", all)
	}
	rec, s := h.show("web"), all[0]
	rss, _ := hostmem.Resident(rec.Machine.VMM.PID)
	if s.VMMPID != rec.Machine.VMM.PID || s.ShimPID != rec.Machine.Shim.PID || s.RSS == 0 || s.RSS > 2*rss || s.Memory != rec.Spec.Memory ||
		s.DiskSize != rec.Spec.Disk || s.DiskAllocated <= 0 || s.DiskAllocated > s.DiskSize || s.DiskRead != 4096 || s.DiskWritten != 0 || !s.StartedAt.Equal(rec.StartedAt) {
		t.Errorf("got %+v", s)
	}
	// Many askers at once all get an answer.
	errs := make(chan error)
	for range 20 {
		go func() {
			all, err := h.client.VMStats(t.Context(), banger.VMStatsRequest{Names: []string{"off", "web"}})
			if err == nil && (len(all) != 2 || all[0].DiskRead != -1 || all[0].VMMPID != 0 || all[1].DiskRead != 4096) {
				t.Errorf("got %+v", all)
			}
			errs <- err
		}()
	}
	for range 20 {
		h.must(<-errs)
	}
	_, err = h.client.VMStats(t.Context(), banger.VMStatsRequest{Names: []string{"nope"}})
	wantKind(t, err, banger.NotFound)
	h.remove("web")
	h.remove("off")
	h.clean()
}
