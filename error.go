package banger

import (
	"errors"
	"fmt"
	"net/http"
)

// Kind classes an error so that programs can act on it. The list is closed.
type Kind string

// The error kinds. Each maps to one HTTP status (see Kind.Status).
const (
	NotFound    Kind = "not_found"   // the named object does not exist
	Exists      Kind = "exists"      // an object of that name is already there
	Invalid     Kind = "invalid"     // the request itself is wrong
	Conflict    Kind = "conflict"    // the object is in a state that forbids it
	Unsupported Kind = "unsupported" // this host or build cannot do it
	Unavailable Kind = "unavailable" // something outside banger is missing or does not answer
	Exhausted   Kind = "exhausted"   // no space, memory or other resource is left
	Canceled    Kind = "canceled"    // the caller went away or asked to stop
	Internal    Kind = "internal"    // a fault of banger itself
)

// statuses is the one table between kinds and HTTP statuses.
var statuses = []struct {
	kind   Kind
	status int
}{
	{NotFound, http.StatusNotFound},
	{Exists, http.StatusConflict},
	{Invalid, http.StatusBadRequest},
	{Conflict, http.StatusPreconditionFailed},
	{Unsupported, http.StatusNotImplemented},
	{Unavailable, http.StatusServiceUnavailable},
	{Exhausted, http.StatusInsufficientStorage},
	{Canceled, 499}, // the status nginx made common for "client closed request"
	{Internal, http.StatusInternalServerError},
}

// Status is the HTTP status that carries an error of kind k.
func (k Kind) Status() int {
	for _, s := range statuses {
		if s.kind == k {
			return s.status
		}
	}
	return http.StatusInternalServerError
}

// Error is the one error type that crosses package and process borders: what
// happened, and where the user can act, the next command to run.
type Error struct {
	Kind Kind   `json:"kind"`
	Msg  string `json:"message"`
	Hint string `json:"hint,omitempty"`

	cause error
}

func (e *Error) Error() string { return e.Msg }

// Unwrap gives the error that Errorf was asked to wrap.
func (e *Error) Unwrap() error { return e.cause }

// Errorf makes an Error of the kind. A %w in the format is kept as its cause.
func Errorf(kind Kind, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Kind: kind, Msg: err.Error(), cause: errors.Unwrap(err)}
}

// WithHint returns a copy of e that tells the user what to do next.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// AsError turns any error into an *Error. The kind and the hint of the first
// Error in the chain are kept, the text is that of the whole chain.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if !errors.As(err, &e) {
		return &Error{Kind: Internal, Msg: err.Error(), cause: err}
	}
	return &Error{Kind: e.Kind, Msg: err.Error(), Hint: e.Hint, cause: err}
}

// IsKind reports whether err holds an Error of that kind.
func IsKind(err error, kind Kind) bool {
	var e *Error
	return errors.As(err, &e) && e.Kind == kind
}
