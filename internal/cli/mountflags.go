package cli

import (
	"fmt"
	"path/filepath"
	"strings"

	"banger"
)

// parseMount takes a word HOSTDIR:GUESTDIR[:ro] apart; a path of this host may
// have colons, and is from where the command runs.
func parseMount(word string) (banger.Mount, error) {
	var m banger.Mount
	rest, readOnly := strings.CutSuffix(word, ":ro")
	if !readOnly {
		rest = strings.TrimSuffix(word, ":rw")
	}
	i := strings.LastIndex(rest, ":/")
	if i < 1 {
		return m, fmt.Errorf("bad --mount %q: want HOSTDIR:GUESTDIR[:ro], GUESTDIR an absolute path in the VM", word)
	}
	source, err := filepath.Abs(rest[:i])
	if err != nil {
		return m, err
	}
	return banger.Mount{Source: source, Target: filepath.Clean(rest[i+1:]), ReadOnly: readOnly}, nil
}
