package torchfile

import (
	"errors"
	"fmt"

	"github.com/spin-native/spin/weights"
)

// ErrForbidden is matched by the error for an opcode or a global that is not on the list of what a checkpoint may use.
var ErrForbidden = errors.New("not allowed in a checkpoint")

// Error says where a file is not what it should be. It matches weights.ErrFormat.
type Error struct {
	File   string
	Offset int64  // byte in the file
	Tensor string // the tensor concerned, or ""
	Msg    string

	forbidden bool
}

func (e *Error) Error() string {
	s := fmt.Sprintf("torchfile: %s: byte %d: ", e.File, e.Offset)
	if e.Tensor != "" {
		s += "tensor " + quote(e.Tensor) + ": "
	}
	return s + e.Msg
}

// Is makes errors.Is true for weights.ErrFormat and, where it applies, for ErrForbidden.
func (e *Error) Is(target error) bool {
	return target == weights.ErrFormat || target == ErrForbidden && e.forbidden
}

// fail ends the reading of a file: inside, errors travel as panics, and catch ends the journey.
func fail(at int, format string, args ...any) {
	panic(&Error{Offset: int64(at), Msg: fmt.Sprintf(format, args...)})
}

// forbid is fail for what ErrForbidden means.
func forbid(at int, format string, args ...any) {
	panic(&Error{Offset: int64(at), Msg: fmt.Sprintf(format, args...), forbidden: true})
}

func catch(err *error) {
	switch r := recover().(type) {
	case nil:
	case *Error:
		*err = r
	default:
		panic(r)
	}
}

// quote makes text from a file fit for one line of a message.
func quote(s string) string {
	const most = 120
	if len(s) > most {
		return fmt.Sprintf("%+q...", s[:most])
	}
	return fmt.Sprintf("%q", s)
}

// budget is the memory, in bytes, that the parts of a file may still make the reader allocate. What is spent does not
// come back: the total counts, not what is alive. Costs are estimates from above, growth of slices and maps included.
type budget int64

// freeBudget is what the smallest file may use.
const freeBudget = 32 << 20

// maxFileBudget bounds what a large file adds: no tree of a real checkpoint comes near it.
const maxFileBudget = 1 << 30

func newBudget(fileSize int) *budget {
	b := budget(freeBudget + min(fileSize, maxFileBudget))
	return &b
}

func (b *budget) spend(at, cost int) {
	if *b -= budget(cost); *b < 0 {
		fail(at, "the tree of objects is too large for a file of this size")
	}
}
