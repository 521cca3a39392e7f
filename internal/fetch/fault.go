package fetch

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"

	"banger"
)

// StatusError is an answer that is not what was asked for.
type StatusError struct {
	Code   int         // the HTTP status
	Header http.Header // of the answer
	Err    error       // what the answer says in its own words, may be nil
}

func (e *StatusError) Error() string {
	if e.Err != nil {
		return e.Err.Error()
	}
	// The server's own words for a status are not shown: they may hold anything.
	status := fmt.Sprintf("%d %s", e.Code, http.StatusText(e.Code))
	switch e.Code {
	case http.StatusNotFound, http.StatusGone:
		return fmt.Sprintf("the server does not have it (%s)", status)
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Sprintf("the server does not give it to everybody, or does not have it (%s)", status)
	case http.StatusTooManyRequests:
		return fmt.Sprintf("the server limits the rate of requests (%s)", status)
	}
	return "the server answers " + status
}

// Unwrap gives the answer's own words.
func (e *StatusError) Unwrap() error { return e.Err }

func statusOf(err error) *StatusError {
	var s *StatusError
	if errors.As(err, &s) {
		return s
	}
	return nil
}

// mayPass reports whether a status may be another one soon.
func mayPass(code int) bool {
	switch code {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported, http.StatusNetworkAuthenticationRequired:
		return false
	}
	return code >= 500
}

// transient reports whether trying again may help. Failing to connect is not,
// nor is a timeout, unless the server is known to be there: part of the file
// has been read.
func transient(ctx context.Context, err error, begun bool) bool {
	var (
		own     *banger.Error
		refused *Refusal
		op      *net.OpError
		dns     *net.DNSError
		cert    *tls.CertificateVerificationError
		record  tls.RecordHeaderError
		timeout interface{ Timeout() bool }
	)
	switch {
	case ctx.Err() != nil:
		return false
	case errors.As(err, &own), errors.As(err, &refused), errors.As(err, &cert), errors.As(err, &record),
		errors.Is(err, http.ErrSchemeMismatch):
		return false
	case statusOf(err) != nil:
		return mayPass(statusOf(err).Code)
	case errors.Is(err, ErrStalled), begun:
		return true
	case errors.As(err, &dns), errors.As(err, &op) && (op.Op == "dial" || op.Op == "proxyconnect"):
		return false
	case errors.As(err, &timeout) && timeout.Timeout():
		return false
	}
	return true
}

// Explain turns an error of a request into one for the user; doing is what was
// being done. An error that already is for the user only gets that in front.
//
// Kinds: Canceled if ctx has ended, NotFound for the statuses 404 and 410, else
// Unavailable.
func Explain(ctx context.Context, doing string, err error) error {
	if ctx.Err() != nil {
		return banger.Errorf(banger.Canceled, "%s: %w", doing, context.Cause(ctx))
	}
	var own *banger.Error
	if errors.As(err, &own) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if s := statusOf(err); s != nil {
		return explainStatus(doing, s.Code, err)
	}
	var cert *tls.CertificateVerificationError
	var refused *Refusal
	var dial *net.OpError
	switch {
	case errors.As(err, &cert):
		return banger.Errorf(banger.Unavailable, "%s: %w", doing, cert).
			WithHint("install the server's CA certificate with update-ca-certificates")
	case errors.As(err, &refused) && (!errors.As(err, &dial) || errors.Is(dial, refused)):
		// Where https could not even be dialled, that is the news, not that http was refused.
		return banger.Errorf(banger.Unavailable, "%s: %w", doing, refused).WithHint("%s", refused.Hint)
	}
	return banger.Errorf(banger.Unavailable, "%s: %w", doing, bare(err)).
		WithHint("check the server's name and the network (a proxy is taken from HTTPS_PROXY)")
}

func explainStatus(doing string, code int, err error) error {
	err = bare(err)
	switch {
	case code == http.StatusNotFound, code == http.StatusGone:
		return banger.Errorf(banger.NotFound, "%s: %w", doing, err).WithHint("check the URL")
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return banger.Errorf(banger.Unavailable, "%s: %w", doing, err).WithHint("check the URL, and whether it can be read without a login")
	case code == http.StatusTooManyRequests, mayPass(code):
		return banger.Errorf(banger.Unavailable, "%s: %w", doing, err).WithHint("try again later")
	}
	return banger.Errorf(banger.Unavailable, "%s: %w", doing, err)
}

// bare takes the URL out of an error: a redirected one may hold a signature
// that opens the file to whoever reads the log.
func bare(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
