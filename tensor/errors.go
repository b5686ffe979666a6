package tensor

import (
	"errors"
	"fmt"

	"github.com/spin-native/spin/kernels"
)

// Error is a misuse or a lack of memory, found by this package or by one above it.
type Error struct {
	Op  string // package and operation, for example "tensor.Conv2D"
	Msg string // what was given and what was expected
	Err error  // the cause, or nil
}

func (e *Error) Error() string {
	s := e.Op + ": " + e.Msg
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// Fail panics with an *Error, to be caught by Catch at the edge of the program's library.
func Fail(op, format string, args ...any) {
	panic(&Error{Op: op, Msg: fmt.Sprintf(format, args...)})
}

// FailWith is Fail with a cause that errors.Is and errors.As can find.
func FailWith(op string, cause error, format string, args ...any) {
	panic(&Error{Op: op, Msg: fmt.Sprintf(format, args...), Err: cause})
}

// Catch turns a panic with *Error, or with a backend's lack of scratch memory, into an error; any other panic goes on.
// Use it deferred.
func Catch(err *error) {
	switch e := recover().(type) {
	case nil:
	case *Error:
		*err = e
	case error:
		if !errors.Is(e, kernels.ErrOutOfMemory) {
			panic(e)
		}
		*err = e
	default:
		panic(e)
	}
}
