package kernelcat

import (
	"archive/tar"
	"bytes"
	"cmp"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// WriteModules writes a kernel's modules to w as the tar archive of what a
// guest has in /lib/modules/VERSION: the modules unpacked, so that the guest
// needs no decompressor, the lists the kernel came with, and the indexes that
// depmod(8) makes, so that modprobe(8) finds a module by name or alias. The
// same modules give the same bytes.
func WriteModules(w io.Writer, modulesDir string) error {
	t, err := openModules(modulesDir)
	if err != nil {
		return err
	}
	defer t.root.Close()
	out := tar.NewWriter(w)
	ix := &moduleIndex{tree: t, infos: make(map[string]modinfo)}
	for _, name := range slices.Sorted(maps.Keys(t.paths)) {
		if err := ix.add(out, name); err != nil {
			return err
		}
	}
	if err := ix.addLists(out); err != nil {
		return err
	}
	for _, f := range ix.files() {
		if err := writeTarFile(out, f.name, f.data); err != nil {
			return err
		}
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("write kernel modules: %w", err)
	}
	return nil
}

func writeTarFile(out *tar.Writer, name string, data []byte) error {
	err := out.WriteHeader(&tar.Header{Name: name, Mode: 0o444, Size: int64(len(data)), ModTime: time.Unix(0, 0), Typeflag: tar.TypeReg})
	if err == nil {
		_, err = out.Write(data)
	}
	if err != nil {
		return fmt.Errorf("write kernel modules: %w", err)
	}
	return nil
}

// moduleIndex collects what depmod's files tell.
type moduleIndex struct {
	tree  *moduleTree
	infos map[string]modinfo
}

// unpacked is the path of a module's file once it is unpacked.
func unpacked(file string) string {
	_, packing, _ := splitModule(path.Base(file))
	return strings.TrimSuffix(file, packing)
}

func (ix *moduleIndex) add(out *tar.Writer, name string) error {
	file := ix.tree.paths[name]
	b, err := ix.tree.read(file)
	if err != nil {
		return fmt.Errorf("read module %s: %w", file, err)
	}
	if ix.infos[name], err = parseModinfo(b); err != nil {
		return asInvalid(err, "read module %s", file)
	}
	return writeTarFile(out, unpacked(file), b)
}

// moduleLists are the lists that the kernel's own build makes.
var moduleLists = []string{"modules.order", builtinFile, "modules.builtin.modinfo"}

func (ix *moduleIndex) addLists(out *tar.Writer) error {
	for _, name := range moduleLists {
		b, err := fs.ReadFile(ix.tree.root.FS(), name)
		if err != nil {
			continue // a kernel of another make has fewer
		}
		if err := writeTarFile(out, name, b); err != nil {
			return err
		}
	}
	return nil
}

// indexFile is one of depmod's files.
type indexFile struct {
	name string
	data []byte
}

// files are depmod's: for people and banger's own modprobe as text, for kmod's
// as a trie. Format: depmod.d(5), modules.dep(5).
func (ix *moduleIndex) files() []indexFile {
	var dep, alias, soft, dev bytes.Buffer
	var depTrie, aliasTrie, builtinTrie trie
	for _, name := range slices.Sorted(maps.Keys(ix.infos)) {
		info := ix.infos[name]
		line := unpacked(ix.tree.paths[name]) + ":"
		for _, d := range ix.depends(name) {
			line += " " + unpacked(ix.tree.paths[d])
		}
		dep.WriteString(line + "\n")
		depTrie.add(name, line, 0)
		for _, a := range info.aliases {
			fmt.Fprintf(&alias, "alias %s %s\n", a, name)
			aliasTrie.add(aliasKey(a), name, 0)
		}
		for _, s := range info.softdeps {
			fmt.Fprintf(&soft, "softdep %s %s\n", name, s)
		}
		if node := staticNode(info.aliases); node != "" {
			fmt.Fprintf(&dev, "%s %s\n", name, node)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(ix.tree.builtin)) {
		builtinTrie.add(name, "", 0)
	}
	return []indexFile{
		{"modules.dep", dep.Bytes()}, {"modules.dep.bin", depTrie.bytes()},
		{"modules.alias", alias.Bytes()}, {"modules.alias.bin", aliasTrie.bytes()},
		{"modules.builtin.bin", builtinTrie.bytes()},
		{"modules.softdep", soft.Bytes()}, {"modules.devname", dev.Bytes()},
	}
}

// staticNode is the device node by which a module is loaded when that is
// opened, "NAME c10:229", from the aliases devname:NAME and char-major-10-229.
func staticNode(aliases []string) string {
	name, number := "", ""
	for _, a := range aliases {
		if n, ok := strings.CutPrefix(a, "devname:"); ok {
			name = n
		}
		for prefix, kind := range map[string]string{"char-major-": "c", "block-major-": "b"} {
			major, minor, _ := strings.Cut(strings.TrimPrefix(a, prefix), "-")
			if strings.HasPrefix(a, prefix) && isNumber(major) && isNumber(minor) {
				number = kind + major + ":" + minor
			}
		}
	}
	if name == "" || number == "" {
		return ""
	}
	return name + " " + number
}

func isNumber(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// depends lists all that a module needs by its symbols, what is needed last
// first: loaded from the end of the list, each finds what it needs.
func (ix *moduleIndex) depends(name string) []string {
	var order []string
	state := map[string]bool{name: true}
	var visit func(string)
	visit = func(n string) {
		for _, d := range ix.infos[n].depends {
			if state[d] || ix.tree.paths[d] == "" {
				continue // there already, built in, or absent: the kernel will say so
			}
			state[d] = true
			visit(d)
			order = append(order, d)
		}
	}
	visit(name)
	slices.Reverse(order)
	return order
}

// aliasKey is an alias as kmod looks it up: '-' is '_' but in a set [...].
func aliasKey(s string) string {
	b := []byte(s)
	set := false
	for i, c := range b {
		switch c {
		case '[':
			set = true
		case ']':
			set = false
		case '-':
			if !set {
				b[i] = '_'
			}
		}
	}
	return string(b)
}

// trie is an index as kmod reads it.
//
// Format: kmod's libkmod/libkmod-index.c. Numbers are big-endian and 32 bits.
// The file begins with magic, version and the root's offset. A node is its
// prefix, ended by NUL; the first and the last byte of its children, and the
// offset of each one in between, 0 for none; the number of its values, and for
// each a priority and a text ended by NUL. What a node lacks is left out, which
// the three highest bits of its offset tell.
type trie struct {
	prefix   string
	children map[byte]*trie
	values   []trieValue
}

type trieValue struct {
	text     string
	priority uint32
}

const (
	trieMagic   = 0xb007f457
	trieVersion = 0x00020001

	triePrefix   = 0x80000000
	trieValues   = 0x40000000
	trieChildren = 0x20000000
)

func (t *trie) add(key, value string, priority uint32) {
	if t.children == nil && t.values == nil && t.prefix == "" {
		t.prefix, t.values = key, []trieValue{{value, priority}}
		return
	}
	n := 0
	for n < min(len(key), len(t.prefix)) && key[n] == t.prefix[n] {
		n++
	}
	if n < len(t.prefix) { // split: what differs goes below
		below := &trie{prefix: t.prefix[n+1:], children: t.children, values: t.values}
		*t = trie{prefix: t.prefix[:n], children: map[byte]*trie{t.prefix[n]: below}}
	}
	if n == len(key) {
		t.values = append(t.values, trieValue{value, priority})
		return
	}
	c := t.children[key[n]]
	if c == nil {
		c = &trie{prefix: key[n+1:], values: []trieValue{{value, priority}}}
		if t.children == nil {
			t.children = make(map[byte]*trie)
		}
		t.children[key[n]] = c
		return
	}
	c.add(key[n+1:], value, priority)
}

func (t *trie) bytes() []byte {
	b := be32(nil, trieMagic, trieVersion, 0)
	root := t.write(&b)
	copy(b[8:], be32(nil, root))
	return b
}

// write appends the node behind its children and returns its offset with flags.
func (t *trie) write(b *[]byte) uint32 {
	var offsets []uint32
	var first, last byte
	if len(t.children) > 0 {
		keys := slices.SortedFunc(maps.Keys(t.children), cmp.Compare[byte])
		first, last = keys[0], keys[len(keys)-1]
		offsets = make([]uint32, int(last)-int(first)+1)
		for _, k := range keys {
			offsets[k-first] = t.children[k].write(b)
		}
	}
	at := uint32(len(*b))
	if t.prefix != "" {
		at |= triePrefix
		*b = append(append(*b, t.prefix...), 0)
	}
	if offsets != nil {
		at |= trieChildren
		*b = be32(append(*b, first, last), offsets...)
	}
	if len(t.values) > 0 {
		at |= trieValues
		*b = be32(*b, uint32(len(t.values)))
		for _, v := range t.values {
			*b = append(append(be32(*b, v.priority), v.text...), 0)
		}
	}
	return at
}

func be32(b []byte, words ...uint32) []byte {
	for _, w := range words {
		b = append(b, byte(w>>24), byte(w>>16), byte(w>>8), byte(w))
	}
	return b
}
