package state

import (
	"regexp"
	"sync"

	"banger"
)

// Grammars with bounded repeats take up to a millisecond to compile, and most
// commands of the command line need none: they are compiled when first used.

// objectName is the grammar of kernel and image names and of VM IDs, which are all names of folders.
var objectName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`) })

// vmName is the grammar of VM names: they are host names too.
var vmName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`) })

// ValidateName checks the name of a kernel or an image before it becomes a path.
func ValidateName(noun, name string) error {
	if !objectName().MatchString(name) {
		return banger.Errorf(banger.Invalid, "bad %s name %q", noun, name).
			WithHint("use letters, digits, dots, hyphens and underscores; no leading dot or hyphen")
	}
	return nil
}

// ValidateVMName checks the name of a VM.
func ValidateVMName(name string) error {
	if !vmName().MatchString(name) {
		return banger.Errorf(banger.Invalid, "bad vm name %q", name).
			WithHint("use 1 to 63 lower-case letters, digits and hyphens, no leading hyphen")
	}
	return nil
}

// Nearest is the candidate that name was most likely meant to be, or "".
func Nearest(name string, candidates []string) string {
	best, limit := "", len(name)/3+1
	for _, c := range candidates {
		if d := distance(name, c); d <= limit && (best == "" || d < distance(name, best)) {
			best = c
		}
	}
	return best
}

// distance is the Levenshtein distance in bytes; names are ASCII.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
