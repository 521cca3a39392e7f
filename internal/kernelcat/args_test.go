package kernelcat

import (
	"slices"
	"strings"
	"testing"

	"banger"
)

func TestValidateArgs(t *testing.T) {
	long := func(n int) string { return "a=" + strings.Repeat("x", n-2) }
	for _, good := range [][]string{
		nil,
		{"ignore_loglevel", "debug", "quiet", "loglevel=7", "mitigations=off", "systemd.log_level=debug", "systemd.unit=rescue.target", "S", "1"},
		{"isolcpus=nohz,domain,1-3", "trace_event=sched:*", "memmap=64M$0x18000000", "sysctl.net/ipv4/ip_forward=1", "panic_on_warn=1", "rd.shell=0"},
		{"systemd.setenv=A=b", "empty=", "module-name.option=!~^[](){}|<>&;%+@#", "ip_set.max_sets=1", "consoleblank=0"},
		slices.Repeat([]string{"a"}, MaxArgs),
		{long(MaxArgBytes), long(MaxArgBytes), long(MaxArgBytes), long(MaxArgBytes), long(MaxArgBytes), long(MaxArgsSize - 5*(MaxArgBytes+1) - 1)},
	} {
		if err := ValidateArgs(good); err != nil {
			t.Errorf("%.200q: %v", good, err)
		}
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{""}, "no name"},
		{[]string{"=x"}, "no name"},
		{[]string{"a b"}, "its name may have"},
		{[]string{"a=b c"}, "its value may have"},
		{[]string{"a=b\nroot=/dev/vdb"}, "its value may have"},
		{[]string{"a=\x00"}, "its value may have"},
		{[]string{"a=\x7f"}, "its value may have"},
		{[]string{"a=ä"}, "its value may have"},
		{[]string{`a="b`}, "its value may have"},
		{[]string{"a='"}, "its value may have"},
		{[]string{`a=\`}, "its value may have"},
		{[]string{"a=`id`"}, "its value may have"},
		{[]string{`"root=x"`}, "its name may have"},
		{[]string{"a\xff"}, "its name may have"},
		{[]string{"--"}, `starts with "-"`},
		{[]string{"-x=1"}, `starts with "-"`},
		{[]string{".x"}, `starts with "."`},
		{[]string{"quiet", "root=/dev/vdb"}, "boot disk"},
		{[]string{"rw"}, "boot disk"},
		{[]string{"init=/bin/sh"}, "--init"},
		{[]string{"rdinit=/bin/sh"}, "--init"},
		{[]string{"ip=dhcp"}, "--net"},
		{[]string{"console=hvc0"}, "ignore_loglevel"},
		{[]string{"panic=0"}, "end the machine"},
		{[]string{"reboot=k"}, "end the machine"},
		{[]string{"tsc-early-khz=1"}, "clock"},
		{[]string{"banger.root=flat"}, "banger's own"},
		{[]string{long(MaxArgBytes + 1)}, "longer than 256"},
		{slices.Repeat([]string{"a"}, MaxArgs+1), "25 kernel arguments"},
		{slices.Repeat([]string{long(100)}, 14), "would cut"},
	} {
		err := ValidateArgs(c.args)
		if !banger.IsKind(err, banger.Invalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.200q: %v, want %q", c.args, err, c.want)
		}
	}
	// What one list alone may have, two may not.
	half := slices.Repeat([]string{"a"}, MaxArgs/2+1)
	if err := ValidateArgs(half, half); !banger.IsKind(err, banger.Invalid) {
		t.Errorf("two lists: %v", err)
	}
}
