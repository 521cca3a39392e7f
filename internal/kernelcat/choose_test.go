package kernelcat

import "testing"

// Which kernel is taken, in which layout.
func TestImageLayouts(t *testing.T) {
	nested := string(layerOf(t, "d ./", "f ./lib/modules/6.6.71-linuxkit/a.ko A", "l ./lib/modules/6.6.71-linuxkit/build /usr/src/x", "f ./boot/dtb/x.dtb D"))
	modules := "modules/a.ko=A modules/build=->/usr/src/x"
	for name, c := range map[string]struct {
		files []string
		want  string
	}{
		"linuxkit":                {[]string{"f System.map x", "f kernel K", "f kernel-dev.tar no archive at all", "f kernel.tar " + nested, "f intel-ucode.cpio x"}, "6.6.71-linuxkit " + modules + " vmlinuz=K"},
		"linuxkit for debugging":  {[]string{"f kernel K", "f kernel.tar " + nested, "f vmlinux WITH-SYMBOLS"}, "6.6.71-linuxkit " + modules + " vmlinuz=K"},
		"linuxkit, no modules":    {[]string{"f kernel K", "f kernel.tar " + string(layerOf(t, "d ./"))}, " vmlinuz=K"},
		"bundle":                  {[]string{"f vmlinux K", "f modules/a.ko A", "f config C", "f metadata.json {}", "f initrd.img I"}, " config=C modules/a.ko=A vmlinuz=K"},
		"bundle with an initrd":   {[]string{"f vmlinux K", "f initrd.img I"}, " initrd.img=I vmlinuz=K"},
		"kernel beside modules":   {[]string{"f vmlinux K", "f lib/modules/6.1/a.ko A", "f boot/config-6.1 C"}, "6.1 config=C modules/a.ko=A vmlinuz=K"},
		"root":                    {[]string{"f boot/vmlinuz-6.1 K", "f boot/config-6.1 C", "f boot/initrd.img-6.1 I", "f boot/System.map-6.1 S", "l vmlinuz boot/vmlinuz-6.1", "f usr/lib/modules/6.1/a.ko A"}, "6.1 config=C modules/a.ko=A vmlinuz=K"},
		"root without modules":    {[]string{"f boot/vmlinuz-6.1 K", "f boot/initrd.img-6.1 I"}, "6.1 initrd.img=I vmlinuz=K"},
		"openSUSE's names":        {[]string{"f boot/vmlinux-6.1.gz no", "l boot/vmlinuz-6.1 ../usr/lib/modules/6.1/vmlinuz", "f usr/lib/modules/6.1/vmlinuz K", "f boot/initrd-6.1 I"}, "6.1 initrd.img=I vmlinuz=K"},
		"Fedora's names":          {[]string{"f boot/.vmlinuz-6.1.hmac no", "f usr/lib/modules/6.1/vmlinuz K", "f usr/lib/modules/6.1/config C", "f usr/lib/modules/6.1/initramfs.img I", "f usr/lib/modules/6.1/kernel/a.ko.xz A"}, "6.1 config=C modules/kernel/a.ko.xz=A vmlinuz=K"},
		"the same kernel twice":   {[]string{"f boot/vmlinuz-6.1 K", "f lib/modules/6.1/vmlinuz K2"}, "6.1 vmlinuz=K"},
		"Alpine's names":          {[]string{"f boot/vmlinuz-virt K", "f boot/config-6.6.31-0-virt C", "f lib/modules/6.6.31-0-virt/a.ko A"}, "6.6.31-0-virt config=C modules/a.ko=A vmlinuz=K"},
		"Alpine without modules":  {[]string{"f boot/vmlinuz-virt K", "f boot/initramfs-virt I"}, " initrd.img=I vmlinuz=K"},
		"two kernels":             {[]string{"f boot/vmlinuz-6.10.0-9 K", "f boot/vmlinuz-6.9.0-10 OLD", "f lib/modules/6.9.0-10/a.ko OLD", "f lib/modules/6.10.0-9/a.ko A", "f boot/config-6.9.0-10 OLD"}, "6.10.0-9 modules/a.ko=A vmlinuz=K registry.example/kernel:1 holds kernels 6.9.0-10 too; taking 6.10.0-9, the newest"},
		"rescue kernel":           {[]string{"f boot/vmlinuz-0-rescue-4c8f0 OLD", "f boot/vmlinuz-6.1 K"}, "6.1 vmlinuz=K registry.example/kernel:1 holds kernels 0-rescue-4c8f0 too; taking 6.1, the newest"},
		"two flavours":            {[]string{"f boot/vmlinuz-lts OLD", "f boot/vmlinuz-virt K", "f lib/modules/6.6.9-0-lts/a.ko OLD", "f lib/modules/6.6.31-0-virt/a.ko A"}, "6.6.31-0-virt modules/a.ko=A vmlinuz=K registry.example/kernel:1 holds kernels 6.6.9-0-lts too; taking 6.6.31-0-virt, the newest"},
		"put aside":               {[]string{"f boot/vmlinuz-6.1 K", "f boot/vmlinuz-6.1.old OLD"}, "6.1 vmlinuz=K"},
		"modules that are left":   {[]string{"f boot/vmlinuz-6.1 K", "f lib/modules/6.2/modules.dep x"}, "6.1 vmlinuz=K"},
		"an app's configuration":  {[]string{"f boot/vmlinuz-6.1 K", "f config of an app", "f metadata.json []", "f modules/x.php no"}, "6.1 vmlinuz=K"},
		"a name that is not text": {[]string{"f etc/\xff\x1b x", "f boot/vmlinuz-6.1 K"}, "6.1 vmlinuz=K"},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := imageOf(t, c.files).taken(t); err != nil || got != c.want {
				t.Errorf("got %q, %v; want %q", got, err, c.want)
			}
		})
	}
}
