package architecture

import (
	"go/ast"
	"go/token"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Sizes in lines. A test may be longer than other functions: it is a table or
// a story, read from top to bottom.
const (
	maxFile     = 500
	aimFunc     = 60
	maxFunc     = 80
	maxTestFunc = 120
)

func TestSizes(t *testing.T) {
	over := 0
	for _, s := range sources(t) {
		if n := strings.Count(s.text, "\n"); n > maxFile {
			t.Errorf("%s has %d lines, more than %d: split it by subject", s.path, n, maxFile)
		}
		limit := maxFunc
		if s.test {
			limit = maxTestFunc
		}
		for _, d := range s.ast.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			n := s.line(f.End()) - s.line(f.Pos()) + 1
			if n > limit {
				t.Errorf("%s:%d: %s has %d lines, more than %d: split it by step", s.path, s.line(f.Pos()), f.Name.Name, n, limit)
			}
			if n > aimFunc && !s.test {
				over++
				t.Logf("%s:%d: %s has %d lines", s.path, s.line(f.Pos()), f.Name.Name, n)
			}
		}
	}
	t.Logf("%d functions have more than %d lines", over, aimFunc)
}

// TestPackageDocs wants one sentence for each package that says what it is.
func TestPackageDocs(t *testing.T) {
	docs := map[string][]*source{}
	for _, s := range sources(t) {
		if _, ok := docs[s.pkg]; !ok {
			docs[s.pkg] = nil
		}
		if s.ast.Doc != nil && !s.test {
			docs[s.pkg] = append(docs[s.pkg], s)
		}
	}
	for pkg, files := range docs {
		if len(files) != 1 {
			t.Errorf("package %s has %d package comments, want 1", pkg, len(files))
			continue
		}
		f := files[0]
		want := "Package " + f.ast.Name.Name + " "
		if f.ast.Name.Name == "main" {
			want = "Command " + pkg[strings.LastIndex(pkg, "/")+1:] + " "
		}
		if !strings.HasPrefix(f.ast.Doc.Text(), want) {
			t.Errorf("%s: the package comment starts with %.30q, want %q", f.path, f.ast.Doc.Text(), want)
		}
	}
}

// TestNoInit wants what runs to be seen from main.
func TestNoInit(t *testing.T) {
	for _, s := range sources(t) {
		for _, d := range s.ast.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				t.Errorf("%s:%d: func init: do it where it is needed, or in main", s.path, s.line(f.Pos()))
			}
		}
	}
}

// TestErrorStrings wants bare verb phrases: every error means that something failed.
func TestErrorStrings(t *testing.T) {
	for _, s := range sources(t) {
		ast.Inspect(s.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || !makesError(call.Fun) {
				return true
			}
			for _, arg := range call.Args {
				lit, ok := arg.(*ast.BasicLit)
				if ok && lit.Kind == token.STRING && strings.Contains(strings.ToLower(lit.Value), "failed "+"to") {
					t.Errorf("%s:%d: say what was being done, without %q: %s", s.path, s.line(lit.Pos()), "failed "+"to", lit.Value)
				}
			}
			return true
		})
	}
}

// makesError reports whether a function is errors.New or some Errorf.
func makesError(fun ast.Expr) bool {
	sel, ok := fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	pkg, _ := sel.X.(*ast.Ident)
	return sel.Sel.Name == "Errorf" || sel.Sel.Name == "New" && pkg != nil && pkg.Name == "errors"
}

// unfinished are the words with which people mark what they leave for later.
// They are put together here so that this file does not hold them.
var unfinished = regexp.MustCompile(`\b(` + strings.Join([]string{"TO" + "DO", "FIX" + "ME", "XX" + "X"}, "|") + `)\b`)

// TestNothingLeftForLater looks at all text that belongs to the project.
func TestNothingLeftForLater(t *testing.T) {
	text := []string{".go", ".md", ".mod", ".json", ".txtar", ".toml", ".yml", "Makefile"}
	err := walkTree(func(path string) error {
		script := strings.HasPrefix(path, "scripts/") || strings.HasPrefix(path, ".ci/")
		if !script && !slices.ContainsFunc(text, func(end string) bool { return strings.HasSuffix(path, end) }) {
			return nil
		}
		number := 0
		for line := range strings.Lines(read(t, path)) {
			number++
			if unfinished.MatchString(line) {
				t.Errorf("%s:%d: do it now or make it an issue: %s", path, number, strings.TrimSpace(line))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
