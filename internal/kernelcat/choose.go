package kernelcat

import (
	"archive/tar"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"banger"
)

// chosen is one file of an image that becomes a part of the kernel.
type chosen struct {
	part part
	path string
	file *layerFile
}

// imageKernel is what is taken out of an image.
type imageKernel struct {
	version  string   // from its names; empty where they have none
	others   []string // older kernels that are passed over
	files    []chosen
	symlinks []chosen
	size     int64 // bytes of the files
}

// parts are the files of an image that can be parts of kernels, by what they
// are and then by the version in their paths, which may be empty.
type parts map[kind]map[string][]chosen

// sort sorts the tree's files by what they are.
func (t *layerTree) sort() parts {
	all := make(parts)
	seen := make(map[part]int) // the place in its list
	t.root.each("", func(name string, f *layerFile) {
		p := partOf(name)
		c := chosen{p, name, f}
		if all[p.kind] == nil {
			all[p.kind] = make(map[string][]chosen)
		}
		list := all[p.kind][p.version]
		// lib/x and usr/lib/x, or vmlinuz in two folders: the upper layer's is the one that was meant.
		if i, twice := seen[p]; twice {
			if f.layer > list[i].file.layer {
				list[i] = c
			}
			return
		}
		seen[p] = len(list)
		all[p.kind][p.version] = append(list, c)
	})
	return all
}

// choose chooses the one kernel to take. One at the root of the image was put
// there to be found; else it is the newest of those of a distribution.
func (t *layerTree) choose() (imageKernel, error) {
	all := t.sort()
	if len(all[kernel]) == 0 {
		return imageKernel{}, banger.Errorf(banger.Invalid, "the image holds no kernel").
			WithHint("a kernel is /kernel, /vmlinux, /boot/vmlinuz-VERSION or /lib/modules/VERSION/vmlinuz")
	}
	if top := all[kernel][""]; top != nil {
		return all.top(top)
	}
	names := slices.SortedFunc(maps.Keys(all[kernel]), func(a, b string) int {
		return compareVersions(all.versionOf(b), all.versionOf(a))
	})
	name, version := names[0], all.versionOf(names[0])
	k := imageKernel{version: version}
	if !isVersion(version) {
		k.version = ""
	}
	for _, o := range names[1:] {
		k.others = append(k.others, all.versionOf(o))
	}
	k.take(all[kernel][name][:1])
	k.take(all[module][version])
	all.takeRest(&k, name, version)
	return k, nil
}

// top takes a kernel at the root of an image, which has no version in its name.
func (all parts) top(kernels []chosen) (imageKernel, error) {
	k := imageKernel{}
	// LinuxKit's images for debugging have the same kernel with symbols too.
	k.take(kernels[:1])
	switch own, versions := all[module][""], slices.Sorted(maps.Keys(all[module])); {
	case own != nil:
		k.take(own)
	case all[modulesTar] != nil:
		k.take(all[modulesTar][""])
	case len(versions) == 1:
		k.version = versions[0]
		k.take(all[module][k.version])
	case len(versions) > 1:
		return k, banger.Errorf(banger.Invalid, "its /%s has modules for both %s and %s", kernels[0].path, versions[0], versions[1])
	}
	k.take(all[meta][""])
	all.takeRest(&k, "", k.version)
	return k, nil
}

// takeRest takes the configuration and, where there are no modules, the initrd:
// with modules banger makes one of its own.
func (all parts) takeRest(k *imageKernel, names ...string) {
	kinds := []kind{config}
	if !k.modules() {
		kinds = append(kinds, initrd)
	}
	for _, kind := range kinds {
		for _, name := range names {
			if c := all[kind][name]; c != nil {
				k.take(c[:1])
				break
			}
		}
	}
}

func (k *imageKernel) modules() bool {
	return slices.ContainsFunc(k.files, func(c chosen) bool { return c.part.kind == module || c.part.kind == modulesTar })
}

func (k *imageKernel) take(files []chosen) {
	for _, c := range files {
		switch {
		case c.file.target == "":
			k.files = append(k.files, c)
			k.size += c.file.size
		case c.leadsToOthers():
		default:
			k.symlinks = append(k.symlinks, c)
		}
	}
}

// leadsToOthers reports whether a symbolic link leads to a place in the image
// that is not taken: build and source lead to headers on some distributions.
// One that leads out of the image is not meant; it is refused where it is made.
func (c chosen) leadsToOthers() bool {
	if path.IsAbs(c.file.target) {
		return false
	}
	return filepath.IsLocal(path.Join(path.Dir(c.path), c.file.target)) &&
		!filepath.IsLocal(path.Join(path.Dir(c.part.file), c.file.target))
}

// isVersion reports whether the name of a kernel has its version. Alpine's has
// only the flavour: vmlinuz-virt.
func isVersion(name string) bool { return name != "" && name[0] >= '0' && name[0] <= '9' }

// versionOf is the version of the kernel of that name: that of the modules of
// its flavour, where the name has only that.
func (all parts) versionOf(name string) string {
	if isVersion(name) {
		return name
	}
	best := name
	for version := range all[module] {
		if strings.HasSuffix(version, "-"+name) && (best == name || compareVersions(version, best) > 0) {
			best = version
		}
	}
	return best
}

// wanted is what is to be taken from one layer.
type wanted struct {
	entries map[int][]chosen
	links   map[string][]chosen // by the path of the file that is meant
}

// plan says what to take from which layer.
func (k *imageKernel) plan() map[int]*wanted {
	plan := make(map[int]*wanted)
	for _, c := range k.files {
		w := plan[c.file.layer]
		if w == nil {
			w = &wanted{make(map[int][]chosen), make(map[string][]chosen)}
			plan[c.file.layer] = w
		}
		if c.file.from != "" {
			w.links[c.file.from] = append(w.links[c.file.from], c)
		} else {
			w.entries[c.file.entry] = append(w.entries[c.file.entry], c)
		}
	}
	return plan
}

// take returns the parts whose content the entry n of the layer is.
func (w *wanted) take(n int, h *tar.Header) []chosen {
	if c := w.entries[n]; c != nil || len(w.links) == 0 || h.Typeflag != tar.TypeReg {
		return c
	}
	name, err := layerPath(h.Name)
	if err != nil {
		return nil // the first reading has refused it
	}
	c := w.links[name]
	delete(w.links, name)
	return c
}
