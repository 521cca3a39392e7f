package qemu

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"banger"
	"banger/internal/vmm"
)

// host is where the driver looks for hardware virtualisation.
type host struct {
	arch    string // as runtime.GOARCH
	cpuinfo string // /proc/cpuinfo
	kvm     string // /dev/kvm
}

// choice is one accelerator to try and why.
type choice struct {
	accel, reason string
}

// obstacle is why KVM cannot be used and what the user can do about it.
type obstacle struct {
	reason, hint string
}

// choose lists the accelerators to try, in order. Asking for kvm where it cannot
// work is Unsupported. The second choice's reason is the first one's failure,
// which only the caller will know.
func (h host) choose(accel string) ([]choice, error) {
	if accel == vmm.AccelTCG {
		return []choice{{vmm.AccelTCG, "software emulation was asked for"}}, nil
	}
	ob := h.kvmObstacle()
	switch {
	case ob == nil && accel == vmm.AccelKVM:
		return []choice{{vmm.AccelKVM, "KVM was asked for and works"}}, nil
	case ob == nil:
		return []choice{{vmm.AccelKVM, "KVM works on this host"}, {accel: vmm.AccelTCG}}, nil
	case accel == vmm.AccelKVM:
		return nil, unusable(*ob)
	}
	return []choice{{vmm.AccelTCG, ob.reason}}, nil
}

func unusable(ob obstacle) error {
	return banger.Errorf(banger.Unsupported, "use KVM: %s", ob.reason).WithHint("%s", ob.hint)
}

// kvmObstacle says what is in the way of KVM, nil if nothing is to be seen. A
// /dev/kvm that opens proves little on x86: some clouds show one that runs no
// ordinary guest, so the CPU must show its virtualisation as well.
func (h host) kvmObstacle() *obstacle {
	const software = "use --accel auto or tcg: it works everywhere, only slower"
	if h.arch == "amd64" && !h.cpuFlag("vmx", "svm") {
		return &obstacle{"this CPU shows neither vmx nor svm: hardware virtualisation is off or this is a VM without nesting",
			"switch virtualisation on in the firmware (or nesting for this VM), or " + software}
	}
	f, err := os.OpenFile(h.kvm, os.O_RDWR, 0)
	switch {
	case err == nil:
		_ = f.Close()
		return nil
	case errors.Is(err, fs.ErrPermission):
		return &obstacle{fmt.Sprintf("open %s: permission denied (add yourself to group kvm)", h.kvm),
			"sudo usermod -aG kvm $USER, then log in again"}
	case errors.Is(err, fs.ErrNotExist):
		return &obstacle{fmt.Sprintf("open %s: no such file (the kvm module is not loaded)", h.kvm),
			"sudo modprobe -a kvm_intel kvm_amd, or " + software}
	}
	return &obstacle{err.Error(), software}
}

// cpuFlag reports whether the first flags line of cpuinfo has one of the flags.
func (h host) cpuFlag(flags ...string) bool {
	b, err := os.ReadFile(h.cpuinfo)
	if err != nil {
		return false
	}
	for line := range bytes.Lines(b) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		if string(bytes.TrimSpace(name)) != "flags" {
			continue
		}
		for _, have := range bytes.Fields(value) {
			for _, want := range flags {
				if string(have) == want {
					return true
				}
			}
		}
		return false
	}
	return false
}
