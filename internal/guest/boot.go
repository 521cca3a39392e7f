package guest

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guest/sshd"
	"banger/internal/hello"
)

// Boot is pid 1 from the kernel's start to the machine's own init. The kernel
// may have started it from an initramfs that holds the drivers (/init,
// /modules/NN-name.ko) or directly from the boot disk (root=/dev/vda ro
// init=/banger-guest), and so may an initrd of somebody else. All go the same
// way, which ends in another program, or, with the reason on the console and at
// the host, in a machine that is off.
func Boot() {
	b := &boot{}
	b.tellSlow()
	defer func() {
		// A fault of ours must not end in a kernel panic, which hides it.
		if r := recover(); r != nil {
			debug.PrintStack()
			b.fail(fmt.Errorf("panic: %v", r))
		}
	}()
	b.fail(b.run())
}

// boot is what the steps of one boot have found out.
type boot struct {
	asked chan answer      // the host's answer to step 3, once
	host  *sshd.VirtioPort // from step 3 on, until the agent needs it
	own   *os.File         // the machine's own file system, from step 5 on

	step atomic.Int32 // of run
	told atomic.Bool  // the host has answered
	slow *time.Timer  // says where a boot stays
}

// slowBoot is when a boot that is not over says where it is: the console is all
// that tells of one that hangs.
const slowBoot = 30 * time.Second

// tellSlow puts on the console how far the boot has come, should it take long.
func (b *boot) tellSlow() {
	b.slow = time.AfterFunc(slowBoot, func() {
		say("the boot takes long: it has come to step %d; the host has answered: %v", b.step.Load(), b.told.Load())
	})
}

type answer struct {
	cfg hello.Config
	err error
}

// run returns only with an error.
func (b *boot) run() error {
	// 1. What the kernel shows of itself and of its devices.
	if err := mountAll(kernelMounts); err != nil {
		return err
	}
	flat, err := isFlat("/proc/cmdline")
	if err != nil {
		return err
	}
	// 2. Drivers, where they are not built in.
	b.step.Store(2)
	if err := loadModules("/modules"); err != nil {
		return err
	}
	// 3. Hello to the host. It answers while the next steps are under way. An
	// initrd of somebody else brings the drivers of the disks; that of the port
	// may still lie in the image.
	if !flat || portFound() {
		if err := b.sayHello(); err != nil {
			return err
		}
	}
	// 4. Wait for the disks.
	b.step.Store(4)
	if err := awaitDisks(imageDisk, ownDisk); err != nil {
		return err
	}
	// 5. The root: the image, with what this machine has changed.
	b.step.Store(5)
	if b.own, err = mountRoot(flat); err != nil {
		return err
	}
	// 6. Leave the boot's root, and free what it holds.
	if err := switchRoot(); err != nil {
		return err
	}
	// 7. The mounts of every machine.
	if err := mountAll(machineMounts); err != nil {
		return err
	}
	if err := makeTmp(); err != nil {
		return err
	}
	if flat {
		loadFromImage()
	}
	if b.host == nil {
		if err := b.sayHello(); err != nil {
			return err
		}
	}
	// 8. What the host gives it, and who it is.
	b.step.Store(8)
	a := <-b.asked
	if a.err != nil {
		return a.err
	}
	cfg := a.cfg
	if err := b.writeGiven(cfg.Files); err != nil {
		return err
	}
	if err := applyIdentity(cfg); err != nil {
		return err
	}
	// 9. This program, and the modules that the kernel may ask for.
	if err := offerOurs(cfg.Modules); err != nil {
		return err
	}
	// 10. Its network.
	b.step.Store(10)
	if err := applyNet(cfg.Net); err != nil {
		return err
	}
	// 11. Hand over to the init.
	b.step.Store(11)
	return b.handOver(cfg, flat)
}

// offerOurs mounts what banger adds to every machine.
func offerOurs(modules bool) error {
	if err := mountBootDisk(); err != nil {
		return err
	}
	if modules {
		return offerModules()
	}
	return nil
}

// handOver ends the boot in the machine's init. It returns only with an error.
func (b *boot) handOver(cfg hello.Config, flat bool) error {
	if cfg.Init == initProvision {
		b.slow.Stop() // it says itself what it does
		if err := newFirstBoot().run(context.Background()); err != nil {
			return err
		}
	}
	systemd, err := chooseInit("/", cfg.Init)
	if err != nil {
		return err
	}
	_, openRC := resolve("/", openRCProgram)
	openRC = openRC && systemd == "" && cfg.Init == initProvision
	if (systemd != "" || openRC) && !flat {
		if err := b.showOwn(); err != nil {
			return err
		}
	}
	if systemd != "" {
		if err := prepareSystemd(cfg); err != nil {
			return err
		}
		return execInit(systemd) // which closes the port
	}
	if openRC {
		return execInit(openRCInit)
	}
	if err := mountAll(ownMounts); err != nil {
		return err
	}
	if err := b.host.Close(); err != nil {
		return fmt.Errorf("leave the port to the agent: %w", err)
	}
	b.slow.Stop()
	runInit(b.own)
	return nil
}

// sayHello opens the port to the host and asks for the configuration.
func (b *boot) sayHello() error {
	port, err := openPort()
	if err != nil {
		return err
	}
	b.host, b.asked = port, make(chan answer, 1)
	go func() {
		// Nothing bounds the wait: a machine without a host has nothing to do.
		cfg, _, err := sshd.Ask(context.Background(), port, hello.Boot)
		b.told.Store(err == nil)
		b.asked <- answer{cfg, err}
	}()
	return nil
}

// fail ends a boot that cannot go on. The kernel would panic if pid 1 ended.
func (b *boot) fail(err error) {
	say("%v", err)
	if b.host != nil {
		// Best effort: the console has it as well.
		_ = hello.Fail(b.host, err.Error())
	}
	unix.Sync()
	endMachine(unix.LINUX_REBOOT_CMD_POWER_OFF)
}
