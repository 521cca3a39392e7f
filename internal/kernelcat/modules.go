package kernelcat

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/mikelolasagasti/xz"

	"banger"
)

// Bounds on a module: its size, of which Debian's largest has 9 MB and one with
// what a debugger wants some 100 MB, and what unpacking it takes besides. The
// kernel's build packs with a window of 1 or 2 MiB; `xz -9` uses 64 MiB.
const (
	maxModule       = 256 << 20
	maxModuleWindow = 64 << 20
)

// builtinFile lists the modules that are part of vmlinux, one path a line.
// Format: linux/Documentation/kbuild/kbuild.rst, modules.builtin.
const builtinFile = "modules.builtin"

// moduleTree is a kernel's modules folder, seen by module names.
type moduleTree struct {
	root    *os.Root
	paths   map[string]string // path below root, by name
	builtin map[string]bool
}

// moduleName is the name the kernel knows a module by: '-' is '_' there.
func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }

// splitModule takes a module's file name apart: the module's name and the
// compression of the file. It is not ok for a file that is no module.
func splitModule(file string) (name, packing string, ok bool) {
	for _, packing = range []string{"", ".zst", ".gz", ".xz"} {
		if base, ok := strings.CutSuffix(file, ".ko"+packing); ok {
			return moduleName(base), packing, true
		}
	}
	return "", "", false
}

// openModules reads which modules there are; the caller closes root.
func openModules(dir string) (*moduleTree, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open kernel modules: %w", err)
	}
	t := &moduleTree{root: root, paths: make(map[string]string), builtin: make(map[string]bool)}
	// The walk is in lexical order and the last file of a name stays, so
	// updates/ goes before kernel/, as it does for depmod.
	err = fs.WalkDir(root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if name, _, ok := splitModule(d.Name()); ok {
			t.paths[name] = p
		}
		return nil
	})
	if err == nil {
		err = t.readBuiltin()
	}
	if err != nil {
		root.Close()
		return nil, fmt.Errorf("read kernel modules: %w", err)
	}
	return t, nil
}

// readBuiltin reads modules.builtin; a kernel without module support has none.
func (t *moduleTree) readBuiltin() error {
	f, err := t.root.Open(builtinFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if name, _, ok := splitModule(path.Base(lines.Text())); ok {
			t.builtin[name] = true
		}
	}
	return lines.Err()
}

// has tells whether a module is "builtin", a "module", or "" for neither.
func (t *moduleTree) has(name string) string {
	switch name = moduleName(name); {
	case t.builtin[name]:
		return "builtin"
	case t.paths[name] != "":
		return "module"
	}
	return ""
}

// modinfo is what a module says it needs.
type modinfo struct {
	depends []string // by their symbols: loading fails without them
	pre     []string // soft dependencies: to be loaded before, if they exist

	softdeps []string // as they are written
	aliases  []string // patterns by which the kernel and modprobe ask for it
}

// info reads a module's .modinfo section: strings "key=value", each ended by NUL.
func (t *moduleTree) info(name string) (modinfo, error) {
	file := t.paths[name]
	b, err := t.read(file)
	if err != nil {
		return modinfo{}, fmt.Errorf("read module %s: %w", file, err)
	}
	m, err := parseModinfo(b)
	if err != nil {
		return modinfo{}, asInvalid(err, "read module %s", file)
	}
	return m, nil
}

func parseModinfo(module []byte) (modinfo, error) {
	f, err := openELF(bytes.NewReader(module), int64(len(module)))
	if err != nil {
		return modinfo{}, err
	}
	section, err := f.section(".modinfo")
	if err != nil {
		return modinfo{}, err
	}
	var m modinfo
	for s := range strings.SplitSeq(string(section), "\x00") {
		key, value, _ := strings.Cut(s, "=")
		switch key {
		case "depends":
			for d := range strings.SplitSeq(value, ",") {
				if d != "" {
					m.depends = append(m.depends, moduleName(d))
				}
			}
		case "softdep":
			m.pre = append(m.pre, softPre(value)...)
			m.softdeps = append(m.softdeps, value)
		case "alias":
			m.aliases = append(m.aliases, value)
		}
	}
	return m, nil
}

// softPre takes the modules after "pre:" out of a softdep string, which looks
// like "pre: a b post: c". Format: linux/include/linux/module.h, MODULE_SOFTDEP.
func softPre(s string) []string {
	var names []string
	pre := false
	for word := range strings.FieldsSeq(s) {
		if strings.HasSuffix(word, ":") {
			pre = word == "pre:"
		} else if pre {
			names = append(names, moduleName(word))
		}
	}
	return names
}

// read returns the unpacked content of a module's file.
func (t *moduleTree) read(file string) ([]byte, error) {
	f, err := t.root.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	_, packing, _ := splitModule(path.Base(file))
	return unpackModule(f, packing, maxModule)
}

// unpackModule reads a module of at most limit bytes.
func unpackModule(r io.Reader, packing string, limit int64) (b []byte, err error) {
	switch packing {
	case ".zst":
		var z *zstd.Decoder
		z, err = zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxModuleWindow))
		if err == nil {
			defer z.Close()
			r = z
		}
	case ".gz":
		r, err = gzip.NewReader(r)
	case ".xz":
		r, err = xz.NewReader(r, maxModuleWindow)
	}
	if err == nil {
		b, err = io.ReadAll(io.LimitReader(r, limit+1))
	}
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("it has more than %d bytes", limit)
	}
	if err != nil {
		return nil, asInvalid(err, "unpack it")
	}
	return b, nil
}

// ReadModule returns the content of a module's file below modulesDir, unpacked,
// and the name that the file then has.
func ReadModule(modulesDir, file string) (name string, content []byte, err error) {
	root, err := os.OpenRoot(modulesDir)
	if err != nil {
		return "", nil, fmt.Errorf("open kernel modules: %w", err)
	}
	defer root.Close()
	t := &moduleTree{root: root}
	if content, err = t.read(file); err != nil {
		return "", nil, fmt.Errorf("read module %s: %w", file, err)
	}
	return path.Base(unpacked(file)), content, nil
}

// order returns the files of the named modules and of all they depend on, each
// after those it depends on: the order to load them in. It reads the modules
// themselves, so neither depmod nor kmod has to have run. A module that is built
// in is left out; one that is neither is a NotFound error. In names '-' and '_'
// are the same.
func (t *moduleTree) order(names []string) ([]string, error) {
	o := ordering{tree: t, state: make(map[string]visit)}
	for _, n := range names {
		if err := o.add(moduleName(n), ""); err != nil {
			return nil, err
		}
	}
	return o.files, nil
}

// visit is how far a module has been put in order.
type visit int

const (
	unseen visit = iota
	open         // its dependencies are being added
	done
)

// ordering puts modules in order, depth first.
type ordering struct {
	tree  *moduleTree
	state map[string]visit
	files []string
}

func (o *ordering) add(name, by string) error {
	if o.tree.builtin[name] || o.state[name] == done {
		return nil
	}
	if o.state[name] == open {
		return banger.Errorf(banger.Invalid, "modules %s and %s depend on each other", by, name)
	}
	if o.tree.paths[name] == "" {
		if by != "" {
			return banger.Errorf(banger.NotFound, "the kernel has no module %s, which %s depends on", name, by)
		}
		return banger.Errorf(banger.NotFound, "the kernel has no module %s", name)
	}
	o.state[name] = open
	info, err := o.tree.info(name)
	if err != nil {
		return err
	}
	for _, d := range info.pre {
		// A soft dependency may be an alias, missing, or a circle: it only
		// says what is better loaded first.
		if o.tree.paths[d] == "" || o.state[d] == open {
			continue
		}
		if err := o.add(d, name); err != nil {
			return err
		}
	}
	for _, d := range info.depends {
		if err := o.add(d, name); err != nil {
			return err
		}
	}
	o.state[name] = done
	o.files = append(o.files, o.tree.paths[name])
	return nil
}
