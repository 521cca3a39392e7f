package oci

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"unicode"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"banger"
)

// maxSaid is how much of a registry's own error text is shown.
const maxSaid = 300

// transient reports whether trying again may help. Failing to connect is not:
// an absent registry must be known within seconds, so that another source of
// the image gets its turn. Neither is a timeout, for the same reason.
func transient(ctx context.Context, err error) bool {
	var (
		own     *banger.Error
		refused *refusal
		answer  *transport.Error
		op      *net.OpError
		dns     *net.DNSError
		cert    *tls.CertificateVerificationError
		record  tls.RecordHeaderError
		timeout interface{ Timeout() bool }
	)
	switch {
	case ctx.Err() != nil:
		return false
	case errors.As(err, &own), errors.As(err, &refused), errors.As(err, &dns),
		errors.As(err, &cert), errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return false
	case errors.As(err, &op) && (op.Op == "dial" || op.Op == "proxyconnect"):
		return false
	case errors.As(err, &answer):
		switch answer.StatusCode {
		case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
			http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return true
		}
		return false
	case errors.Is(err, errStalled):
		return true
	case errors.As(err, &timeout) && timeout.Timeout():
		return false
	}
	return true
}

// explain turns an error of the network or of the registry into one for the
// user. An error that already is one only gets what was being done in front.
func (c *client) explain(ctx context.Context, doing string, err error) error {
	if ctx.Err() != nil {
		return banger.Errorf(banger.Canceled, "%s: %w", doing, context.Cause(ctx))
	}
	var own *banger.Error
	if errors.As(err, &own) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	var answer *transport.Error
	if errors.As(err, &answer) {
		return c.answered(doing, answer)
	}
	var cert *tls.CertificateVerificationError
	var refused *refusal
	var dial *net.OpError
	switch {
	case errors.As(err, &cert):
		return banger.Errorf(banger.Unavailable, "%s: %w", doing, cert).
			WithHint("install the registry's CA certificate with update-ca-certificates")
	case errors.As(err, &refused) && (!errors.As(err, &dial) || errors.Is(dial, refused)):
		// Where https could not even be dialled, that is the news, not that http was refused.
		return banger.Errorf(banger.Unavailable, "%s: %w", doing, refused)
	}
	return banger.Errorf(banger.Unavailable, "%s: %w", doing, bare(err)).
		WithHint("check the registry's name and the network (a proxy is taken from HTTPS_PROXY)")
}

// answered explains an error status of the registry.
func (c *client) answered(doing string, a *transport.Error) error {
	reg, said := c.ref.registry(), says(a)
	switch a.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		// A registry that hides what exists says the same for an unknown repository.
		return banger.Errorf(banger.Unavailable, "%s: %s wants a login, or has no such repository (%s)", doing, reg, said).
			WithHint("log in with: podman login %s   (or: docker login %s)", reg, reg)
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
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, s)
	if len(s) > maxSaid {
		s = strings.ToValidUTF8(s[:maxSaid], "") + "..."
	}
	return s
}

// bare takes the URL out of an error: a redirected one may hold a signature
// that opens the blob to whoever reads the log.
func bare(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
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
