package study

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Journal is a file of JSON lines, one for each finished run, so that a long study goes on where it was stopped.
type Journal[E any] struct {
	Entries []E
	file    *os.File
}

// OpenJournal reads what is there and appends from then on. A last line that was cut off is dropped.
func OpenJournal[E any](path string) (*Journal[E], error) {
	j := &Journal[E]{}
	f, err := os.Open(path)
	whole := int64(0)
	if err == nil {
		defer f.Close()
		r := bufio.NewReader(f)
		for n := 1; ; n++ {
			line, err := r.ReadBytes('\n')
			if err != nil {
				break // the end, or a line without one
			}
			var e E
			if err := json.Unmarshal(line, &e); err != nil {
				return nil, fmt.Errorf("%s, line %d: %w", path, n, err)
			}
			j.Entries = append(j.Entries, e)
			whole += int64(len(line))
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	// Appending keeps the lines of two processes apart that share a journal by mistake.
	if j.file, err = os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644); err != nil {
		return nil, err
	}
	return j, j.file.Truncate(whole)
}

// Add appends an entry to the file.
func (j *Journal[E]) Add(e E) error {
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	j.Entries = append(j.Entries, e)
	_, err = j.file.Write(append(line, '\n'))
	return err
}

// Close closes the file.
func (j *Journal[E]) Close() error { return j.file.Close() }
