// Package kernelcat is the kernels: the catalogs of those that can be had, the
// sources they come from, and the folder of those that are here.
package kernelcat

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"banger"
)

// Entry is the record of a kernel that is here.
type Entry = banger.Kernel

// maxName bounds a kernel's name: it is a directory name and part of others.
const maxName = 64

// ValidateName checks a kernel's name: letters, digits, dots, hyphens and
// underscores, at most 64, and neither a dot nor a hyphen first, so that it is
// a plain file name and never an option. The error is Invalid.
func ValidateName(name string) error {
	switch {
	case name == "":
		return banger.Errorf(banger.Invalid, "a kernel name is empty")
	case len(name) > maxName:
		return banger.Errorf(banger.Invalid, "kernel name %q... is longer than %d bytes", name[:maxName], maxName)
	case name[0] == '.' || name[0] == '-':
		return banger.Errorf(banger.Invalid, "kernel name %q starts with %q", name, name[:1])
	}
	for _, r := range name {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' || r == '_' {
			continue
		}
		return banger.Errorf(banger.Invalid, "kernel name %q has %q: only letters, digits, dots, hyphens and underscores are allowed", name, r)
	}
	return nil
}

// nameFrom makes a kernel's name of a source's.
func nameFrom(s string) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' || r == '_' {
			return r
		}
		return '-'
	}, s)
	name = strings.TrimLeft(name, ".-")
	return name[:min(len(name), maxName)]
}

// fail makes an error of the kind whose text is the format's alone and whose
// cause still answers to errors.Is.
func fail(kind banger.Kind, cause error, format string, args ...any) *banger.Error {
	err := banger.Errorf(kind, "%w", cause)
	err.Msg = fmt.Sprintf(format, args...)
	return err
}

// orExhausted gives an error of a full disk or quota its kind.
func orExhausted(err error) error {
	full := errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
	if full && !banger.IsKind(err, banger.Exhausted) {
		return banger.Errorf(banger.Exhausted, "%w", err)
	}
	return err
}
