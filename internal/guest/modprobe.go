package guest

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// The kernel asks for a module by starting a program, with the words -q, -- and
// the module's name or an alias. Most images have none that it could start, so
// the program is this one, whatever the image has.
const (
	roleModprobe   = "modprobe" // the program's own name then, not its first argument
	modprobePath   = "/run/banger/modprobe"
	modprobeSysctl = "/proc/sys/kernel/modprobe"

	modulesDisk = "/dev/vdd" // read-only ext4: the kernel's modules as depmod leaves them
	modulesDir  = "/run/banger/modules"
)

// offerModules shows the kernel's modules where programs look for them, and
// makes the kernel load what it lacks by itself. A machine whose kernel has no
// modules has no such disk.
func offerModules() error {
	err := mountAll([]mountPoint{
		{dir: modulesDir, source: modulesDisk, fstype: "ext4", flags: unix.MS_RDONLY | unix.MS_NODEV | unix.MS_NOSUID, data: "noload"},
	})
	if err != nil {
		return err
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return fmt.Errorf("read the kernel's version: %w", err)
	}
	place, err := filepath.EvalSymlinks("/lib")
	if err != nil || !strings.HasPrefix(place, "/") {
		place = "/lib"
	}
	place = filepath.Join(place, "modules", unix.ByteSliceToString(name.Release[:]))
	if err := ensureDir(place); err != nil {
		return fmt.Errorf("make %s: %w", place, err)
	}
	if err := unix.Mount(modulesDir, place, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount the modules at %s: %w", place, err)
	}
	if err := os.Symlink(program, modprobePath); err != nil {
		return fmt.Errorf("offer modprobe: %w", err)
	}
	if err := makeStaticNodes(filepath.Join(modulesDir, "modules.devname"), "/dev"); err != nil {
		return err
	}
	// A kernel that cannot load modules has no such file.
	if err := os.WriteFile(modprobeSysctl, []byte(modprobePath), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("offer modprobe: %w", err)
	}
	return nil
}

// makeStaticNodes makes the device nodes whose modules the kernel loads when
// they are opened. Lines of the list are "MODULE NAME c10:229". Compare
// kmod-static-nodes.service; the modes are those of udev's rules.
func makeStaticNodes(list, dev string) error {
	return eachLine(list, func(line string) {
		var module, name string
		var kind rune
		var major, minor uint32
		if n, _ := fmt.Sscanf(line, "%s %s %c%d:%d", &module, &name, &kind, &major, &minor); n != 5 || !filepath.IsLocal(name) {
			return
		}
		mode := uint32(unix.S_IFCHR | 0o600)
		if kind == 'b' {
			mode = unix.S_IFBLK | 0o600
		}
		if name == "fuse" || name == "net/tun" {
			mode |= 0o066
		}
		path := filepath.Join(dev, name)
		// A node that cannot be made is missed only by who needs it.
		_ = os.MkdirAll(filepath.Dir(path), 0o755)
		if unix.Mknod(path, mode, int(unix.Mkdev(major, minor))) == nil {
			_ = os.Chmod(path, os.FileMode(mode&0o777)) // past the umask
		}
	})
}

// runModprobe is the program that the kernel starts. That there is no such
// module is no news: the kernel asks for much that nobody has.
func runModprobe(args []string) error {
	if len(args) == 0 {
		return errors.New("no module is named")
	}
	files, err := findModule(modulesDir, args[len(args)-1])
	for _, f := range files {
		if err := loadModule(filepath.Join(modulesDir, f)); err != nil {
			return fmt.Errorf("load module %s: %w", f, err)
		}
	}
	return err
}

var errNoModule = errors.New("there is no such module")

// findModule finds the files to load for a module's name or alias, each after
// those it depends on. An alias may stand for several modules.
// Format: modules.dep(5) and the alias lines of modprobe.d(5).
func findModule(dir, name string) ([]string, error) {
	deps, err := readDeps(dir)
	if err != nil {
		return nil, err
	}
	names := []string{normal(name)}
	if _, ok := deps[names[0]]; !ok {
		if names, err = resolveAlias(dir, name); err != nil {
			return nil, err
		}
	}
	var files []string
	for _, n := range names {
		line := deps[n]
		for i := len(line) - 1; i >= 0; i-- { // what is needed first comes last
			files = append(files, line[i])
		}
	}
	if len(files) == 0 {
		return nil, errNoModule
	}
	return files, nil
}

// readDeps reads modules.dep: by module, its file and those it depends on.
func readDeps(dir string) (map[string][]string, error) {
	deps := make(map[string][]string)
	err := eachLine(filepath.Join(dir, "modules.dep"), func(line string) {
		if file, rest, ok := strings.Cut(line, ":"); ok {
			name := normal(strings.TrimSuffix(path.Base(file), ".ko"))
			deps[name] = append([]string{file}, strings.Fields(rest)...)
		}
	})
	return deps, err
}

// resolveAlias reads in modules.alias which modules go by that name.
func resolveAlias(dir, alias string) ([]string, error) {
	var names []string
	alias = normal(alias)
	err := eachLine(filepath.Join(dir, "modules.alias"), func(line string) {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] != "alias" {
			return
		}
		if ok, err := path.Match(normal(f[1]), alias); ok && err == nil {
			names = append(names, f[2])
		}
	})
	return names, err
}

// normal is a module's name as the kernel has it; in a set of a pattern, [a-z],
// a hyphen stays.
func normal(s string) string {
	head, rest, ok := strings.Cut(s, "[")
	head = strings.ReplaceAll(head, "-", "_")
	if !ok {
		return head
	}
	set, rest, _ := strings.Cut(rest, "]")
	return head + "[" + set + "]" + normal(rest)
}

func eachLine(name string, do func(string)) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		do(lines.Text())
	}
	return lines.Err()
}
