package weights

import (
	"errors"
	"fmt"
)

var (
	// ErrFormat is matched by every *FormatError.
	ErrFormat = errors.New("malformed weights file")
	// ErrMissing is matched by the error for a tensor that the file does not hold.
	ErrMissing = errors.New("no such tensor")
	// ErrNoInfo is matched by the error of File.Info for a file that carries no configuration.
	ErrNoInfo = errors.New("the file carries no configuration")
	// ErrChanged is matched by the error for a file that was truncated or rewritten while it was open.
	ErrChanged = errors.New("the file was changed while it was read")
)

// FormatError says where a file is not what it should be.
type FormatError struct {
	File   string
	Offset int64  // byte in the file, counted after decompression
	Tensor string // the tensor concerned, or ""
	Msg    string
}

func (e *FormatError) Error() string {
	s := fmt.Sprintf("weights: %s: byte %d: ", e.File, e.Offset)
	if e.Tensor != "" {
		s += fmt.Sprintf("tensor %s: ", quote(e.Tensor))
	}
	return s + e.Msg
}

// Is makes errors.Is(err, ErrFormat) true.
func (e *FormatError) Is(target error) bool { return target == ErrFormat }

// quote makes text from a file fit for one line of a message.
func quote(s string) string {
	const most = 120
	if len(s) > most {
		return fmt.Sprintf("%+q...", s[:most])
	}
	return fmt.Sprintf("%q", s)
}
