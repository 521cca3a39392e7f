package qemu

import "testing"

func TestDescribe(t *testing.T) {
	const cpu = "\nRAX=0000000000000001 RBX=0000000000000000\nRIP=ffffffff81a2c3d4 RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=0\nES =0000\n"
	for _, c := range []struct{ text, want string }{
		{"", ""},
		{"\nCPU#0" + cpu, "CPU 0 runs the kernel at ffffffff81a2c3d4"},
		{"\nCPU#0\nRIP=1 CPL=0 HLT=1\n\nCPU#1\nRIP=00007f0000000000 CPL=3 HLT=0\n", "CPU 0 is idle, CPU 1 runs a program"},
		{"CPU#garbage", "CPU  runs the kernel at "},
	} {
		if got := describe(c.text); got != c.want {
			t.Errorf("%q: got %q, want %q", c.text, got, c.want)
		}
	}
}
