package parcel

import (
	"errors"
	"io"
)

// MaxOrder bounds an Order, a Ticket and a Result, in bytes of JSON.
const MaxOrder = 64 << 10

// Order is what the host asks of a guest's agent: one of Pack and Unpack.
type Order struct {
	User   string  `json:"user,omitempty"` // user[:group] that does it; empty is root
	Pack   *Source `json:"pack,omitempty"`
	Unpack *Target `json:"unpack,omitempty"`
}

// Ticket is the agent's first answer: the word that the data begin with.
type Ticket struct {
	Token string `json:"token"`
}

// Result is how an order ended.
type Result struct {
	Report Report `json:"report"`
	Error  string `json:"error,omitempty"`
}

// Do carries an order out: data come from r, or go to w.
func (o Order) Do(r io.Reader, w io.Writer) Result {
	var res Result
	err := errors.New("copy: nothing is asked for")
	switch {
	case o.Pack != nil && o.Unpack == nil:
		res.Report, err = Pack(w, *o.Pack)
	case o.Unpack != nil && o.Pack == nil:
		res.Report, err = Unpack(r, *o.Unpack)
	}
	if err != nil {
		res.Error = err.Error()
	}
	if n := maxName; len(res.Error) > n {
		res.Error = res.Error[:n]
	}
	return res
}
