// Package config reads the user's configuration file, which banger never writes.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/pelletier/go-toml/v2"
	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/state"
)

// maxFile bounds the file; real ones have a few KiB.
const maxFile = 1 << 20

// Config is the whole file. The zero value is a file that says nothing, or
// none at all. docs/CONFIG.md describes every key.
type Config struct {
	Kernel Section `toml:"kernel"`
	Image  Section `toml:"image"`

	Registries []Registry `toml:"registry"` // of images
}

// Registry says how one registry of images is asked.
type Registry struct {
	Host     string   `toml:"host"`     // as in references: host[:port]
	Insecure bool     `toml:"insecure"` // take any certificate, and plain HTTP
	Mirrors  []string `toml:"mirrors"`  // asked before it: host[:port][/prefix]

	Line int `toml:"-"` // of its table in the file; 0 where that is not known
}

// Section is what concerns kernels, or images.
type Section struct {
	Catalogs []Catalog `toml:"catalog"` // besides the built-in one, in the order they are asked
}

// Catalog is one more catalog.
type Catalog struct {
	Name          string `toml:"name"`           // for CATALOG/NAME and for people; may be empty
	URL           string `toml:"url"`            // https://..., file:///... or an absolute path
	Key           string `toml:"key"`            // of who signs it, as in authorized_keys
	AllowUnsigned bool   `toml:"allow_unsigned"` // take it from a server without a key
	AllowPrivate  bool   `toml:"allow_private"`  // it may send banger to private addresses

	Line int `toml:"-"` // of its table in the file; 0 where that is not known
}

// Read reads the file at path; one that is not there is the zero Config. Every
// error is Invalid or Unavailable, names the file and where it can the line,
// and says what to write instead.
func Read(path string) (Config, error) {
	var c Config
	text, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, err
	}
	d := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return Config{}, explain(path, err)
	}
	for _, s := range []struct {
		noun     string
		catalogs []Catalog
	}{{"kernel", c.Kernel.Catalogs}, {"image", c.Image.Catalogs}} {
		for i, line := range findLines(text, s.noun+`\s*\.\s*catalog`, len(s.catalogs)) {
			s.catalogs[i].Line = line
		}
		if err := check(path, s.noun, s.catalogs); err != nil {
			return Config{}, err
		}
	}
	for i, line := range findLines(text, "registry", len(c.Registries)) {
		c.Registries[i].Line = line
	}
	if err := checkRegistries(path, c.Registries); err != nil {
		return Config{}, err
	}
	return c, nil
}

// readFile reads a file that only its owner, or root, has had a say in: it
// decides whom banger trusts.
func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, banger.Errorf(banger.Unavailable, "read configuration: %w", err).WithHint("chmod u+r %s", path)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, banger.Errorf(banger.Unavailable, "read configuration: %s: %w", path, err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, banger.Errorf(banger.Invalid, "read configuration: %s is not a regular file", path)
	case st.Uid != 0 && int(st.Uid) != os.Getuid():
		return nil, banger.Errorf(banger.Invalid, "read configuration: %s belongs to user %d", path, st.Uid).WithHint("chown %d %s", os.Getuid(), path)
	case st.Mode&0o002 != 0:
		return nil, banger.Errorf(banger.Invalid, "read configuration: everybody can write to %s", path).WithHint("chmod o-w %s", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, banger.Errorf(banger.Unavailable, "read configuration: %w", err)
	}
	if len(b) > maxFile {
		return nil, banger.Errorf(banger.Invalid, "read configuration: %s is longer than %d bytes", path, maxFile)
	}
	return b, nil
}

// invalid is an error at a line of the file, or of all of it for line 0.
func invalid(path string, line int, format string, args ...any) *banger.Error {
	return banger.Errorf(banger.Invalid, "%s: %s", Where(path, line), fmt.Sprintf(format, args...))
}

// Where is a place in the file as compilers write it.
func Where(path string, line int) string {
	if line == 0 {
		return path
	}
	return fmt.Sprintf("%s:%d", path, line)
}

// explain turns an error of the decoder into one that says where and what to do.
func explain(path string, err error) error {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) && len(strict.Errors) > 0 {
		return unknownKey(path, &strict.Errors[0])
	}
	var de *toml.DecodeError
	if !errors.As(err, &de) {
		return invalid(path, 0, "%s", strings.TrimPrefix(err.Error(), "toml: ")).WithHint("edit %s", path)
	}
	line, column := de.Position()
	return invalid(path, line, "%s (column %d)", strings.TrimPrefix(de.Error(), "toml: "), column).
		WithHint("edit line %d of %s; strings stand in double quotes, true and false do not", line, path)
}

// unknownKey names the key that was most likely meant, or all there are.
func unknownKey(path string, de *toml.DecodeError) error {
	line, _ := de.Position()
	key := de.Key()
	t := reflect.TypeFor[Config]()
	for i, k := range key {
		known, next := keysOf(t, k)
		if next != nil {
			t = next
			continue
		}
		in := ""
		if i > 0 {
			in = " in " + strings.Join(key[:i], ".")
		}
		err := invalid(path, line, "unknown key %.80q%s", k, in)
		if near := state.Nearest(k, known); near != "" {
			return err.WithHint("did you mean %s?", near)
		}
		return err.WithHint("the keys%s are: %s", in, strings.Join(known, ", "))
	}
	return invalid(path, line, "unknown key %.80q", strings.Join(key, "."))
}

// keysOf lists the keys of a table, and gives the table below key, if that is one.
func keysOf(t reflect.Type, key string) (known []string, below reflect.Type) {
	if t.Kind() != reflect.Struct {
		return nil, nil
	}
	for i := range t.NumField() {
		f := t.Field(i)
		name := f.Tag.Get("toml")
		if name == "-" {
			continue
		}
		known = append(known, name)
		if name == key {
			if below = f.Type; below.Kind() == reflect.Slice {
				below = below.Elem()
			}
		}
	}
	return known, below
}

// findLines finds where each of n tables begins. The decoder does not say; where
// the tables are not written as such the lines stay unknown.
func findLines(text []byte, table string, n int) []int {
	header := regexp.MustCompile(`^\s*\[{1,2}\s*` + table + `\s*\]`) // a single one is written as [...] too
	var lines []int
	number := 0
	for line := range bytes.Lines(text) {
		number++
		if header.Match(line) {
			lines = append(lines, number)
		}
	}
	if len(lines) != n {
		return nil
	}
	return lines
}

// catalogName is the grammar of a catalog's name: never that of a registry's
// host, which an image reference may begin with, nor of an option.
var catalogName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,31}$`) })

// reserved names would be taken for something else.
var reserved = []string{"builtin", "localhost"}

func check(path, noun string, catalogs []Catalog) error {
	names, urls := map[string]bool{}, map[string]bool{}
	for _, c := range catalogs {
		switch {
		case c.URL == "":
			return invalid(path, c.Line, "a %s catalog has no url", noun).
				WithHint(`write: url = "https://HOST/catalog.json", or the absolute path of a file`)
		case urls[c.URL]:
			return invalid(path, c.Line, "the %s catalog %.200q is there twice", noun, c.URL).WithHint("remove one of the two")
		case c.Name != "" && (!catalogName().MatchString(c.Name) || slices.Contains(reserved, c.Name)):
			return invalid(path, c.Line, "%.80q cannot be the name of a catalog", c.Name).
				WithHint("use 1 to 32 lower-case letters, digits, hyphens and underscores, other than %s", strings.Join(reserved, " and "))
		case c.Name != "" && names[c.Name]:
			return invalid(path, c.Line, "two %s catalogs are named %q", noun, c.Name).WithHint("give one of them another name")
		}
		names[c.Name], urls[c.URL] = true, true
	}
	return nil
}
