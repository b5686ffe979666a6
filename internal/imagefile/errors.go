package imagefile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"unicode"
)

// Error says in one line what is wrong with a file and what to do.
type Error struct {
	Path string // as given by the caller
	Msg  string
	Err  error // cause, one of the Err values of this package or of the system; may be nil
}

// Error returns "path: message".
func (e *Error) Error() string { return showPath(e.Path) + ": " + e.Msg }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Causes to test for with errors.Is.
var (
	ErrTruncated   = errors.New("the file ends early")
	ErrNotImage    = errors.New("not a picture")
	ErrTooLarge    = errors.New("too large")
	ErrDamaged     = errors.New("damaged")
	ErrUnsupported = errors.New("unsupported kind of picture")
	ErrKernel      = errors.New("not a usable blur kernel")
)

func fail(path string, cause error, format string, args ...any) error {
	return &Error{Path: path, Msg: fmt.Sprintf(format, args...), Err: cause}
}

// showPath quotes names that would break the line.
func showPath(path string) string {
	if path == "" || strings.ContainsFunc(path, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(path)
	}
	return path
}

// systemError words a failure to open or read.
func systemError(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fail(path, err, "no such file; check the name")
	case errors.Is(err, fs.ErrPermission):
		return fail(path, err, "no permission to read it")
	}
	return fail(path, err, "cannot be read (%v)", reason(err))
}

// reason strips the operation and path that os repeats.
func reason(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	var l *os.LinkError
	if errors.As(err, &l) {
		return l.Err
	}
	return err
}

func truncated(path string) error {
	return fail(path, ErrTruncated, "the file ends early; copy or download it again")
}

// decodeError words what a decoder said.
func decodeError(path string, k kind, err error) error {
	text := strings.ReplaceAll(err.Error(), "\n", " ")
	for _, prefix := range []string{"png: ", "tiff: ", "bmp: ", "webp: ", "invalid format: ", "invalid JPEG format: ", "unsupported feature: "} {
		text = strings.TrimPrefix(text, prefix)
	}
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF),
		strings.Contains(text, "not enough pixel data"), strings.Contains(text, "short Huffman data"):
		return truncated(path)
	case strings.Contains(err.Error(), "unsupported"):
		return fail(path, ErrUnsupported, "this kind of %v is not supported (%s); save it as an ordinary PNG", k, text)
	}
	return fail(path, ErrDamaged, "damaged %v (%s); copy or download it again", k, text)
}
