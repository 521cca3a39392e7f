package guest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// tmpMount is what systemd's own tmp.mount is.
var tmpMount = mountPoint{dir: "/tmp", source: "tmpfs", fstype: "tmpfs", flags: noSetuid | unix.MS_STRICTATIME, data: "mode=1777,size=50%,nr_inodes=1m"}

// tmpConf is the name of the file that says what becomes of /tmp at a boot; of
// several the one in /etc counts, then that in /run. See tmpfiles.d(5).
const tmpConf = "tmpfiles.d/tmp.conf"

// settleTmp does to /tmp what systemd would in the course of its boot, and what
// a session that is there before the boot is over would suffer from: a file
// system mounted over its files, or all of them removed. Where the image's
// owner has a say of their own in it, it is left to systemd.
func settleTmp() error {
	if fi, err := os.Lstat("/tmp"); err != nil || !fi.IsDir() {
		return nil
	}
	if mountsTmp("/") {
		return mountAll([]mountPoint{tmpMount})
	}
	text := keepTmp("/")
	if text == "" {
		return nil
	}
	for _, name := range dirNames("/tmp") {
		_ = os.RemoveAll("/tmp/" + name) // what is left is no reason not to boot, to systemd as well
	}
	if err := os.MkdirAll("/run/tmpfiles.d", 0o755); err != nil {
		return fmt.Errorf("settle /tmp: %w", err)
	}
	if err := os.WriteFile("/run/"+tmpConf, []byte(text), 0o644); err != nil {
		return fmt.Errorf("settle /tmp: %w", err)
	}
	return nil
}

// mountsTmp reports whether systemd would mount a tmpfs of its own at /tmp.
func mountsTmp(root string) bool {
	if _, err := os.Lstat(filepath.Join(root, "etc/systemd/system/tmp.mount")); err == nil {
		return false // masked, or another one
	}
	for _, dir := range []string{"etc/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"} {
		if _, err := os.Lstat(filepath.Join(root, dir, "local-fs.target.wants/tmp.mount")); err == nil {
			return true
		}
	}
	return false
}

// keepTmp is the image's tmp.conf without the order to empty /tmp; it is
// empty where there is none.
func keepTmp(root string) string {
	for _, name := range dirNames(filepath.Join(root, "etc/tmpfiles.d")) {
		if b, err := os.ReadFile(filepath.Join(root, "etc/tmpfiles.d", name)); err != nil || strings.Contains(string(b), "/tmp") {
			return ""
		}
	}
	b, err := os.ReadFile(filepath.Join(root, "usr/lib", tmpConf))
	if err != nil {
		return ""
	}
	var text strings.Builder
	empties := false
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[1] == "/tmp" && strings.HasPrefix(f[0], "D") {
			line, empties = strings.Replace(line, "D", "d", 1), true
		}
		text.WriteString(line)
	}
	if !empties {
		return ""
	}
	return text.String()
}
