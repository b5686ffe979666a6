package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/spin-native/spin/internal/atomicfile"
	"github.com/spin-native/spin/weights"
)

// file is one file of the output.
type file struct {
	path  string
	write func(w io.Writer) error
}

// write makes all files of all jobs. Each one appears whole, and if one fails those that came before it go again.
func write(ctx context.Context, stderr io.Writer, jobs []job, o options) (err error) {
	var total int64
	for i := range jobs {
		if err := jobs[i].layOut(o); err != nil {
			return err
		}
		total += jobs[i].bytes()
	}
	p := newProgress(ctx, stderr, total)
	defer p.done()
	var made, folders []string
	defer func() {
		if err == nil {
			return
		}
		for _, path := range made {
			err = errors.Join(err, os.Remove(path))
		}
		for _, dir := range slices.Backward(folders) {
			os.Remove(dir) // stays if something else is in it
		}
	}()
	for _, j := range jobs {
		for _, f := range j.files {
			if err := atomicfile.RefuseExisting(f.path, o.force); err != nil {
				return err
			}
		}
	}
	for _, j := range jobs {
		for _, f := range j.files {
			if j.folder {
				if folders, err = makeFolders(filepath.Dir(f.path), folders); err != nil {
					return err
				}
			}
			_, statErr := os.Lstat(f.path)
			err := atomicfile.WriteFile(f.path, func(w io.Writer) error { return f.write(p.through(w)) })
			if err != nil {
				return err
			}
			if statErr != nil { // a file that was replaced is not to be lost twice
				made = append(made, f.path)
			}
		}
	}
	return nil
}

// makeFolders is os.MkdirAll that remembers what it made.
func makeFolders(dir string, made []string) ([]string, error) {
	if _, err := os.Stat(dir); err == nil {
		return made, nil
	}
	made, err := makeFolders(filepath.Dir(dir), made)
	if err != nil {
		return made, err
	}
	if err := os.Mkdir(dir, 0o777); err != nil {
		return made, err
	}
	return append(made, dir), nil
}

func (j job) bytes() int64 {
	var n int64
	for _, p := range j.list {
		n += p.Size()
	}
	return n
}

// layOut decides on the job's files: one, or shards with an index.
func (j *job) layOut(o options) error {
	j.files = nil
	if j.config != nil {
		j.files = append(j.files, file{filepath.Join(filepath.Dir(j.path), "config.json"), func(w io.Writer) error {
			_, err := w.Write(j.config)
			return err
		}})
	}
	if o.maxShard == 0 || j.bytes() <= o.maxShard {
		stream := weights.WriteStream
		if o.zstd || strings.HasSuffix(j.path, ".zst") {
			stream = weights.WriteStreamZstd
		}
		j.files = append(j.files, file{j.path, func(w io.Writer) error { return stream(w, j.list, j.metadata) }})
		return nil
	}
	stem, ok := strings.CutSuffix(j.path, ".safetensors")
	if !ok {
		return usage("--max-shard-size: the output must end in .safetensors")
	}
	shards := split(j.list, o.maxShard)
	if len(shards) > 1000 {
		return usage("--max-shard-size: %d shards, at most 1000 can be read back", len(shards))
	}
	where := map[string]string{}
	for i, s := range shards {
		path := fmt.Sprintf("%s-%05d-of-%05d.safetensors", stem, i+1, len(shards))
		for _, p := range s {
			where[p.Name] = filepath.Base(path)
		}
		j.files = append(j.files, file{path, func(w io.Writer) error { return weights.WriteStream(w, s, j.metadata) }})
	}
	// The index comes last: without it the shards are not taken for a model.
	index, err := json.MarshalIndent(map[string]any{"metadata": map[string]any{"total_size": j.bytes()}, "weight_map": where}, "", "  ")
	if err != nil {
		return err
	}
	j.files = append(j.files, file{stem + ".safetensors.index.json", func(w io.Writer) error {
		_, err := w.Write(append(index, '\n'))
		return err
	}})
	return nil
}

// split fills shards by name; a tensor larger than a shard has one of its own.
func split(list []weights.Planned, most int64) [][]weights.Planned {
	list = slices.SortedFunc(slices.Values(list), func(a, b weights.Planned) int { return cmp.Compare(a.Name, b.Name) })
	var shards [][]weights.Planned
	room := int64(-1)
	for _, p := range list {
		if room < p.Size() {
			shards, room = append(shards, nil), most
		}
		room -= p.Size()
		last := &shards[len(shards)-1]
		*last = append(*last, p)
	}
	return shards
}

// try makes every tensor, to find what would fail, and writes nothing.
func try(ctx context.Context, stderr io.Writer, jobs []job) error {
	var total int64
	for _, j := range jobs {
		total += j.bytes()
	}
	p := newProgress(ctx, stderr, total)
	defer p.done()
	for _, j := range jobs {
		for _, t := range j.list {
			b, err := t.Produce()
			if err != nil {
				return err
			}
			if _, err := p.through(io.Discard).Write(b); err != nil {
				return err
			}
		}
	}
	return nil
}

// progress lets a signal end the work between two blocks, and draws a bar where stderr is a terminal.
type progress struct {
	ctx context.Context
	bar *progressbar.ProgressBar
}

func newProgress(ctx context.Context, stderr io.Writer, total int64) *progress {
	p := &progress{ctx: ctx}
	const worthIt = 64 << 20 // bytes; less is over before it can be read
	if f, ok := stderr.(*os.File); ok && total >= worthIt && term.IsTerminal(int(f.Fd())) {
		p.bar = progressbar.NewOptions64(total, progressbar.OptionSetWriter(f), progressbar.OptionSetDescription("converting"),
			progressbar.OptionShowBytes(true), progressbar.OptionSetPredictTime(true), progressbar.OptionFullWidth(),
			progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
	}
	return p
}

func (p *progress) done() {
	if p.bar != nil {
		p.bar.Clear()
	}
}

func (p *progress) through(w io.Writer) io.Writer { return meter{p, w} }

type meter struct {
	p *progress
	w io.Writer
}

func (m meter) Write(b []byte) (n int, err error) {
	const block = 4 << 20 // so that an interruption need not wait for a large tensor
	for len(b) > 0 {
		if err := m.p.ctx.Err(); err != nil {
			return n, err
		}
		k, err := m.w.Write(b[:min(len(b), block)])
		n += k
		if m.p.bar != nil {
			m.p.bar.Add(k)
		}
		if err != nil {
			return n, err
		}
		b = b[k:]
	}
	return n, nil
}
