package oci

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"unicode"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"banger"
	"banger/internal/fetch"
)

// maxSaid is how much of a registry's own error text is shown.
const maxSaid = 300

// status makes an answer of the registry one that fetch can judge. The header
// is that of the answer, where it is known. Other errors stay as they are.
func status(err error, header http.Header) error {
	var answer *transport.Error
	if !errors.As(err, &answer) {
		return err
	}
	return &fetch.StatusError{Code: answer.StatusCode, Header: header, Err: err}
}

// explain turns an error of the network or of the registry into one for the
// user. An error that already is one only gets what was being done in front.
func (c *client) explain(ctx context.Context, doing string, err error) error {
	var own *banger.Error
	var answer *transport.Error
	if ctx.Err() == nil && !errors.As(err, &own) && errors.As(err, &answer) {
		return c.answered(doing, answer)
	}
	return fetch.Explain(ctx, doing, err)
}

// loginPlaces are where go-containerregistry looks, in its order.
const loginPlaces = "logins are read from ~/.docker/config.json, $DOCKER_CONFIG/config.json, $REGISTRY_AUTH_FILE and " +
	"$XDG_RUNTIME_DIR/containers/auth.json, in the daemon's environment"

// answered explains an error status of the registry.
func (c *client) answered(doing string, a *transport.Error) error {
	reg, said := c.ref.registry(), says(a)
	switch a.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		// A registry that hides what exists says the same for an unknown repository.
		return banger.Errorf(banger.Unavailable, "%s: %s wants a login, or has no such repository (%s)", doing, reg, said).
			WithHint("log in with: podman login %s   (or: docker login %s); %s", reg, reg, loginPlaces)
	case http.StatusNotFound:
		return banger.Errorf(banger.NotFound, "%s: %s does not have it (%s)", doing, reg, said).
			WithHint("check the repository and the tag")
	case http.StatusTooManyRequests:
		return banger.Errorf(banger.Unavailable, "%s: %s limits the rate of pulls (%s)", doing, reg, said).
			WithHint("wait, or log in with: podman login %s   (or: docker login %s)", reg, reg)
	}
	return banger.Errorf(banger.Unavailable, "%s: %s answers %s", doing, reg, said)
}

// says is what the registry itself said, safe for a terminal.
func says(a *transport.Error) string {
	s := fmt.Sprintf("%d %s", a.StatusCode, http.StatusText(a.StatusCode))
	for _, d := range a.Errors {
		s += fmt.Sprintf(", %s: %s", d.Code, d.Message)
	}
	s = strings.Map(printable, s)
	if len(s) > maxSaid {
		s = strings.ToValidUTF8(s[:maxSaid], "") + "..."
	}
	return s
}

// printable drops what is not safe for a terminal, as a mapping of strings.Map.
func printable(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return -1
}

// storeError explains why a blob could not be written to the cache.
func storeError(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		var p *os.PathError
		if errors.As(err, &p) {
			err = p.Err
		}
		return banger.Errorf(banger.Exhausted, "write the blob cache: %w", err).
			WithHint("make room on the disk that holds the cache; banger's cached blobs can be deleted")
	}
	return fmt.Errorf("write the blob cache: %w", err)
}
