package architecture

import (
	"go/ast"
	"go/token"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// maxDirect is how many modules banger itself may depend on.
const maxDirect = 15

// TestDependencies wants a reason beside each direct dependency in go.mod.
func TestDependencies(t *testing.T) {
	direct := 0
	inBlock, forTests := false, false // what only tests import is not banger's own
	for line := range strings.Lines(read(t, "go.mod")) {
		line = strings.TrimSpace(line)
		single := strings.HasPrefix(line, "require ") && !strings.HasSuffix(line, "(")
		switch {
		case line == "require (":
			inBlock = true
			continue
		case line == ")":
			inBlock, forTests = false, false
			continue
		case line == "// Test dependencies.":
			forTests = true
			continue
		case !inBlock && !single, line == "", strings.HasPrefix(line, "//"):
			continue
		}
		module, reason, _ := strings.Cut(strings.TrimPrefix(line, "require "), "//")
		reason = strings.TrimSpace(reason)
		if reason == "indirect" || strings.HasPrefix(reason, "indirect;") {
			continue
		}
		if !forTests {
			direct++
		}
		if reason == "" {
			t.Errorf("go.mod: %s has no reason; write one after it: // what it is for", strings.TrimSpace(module))
		}
	}
	if direct > maxDirect {
		t.Errorf("go.mod: %d direct dependencies, more than %d", direct, maxDirect)
	}
}

// TestDirectDependenciesAreMarked wants every module that is imported to be a
// direct dependency, so that TestDependencies sees it.
func TestDirectDependenciesAreMarked(t *testing.T) {
	indirect := map[string]bool{}
	for line := range strings.Lines(read(t, "go.mod")) {
		if fields := strings.Fields(line); len(fields) >= 2 && strings.Contains(line, "// indirect") {
			indirect[fields[0]] = true
		}
	}
	reported := map[string]bool{}
	for _, s := range sources(t) {
		for _, spec := range s.ast.Imports {
			path, _ := strconv.Unquote(spec.Path.Value)
			for module := range indirect {
				if (path == module || strings.HasPrefix(path, module+"/")) && !reported[module] {
					reported[module] = true
					t.Errorf("go.mod: %s is imported (%s), so it is not indirect", module, s.path)
				}
			}
		}
	}
}

// TestStateIsDescribed wants every name that banger gives a file to be in docs/STATE.md.
func TestStateIsDescribed(t *testing.T) {
	doc := read(t, "docs/STATE.md")
	found := 0
	for _, s := range sources(t) {
		if s.path != "internal/state/paths.go" {
			continue
		}
		for name, value := range stringConstants(s) {
			if !ast.IsExported(name) {
				continue
			}
			found++
			if !strings.Contains(doc, value) {
				t.Errorf("docs/STATE.md does not describe %q (state.%s)", value, name)
			}
		}
	}
	if found == 0 {
		t.Error("internal/state/paths.go has no constants")
	}
}

// stringConstants are the constants of a file that are plain strings.
func stringConstants(s *source) map[string]string {
	consts := map[string]string{}
	for _, d := range s.ast.Decls {
		decl, ok := d.(*ast.GenDecl)
		if !ok || decl.Tok != token.CONST {
			continue
		}
		for _, spec := range decl.Specs {
			v, ok := spec.(*ast.ValueSpec)
			if !ok {
				continue
			}
			for i, name := range v.Names {
				if i >= len(v.Values) {
					break
				}
				if lit, ok := v.Values[i].(*ast.BasicLit); ok && lit.Kind == token.STRING {
					consts[name.Name], _ = strconv.Unquote(lit.Value)
				}
			}
		}
	}
	return consts
}

// TestScripts wants the scripts to run from a checkout, and to stop at the first error.
func TestScripts(t *testing.T) {
	seen := 0
	for _, pattern := range []string{"scripts/*", ".ci/*"} {
		paths, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			fi, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if fi.IsDir() {
				continue
			}
			seen++
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if fi.Mode()&0o111 == 0 || !strings.HasPrefix(string(b), "#!/usr/bin/env bash\n") {
				t.Errorf("%s is not an executable bash script", path)
			}
			if !strings.Contains(string(b), "\nset -euo pipefail\n") {
				t.Errorf("%s does not set -euo pipefail", path)
			}
		}
	}
	if seen == 0 {
		t.Error("found no scripts")
	}
}
