package weights

import (
	"math"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// scanner reads JSON strictly and allocates nothing but the strings that are asked for. encoding/json cannot serve
// here: it accepts duplicate keys, repairs bad UTF-8 and takes 1e3 for an integer where told to use numbers.
type scanner struct {
	b    []byte
	i    int
	base int64 // offset of b in the file
}

// maxDepth bounds the nesting of what is skipped.
const maxDepth = 64

func (s *scanner) fail(at int, msg string) error {
	return &FormatError{Offset: s.base + int64(at), Msg: msg}
}

func (s *scanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return
		}
	}
}

// peek skips white space and returns the next byte, 0 at the end.
func (s *scanner) peek() byte {
	s.space()
	if s.i >= len(s.b) {
		return 0
	}
	return s.b[s.i]
}

func (s *scanner) expect(c byte, what string) error {
	if s.peek() != c {
		return s.fail(s.i, "expected "+what+", found "+s.found())
	}
	s.i++
	return nil
}

func (s *scanner) found() string {
	if s.i >= len(s.b) {
		return "the end"
	}
	return strconv.QuoteToASCII(string(s.b[s.i : s.i+1]))
}

// end checks that only white space is left.
func (s *scanner) end() error {
	if s.peek(); s.i < len(s.b) {
		return s.fail(s.i, "expected nothing but spaces after the object, found "+s.found())
	}
	return nil
}

// object calls member for each key, with the scanner before the value; at is the key's offset in b.
func (s *scanner) object(what string, member func(key string, at int) error) error {
	if err := s.expect('{', what); err != nil {
		return err
	}
	if s.peek() == '}' {
		s.i++
		return nil
	}
	for {
		s.space()
		at := s.i
		key, err := s.str("a name in quotes")
		if err != nil {
			return err
		}
		if err := s.expect(':', "':'"); err != nil {
			return err
		}
		if err := member(key, at); err != nil {
			return err
		}
		if s.peek() == '}' {
			s.i++
			return nil
		}
		if err := s.expect(',', "',' or '}'"); err != nil {
			return err
		}
	}
}

// array calls element for each element, with the scanner before it.
func (s *scanner) array(what string, element func() error) error {
	if err := s.expect('[', what); err != nil {
		return err
	}
	if s.peek() == ']' {
		s.i++
		return nil
	}
	for {
		if err := element(); err != nil {
			return err
		}
		if s.peek() == ']' {
			s.i++
			return nil
		}
		if err := s.expect(',', "',' or ']'"); err != nil {
			return err
		}
	}
}

// raw reads a string and returns its bytes, quotes excluded, and whether it holds escapes.
func (s *scanner) raw(what string) (b []byte, escaped bool, err error) {
	if err := s.expect('"', what); err != nil {
		return nil, false, err
	}
	start := s.i
	for ; s.i < len(s.b); s.i++ {
		switch c := s.b[s.i]; {
		case c == '"':
			b = s.b[start:s.i]
			if !utf8.Valid(b) {
				return nil, false, s.fail(start, "string is not valid UTF-8")
			}
			s.i++
			return b, escaped, nil
		case c == '\\':
			escaped = true
			n := escape(s.b[s.i:])
			if n == 0 {
				return nil, false, s.fail(s.i, "bad escape in a string")
			}
			s.i += n - 1
		case c < ' ':
			return nil, false, s.fail(s.i, "control character in a string")
		}
	}
	return nil, false, s.fail(start, "string does not end")
}

// str reads a string. What it returns does not refer to the file.
func (s *scanner) str(what string) (string, error) {
	raw, escaped, err := s.raw(what)
	if err != nil || !escaped {
		return string(raw), err
	}
	out := make([]byte, 0, len(raw)) // an escape is never shorter than what it stands for
	for len(raw) > 0 {
		if raw[0] != '\\' {
			out = append(out, raw[0])
			raw = raw[1:]
			continue
		}
		n := escape(raw)
		switch raw[1] {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r := hex4(raw[2:])
			if n == 12 {
				r = utf16.DecodeRune(r, hex4(raw[8:]))
			}
			out = utf8.AppendRune(out, r)
		default:
			out = append(out, raw[1])
		}
		raw = raw[n:]
	}
	return string(out), nil
}

// escape returns the length of the escape that b begins with, or 0 if it is none. A surrogate must have its partner.
func escape(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	switch b[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
		r := hex4(b[2:])
		switch {
		case r < 0:
			return 0
		case !utf16.IsSurrogate(r):
			return 6
		case len(b) >= 12 && b[6] == '\\' && b[7] == 'u' && utf16.DecodeRune(r, hex4(b[8:])) != utf8.RuneError:
			return 12
		}
	}
	return 0
}

// hex4 reads four hexadecimal digits, or returns -1.
func hex4(b []byte) rune {
	if len(b) < 4 {
		return -1
	}
	var r rune
	for _, c := range b[:4] {
		switch {
		case '0' <= c && c <= '9':
			r = r<<4 | rune(c-'0')
		case 'a' <= c && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		case 'A' <= c && c <= 'F':
			r = r<<4 | rune(c-'A'+10)
		default:
			return -1
		}
	}
	return r
}

// integer reads digits and nothing else: no sign, fraction, exponent or leading zero.
func (s *scanner) integer(what string) (int64, error) {
	if c := s.peek(); c < '0' || c > '9' {
		return 0, s.fail(s.i, what+" must be a non-negative integer, found "+s.found())
	}
	at := s.i
	var n int64
	for ; s.i < len(s.b) && '0' <= s.b[s.i] && s.b[s.i] <= '9'; s.i++ {
		d := int64(s.b[s.i] - '0')
		if n > (math.MaxInt64-d)/10 {
			return 0, s.fail(at, what+" does not fit in 63 bits")
		}
		n = 10*n + d
	}
	if s.b[at] == '0' && s.i > at+1 {
		return 0, s.fail(at, what+" has a leading zero")
	}
	if s.i < len(s.b) && (s.b[s.i] == '.' || s.b[s.i] == 'e' || s.b[s.i] == 'E') {
		return 0, s.fail(at, what+" must be written as an integer")
	}
	return n, nil
}

// skip reads any value. The recursion is bounded by maxDepth.
func (s *scanner) skip(depth int) error {
	if depth > maxDepth {
		return s.fail(s.i, "nested deeper than "+strconv.Itoa(maxDepth))
	}
	switch c := s.peek(); {
	case c == '{':
		s.i++
		return s.skipList('}', func() error {
			if _, _, err := s.raw("a name in quotes"); err != nil {
				return err
			}
			if err := s.expect(':', "':'"); err != nil {
				return err
			}
			return s.skip(depth + 1)
		})
	case c == '[':
		s.i++
		return s.skipList(']', func() error { return s.skip(depth + 1) })
	case c == '"':
		_, _, err := s.raw("a string")
		return err
	case c == '-' || '0' <= c && c <= '9':
		return s.skipNumber()
	}
	for _, word := range []string{"true", "false", "null"} {
		if len(s.b)-s.i >= len(word) && string(s.b[s.i:s.i+len(word)]) == word {
			s.i += len(word)
			return nil
		}
	}
	return s.fail(s.i, "expected a value, found "+s.found())
}

func (s *scanner) skipList(end byte, element func() error) error {
	if s.peek() == end {
		s.i++
		return nil
	}
	for {
		if err := element(); err != nil {
			return err
		}
		if s.peek() == end {
			s.i++
			return nil
		}
		if err := s.expect(',', "',' or '"+string(end)+"'"); err != nil {
			return err
		}
	}
}

func (s *scanner) skipNumber() error {
	at := s.i
	digits := func() int {
		from := s.i
		for s.i < len(s.b) && '0' <= s.b[s.i] && s.b[s.i] <= '9' {
			s.i++
		}
		return s.i - from
	}
	next := func(chars string) bool {
		for _, c := range []byte(chars) {
			if s.i < len(s.b) && s.b[s.i] == c {
				s.i++
				return true
			}
		}
		return false
	}
	next("-")
	first := s.i
	n := digits()
	ok := n == 1 || n > 1 && s.b[first] != '0'
	if next(".") {
		ok = digits() > 0 && ok
	}
	if next("eE") {
		next("+-")
		ok = digits() > 0 && ok
	}
	if !ok {
		return s.fail(at, "malformed number")
	}
	return nil
}
