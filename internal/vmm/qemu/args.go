package qemu

import (
	"fmt"
	"strings"

	"banger"
	"banger/internal/vmm"
)

// The file descriptors that QEMU inherits besides 0, 1 and 2, in the order of
// exec.Cmd.ExtraFiles: listening sockets, so that nobody waits for them to appear.
const (
	qmpFD   = 3
	agentFD = 4
)

// maxDisks leaves room for the network card, the agent port and the random
// source among the 24 virtio-mmio transports of microvm with acpi=on.
const maxDisks = 20

// maxCmdline is COMMAND_LINE_SIZE of x86 without the final zero byte
// (linux/arch/x86/include/asm/setup.h); the kernel would cut the rest off.
const maxCmdline = 2047

// sandbox is QEMU's own seccomp filter. A VMM of ours forks nothing, changes no
// user and no CPU affinity.
const sandbox = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

// launch is how one Spec is run: what the driver found out about this host.
type launch struct {
	accel   string // kvm or tcg
	tscKHz  int    // of the host, only for tcg
	sandbox bool   // this QEMU was built with seccomp
}

// Every word of the kernel's command line that the driver adds. Measured with
// Linux 6.1 (Debian cloud and own) on QEMU 7.2; times are of the boot as a whole.
//
//	console=ttyS0      the only console that shows an early panic; with quiet as fast as hvc0
//	reboot=t           triple fault: ends QEMU 10 ms after the call, in every ACPI mode
//	                   (the default tries the keyboard controller, absent here: 1.5 s)
//	panic=-1           reboot at once on a panic, so that it ends the machine
//	quiet              no chatter; warnings and the panic still come
//	noreplace-smp      keep the lock prefixes: patching 8192 of them costs 0.1 s under tcg
//	pci=off            microvm has no PCI bus; the kernel would print an error about it
//	tsc=reliable       tcg: else the clock watchdog throws the TSC out, which leaves 10 ms
//	                   timers or, with pit=off, no timer and a hang
//	tsc_early_khz=N    tcg: no PIT, HPET or PM timer to measure the TSC with; without the
//	                   number the boot hangs after "tsc: Marking TSC unstable". Under kvm
//	                   kvm-clock gives all this.
//	clearcpuid=141     tcg: the kernel does without cmpxchg16b (X86_FEATURE_CX16 of
//	                   linux/arch/x86/include/asm/cpufeatures.h; names are read only since
//	                   5.19). QEMU 7.2 leaves the flags undefined after it, all but ZF; an
//	                   interrupt right there saves them, with VM and NT among them, and the
//	                   return is a double fault. Linux 6.12's allocator is compiled so that
//	                   it happens in some builds at every boot, in others never. It
//	                   costs nothing that can be measured; programs still see the feature.
//
// Not there: random.trust_cpu=on (Debian's kernel has CONFIG_RANDOM_TRUST_CPU=y,
// and the virtio random source feeds the rest), nolapic_timer and no_timer_check
// (they need acpi=off, which a kernel with virtio-mmio as a module cannot use).
func (l launch) kernelWords() []string {
	words := []string{"console=ttyS0", "reboot=t", "panic=-1", "quiet", "noreplace-smp", "pci=off"}
	if l.accel == vmm.AccelTCG && l.tscKHz != 0 {
		words = append(words, "tsc=reliable", fmt.Sprintf("tsc_early_khz=%d", l.tscKHz))
	}
	if l.accel == vmm.AccelTCG {
		words = append(words, "clearcpuid=141")
	}
	return words
}

// cmdline is the whole command line of the kernel.
func (l launch) cmdline(spec vmm.Spec) string {
	return strings.Join(append(l.kernelWords(), spec.Cmdline...), " ")
}

// args is the whole command line of QEMU after its name.
func (l launch) args(spec vmm.Spec) ([]string, error) {
	if len(spec.Disks) > maxDisks {
		return nil, banger.Errorf(banger.Invalid, "machine with %d disks: QEMU's microvm takes %d", len(spec.Disks), maxDisks)
	}
	cmdline := l.cmdline(spec)
	if len(cmdline) > maxCmdline {
		return nil, banger.Errorf(banger.Invalid, "kernel command line of %d bytes: the kernel takes %d", len(cmdline), maxCmdline)
	}
	cpu := "max" // all that tcg can emulate
	if l.accel == vmm.AccelKVM {
		cpu = "host"
	}
	a := []string{
		"-name", "guest=banger-" + spec.ID,
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-accel", l.accel,
		// acpi=on lists the virtio-mmio devices for kernels whose driver is a module and
		// gives a power button; rtc=off would cost 2.1 s (Linux polls the missing clock).
		"-M", "microvm,acpi=on,pit=off,pic=off,rtc=on,x-option-roms=off",
		"-cpu", cpu, "-smp", fmt.Sprint(spec.CPUs), "-m", fmt.Sprintf("%dM", (spec.Memory+1<<20-1)>>20),
		"-kernel", spec.Kernel,
	}
	if spec.Initrd != "" {
		a = append(a, "-initrd", spec.Initrd)
	}
	a = append(a, "-append", cmdline)
	if l.sandbox {
		a = append(a, "-sandbox", sandbox)
	}
	a = append(a,
		"-chardev", fmt.Sprintf("socket,id=qmp,fd=%d,server=on,wait=off", qmpFD), "-mon", "chardev=qmp,mode=control",
		// signal=off: bytes on stdin (Spec.Keys) are the guest's, never QEMU's.
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		// A panicking guest says so through pvpanic, if it has the driver.
		"-device", "pvpanic")
	for i, d := range spec.Disks {
		a = append(a, diskArgs(i, d)...)
	}
	if spec.Net != nil {
		a = append(a, netArgs(spec.Net)...)
	}
	return append(a,
		// Port 0 is the console's by definition; the default of 31 ports makes the
		// guest set up 64 queues, which costs 0.2 s under tcg.
		"-device", "virtio-serial-device,max_ports=2",
		"-chardev", fmt.Sprintf("socket,id=agent,fd=%d,server=on,wait=off", agentFD),
		"-device", "virtserialport,nr=1,chardev=agent,name="+escape(vmm.AgentPort),
		"-object", "rng-builtin,id=rng", "-device", "virtio-rng-device,rng=rng"), nil
}

// diskNode is what QEMU calls the i-th disk.
func diskNode(i int) string { return fmt.Sprintf("disk%d", i) }

// diskArgs attaches the i-th disk. The format is always said: a guest that
// writes a qcow2 header on its raw disk must not make QEMU open the backing file
// it names. Read-only images are locked only as far as the file system can.
func diskArgs(i int, d vmm.Disk) []string {
	name := diskNode(i)
	node := "driver=raw,node-name=" + name
	if d.ReadOnly {
		node += ",read-only=on,file.driver=file,file.locking=auto"
	} else {
		node += ",read-only=off,discard=unmap,file.driver=file,file.locking=on,file.discard=unmap"
	}
	return []string{
		"-blockdev", node + ",file.filename=" + escape(d.Path),
		"-device", "virtio-blk-device,drive=" + name,
	}
}

// netArgs is QEMU's own user-mode network (libslirp). DHCP offers the same
// address that the guest is told by other means. As resolver QEMU takes any
// address but the host's and the first of DHCP; what reaches its port 53 goes to
// the first nameserver of the host's /etc/resolv.conf, loopback or not. The guest
// also reaches the host's own loopback as the gateway: libslirp can close that,
// QEMU has no option for it.
func netArgs(n *vmm.Net) []string {
	return []string{
		"-netdev", fmt.Sprintf("user,id=net,ipv4=on,net=%v,host=%v,dhcpstart=%v,dns=%v,ipv6=on",
			n.Guest.Masked(), n.Gateway, n.Guest.Addr(), n.DNS),
		"-device", "virtio-net-device,netdev=net,mac=" + n.MAC.String(),
	}
}

// escape doubles the commas of a value inside a QEMU option string, where a
// single one begins the next option. Control characters never get here: see
// vmm.Spec.Validate.
func escape(v string) string { return strings.ReplaceAll(v, ",", ",,") }
