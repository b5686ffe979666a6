package checkpoint

import (
	"errors"
	"fmt"
	"strings"
)

// What can be wrong with a checkpoint, for errors.Is. Every *Error matches one of them.
var (
	// ErrUnrecognised: the tensors are of no network that this package knows.
	ErrUnrecognised = errors.New("network not recognised")
	// ErrMixed: the tensors are of two networks at once.
	ErrMixed = errors.New("several networks mixed")
	// ErrMissing: a tensor that the network needs is not there.
	ErrMissing = errors.New("missing tensor")
	// ErrUnused: a tensor has no place in the network.
	ErrUnused = errors.New("tensor without a place")
	// ErrShape: a tensor has another shape than the network needs.
	ErrShape = errors.New("wrong shape")
	// ErrConfig: a configuration is malformed, impossible, or contradicts the tensors.
	ErrConfig = errors.New("wrong configuration")
	// ErrScale: a first stage shrinks pictures by another factor than the one whose latents the UNet works on.
	ErrScale = errors.New("first stage of another scale")
	// ErrSpace: nothing tells whether a UNet works on pictures or on latents.
	ErrSpace = errors.New("pictures or latents")
	// ErrUnsupported: understood, but there is no way to run or write it.
	ErrUnsupported = errors.New("not supported")
)

// Error says what is wrong with which file.
type Error struct {
	Kind   error  // one of the errors above
	File   string // as it was given, or a file in the folder that was given
	Tensor string // by its name in the file, or ""
	Msg    string
}

func (e *Error) Error() string {
	s := e.Msg
	if e.Tensor != "" {
		s = fmt.Sprintf("tensor %s: %s", quote(e.Tensor), s)
	}
	if e.File != "" {
		s = e.File + ": " + s
	}
	return s
}

// Unwrap gives the kind to errors.Is.
func (e *Error) Unwrap() error { return e.Kind }

func fail(kind error, format string, args ...any) *Error {
	return &Error{Kind: kind, Msg: fmt.Sprintf(format, args...)}
}

func failTensor(kind error, tensor, format string, args ...any) *Error {
	return &Error{Kind: kind, Tensor: tensor, Msg: fmt.Sprintf(format, args...)}
}

// in names the file in an error of this package that does not name one yet.
func in(file string, err error) error {
	if e, ok := err.(*Error); ok && e.File == "" {
		c := *e
		c.File = file
		return &c
	}
	return err
}

// quote makes text from a file fit for one line of a message.
func quote(s string) string {
	const most = 160
	if len(s) > most {
		return fmt.Sprintf("%q...", strings.ToValidUTF8(s[:most], "?"))
	}
	return fmt.Sprintf("%q", s)
}

// printable is text from a file without quotes, unless it needs them.
func printable(s string) string {
	if q := quote(s); len(q) != len(s)+2 || q[1:len(q)-1] != s {
		return q
	}
	return s
}
