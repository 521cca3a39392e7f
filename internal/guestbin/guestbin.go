// Package guestbin is the guest program, embedded into banger when it is built.
package guestbin

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"sync"

	"banger"
)

//go:embed bin
var bin embed.FS

// Bytes is the guest program, an ELF executable for this architecture. The
// error is Unsupported when banger was built without it. Callers must not
// change the bytes.
func Bytes() ([]byte, error) { return load() }

// SHA256 is the digest of the program in hex.
func SHA256() (string, error) { return digest() }

var load = sync.OnceValues(func() ([]byte, error) {
	b, err := bin.ReadFile("bin/banger-guest")
	if err != nil {
		return nil, banger.Errorf(banger.Unsupported, "banger was built without its guest program").WithHint("make build")
	}
	return b, nil
})

var digest = sync.OnceValues(func() (string, error) {
	b, err := load()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
})
