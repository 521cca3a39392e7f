package architecture

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
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
	case ".git", "bin", "dist", "testdata":
		return true
	}
	return false
}

// walkTree calls do with every regular file of the checkout, by its path below it.
func walkTree(do func(path string) error) error {
	return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
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
			return do(filepath.ToSlash(rel))
		}
		return nil
	})
}

// sources is every Go file of the module, whatever its build tags.
func sources(t *testing.T) []*source {
	t.Helper()
	all, err := parsed()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		t.Fatal("found no Go files")
	}
	return all
}

// parsed parses them once for all tests.
var parsed = sync.OnceValues(func() ([]*source, error) {
	var all []*source
	err := walkTree(func(path string) error {
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		b, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			return err
		}
		s := &source{path: path, pkg: filepath.ToSlash(filepath.Dir(path)), test: strings.HasSuffix(path, "_test.go"), text: string(b), fset: token.NewFileSet()}
		s.ast, err = parser.ParseFile(s.fset, path, b, parser.ParseComments)
		all = append(all, s)
		return err
	})
	return all, err
})

// read is the text of a file of the checkout.
func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
