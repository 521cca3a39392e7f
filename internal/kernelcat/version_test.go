package kernelcat

import (
	"cmp"
	"testing"
)

// Each version is older than the one after it; those in one row are as old.
func TestCompareVersions(t *testing.T) {
	order := [][]string{
		{""},
		{"0-rescue-3f5d2a7c"},
		{"4.19.0-27-amd64"},
		{"5.4.0-rc1"},
		{"5.4.0-rc2"},
		{"5.4.0-rc10"},
		{"5.4.0"},
		{"5.4.0-generic"},
		{"5.4.0-9-generic"},
		{"5.4.0-10-generic"},
		{"5.14.0-427.el9.x86_64"},
		{"5.14.0-427.13.1.el9_4.x86_64"},
		{"6.1.0-trunk-amd64"},
		{"6.1.0-9-amd64", "6.1.0-09-amd64"},
		{"6.1.0-9-cloud-amd64"},
		{"6.1.0-10-amd64"},
		{"6.1.0-56-cloud-amd64"},
		{"6.1.10"},
		{"6.9"},
		{"6.9.1-arch1-1"},
		{"6.9.1-arch1-2"},
		{"6.9.10-arch1-1"},
		{"6.10~rc4-amd64"},
		{"6.10"},
		{"6.10.0-rc1"},
		{"6.10.0-rc1-next-20240601"},
		{"6.10.0"},
		{"6.11.4-301.fc41.x86_64"},
		{"6.12~rc1"},
		{"6.12-rc1-amd64", "6.12~rc1-amd64"},
		{"6.12"},
		{"6.12.107+deb13-cloud-amd64"},
		{"6.12.117+deb13-cloud-amd64"},
		{"99999999999999999999.1"},
		{"100000000000000000000.1"},
	}
	for i, older := range order {
		for j, newer := range order {
			for _, a := range older {
				for _, b := range newer {
					if got, want := compareVersions(a, b), cmp.Compare(i, j); got != want {
						t.Errorf("compare %q with %q: %d, want %d", a, b, got, want)
					}
				}
			}
		}
	}
}

// FuzzCompareVersions looks for versions that have no order.
func FuzzCompareVersions(f *testing.F) {
	f.Add("6.10-rc1", "6.10", "6.9-1~x+y")
	f.Add("a0", "a00", "a~0")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		ab, ba := compareVersions(a, b), compareVersions(b, a)
		if ab != -ba || compareVersions(a, a) != 0 {
			t.Errorf("%q and %q: %d one way, %d the other", a, b, ab, ba)
		}
		if bc := compareVersions(b, c); ab <= 0 && bc <= 0 && compareVersions(a, c) > 0 {
			t.Errorf("%q, %q, %q go in a circle", a, b, c)
		}
	})
}
