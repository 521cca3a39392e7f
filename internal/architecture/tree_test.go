package architecture

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// root is the checkout, seen from this package.
const root = "../.."

// source is one Go file.
type source struct {
	path string // below the checkout, for instance internal/oci/ref.go
	pkg  string // import path below the module: internal/oci, or . for the root
	test bool
	text string
	fset *token.FileSet
	ast  *ast.File
}

// line is the line of a position in the file.
func (s *source) line(p token.Pos) int { return s.fset.Position(p).Line }

// skipped reports whether a folder holds nothing to check: what was built,
// what git keeps, test data.
func skipped(path string) bool {
	switch filepath.Base(path) {
	case ".git", "bin", "testdata":
		return true
	}
	return false
}

// walk calls do with every regular file of the checkout, by its path below it.
func walk(t *testing.T, do func(path string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			if path != root && skipped(path) {
				return filepath.SkipDir
			}
			return nil
		}
		if e.Type().IsRegular() {
			rel, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			do(filepath.ToSlash(rel))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// sources parses every Go file of the module, whatever its build tags.
func sources(t *testing.T) []*source {
	t.Helper()
	var all []*source
	walk(t, func(path string) {
		if !strings.HasSuffix(path, ".go") {
			return
		}
		s := &source{path: path, pkg: filepath.ToSlash(filepath.Dir(path)), test: strings.HasSuffix(path, "_test.go"), fset: token.NewFileSet()}
		s.text = read(t, path)
		var err error
		if s.ast, err = parser.ParseFile(s.fset, path, s.text, parser.ParseComments); err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	})
	if len(all) == 0 {
		t.Fatal("found no Go files")
	}
	return all
}

// read is the text of a file of the checkout.
func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
