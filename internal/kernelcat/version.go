package kernelcat

import (
	"cmp"
	"strings"
)

// compareVersions orders kernel versions, as uname -r gives them, by age: 6.9
// before 6.10, 6.1.0-9 before 6.1.0-10, 6.2-rc1 and 6.2~rc1 before 6.2. It is
// the order of rpm's packages (rpm-version(7)), which for those of Debian's
// kernels gives the same as theirs: numbers and words are compared one after
// the other, whatever stands between them. What upstream and Debian call early
// is read as either's mark for that, '~'.
func compareVersions(a, b string) int {
	a, b = early.Replace(a), early.Replace(b)
	for a != "" || b != "" {
		var x, y token
		x, a = cutToken(a)
		y, b = cutToken(b)
		if c := cmp.Or(cmp.Compare(x.kind, y.kind), cmp.Compare(len(x.number), len(y.number)), cmp.Compare(x.number, y.number), cmp.Compare(x.word, y.word)); c != 0 {
			return c
		}
	}
	return 0
}

// early reads what says that a version comes before the release it names.
var early = strings.NewReplacer("-rc", "~rc", "-pre", "~pre", "-trunk", "~trunk")

// token is a part of a version.
type token struct {
	kind   int
	number string // without zeros before it
	word   string
}

// The kinds of tokens, in their order.
const (
	tilde = iota
	end
	word
	number
)

const (
	digits  = "0123456789"
	letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
)

// cutToken takes the first token off s.
func cutToken(s string) (token, string) {
	s = strings.TrimLeftFunc(s, func(r rune) bool { return r != '~' && !strings.ContainsRune(digits+letters, r) })
	cut := func(set string) (string, string) {
		rest := strings.TrimLeft(s, set)
		return s[:len(s)-len(rest)], rest
	}
	switch {
	case s == "":
		return token{kind: end}, ""
	case s[0] == '~':
		return token{kind: tilde}, s[1:]
	case startsDigit(s):
		n, rest := cut(digits)
		return token{kind: number, number: strings.TrimLeft(n, "0")}, rest
	}
	w, rest := cut(letters)
	return token{kind: word, word: w}, rest
}

func startsDigit(s string) bool { return s != "" && s[0] >= '0' && s[0] <= '9' }
