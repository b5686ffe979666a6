// Command quality makes the tables of docs/quality.md with a built-in prior: every task on every photo of a folder, by every
// method at the same number of denoiser calls, and by Spin's presets.
//
//	go run ./tools/quality -photos FOLDER -dir quality            all of it, which takes hours
//	go run ./tools/quality -photos FOLDER -dir quality -tasks sr,jpeg -methods spin -names astronaut,cat
//	go run ./tools/quality -photos FOLDER -dir latent -prior photo-latent
//	go run ./tools/quality -dir quality -report > tables.md       the tables of what is finished
//
// Finished runs are kept in the folder -dir: journal.jsonl, the results as pictures, and a sheet for each task, with one row
// for each photo and one column for each method. A run that was stopped goes on from there; -again makes what is selected anew.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spin-native/spin/internal/imagefile"
	"github.com/spin-native/spin/internal/sheet"
	"github.com/spin-native/spin/internal/study"
)

type options struct {
	photos, names, dir, tasks, methods, prior string
	report, again, list                       bool
	threads                                   int
}

func main() {
	var o options
	flag.StringVar(&o.photos, "photos", "", "folder of *_256.png")
	flag.StringVar(&o.names, "names", "", "only these photos: astronaut,cat")
	flag.StringVar(&o.dir, "dir", "quality", "folder for journal, results and sheets")
	flag.StringVar(&o.tasks, "tasks", "", "only tasks whose name contains one of these: sr,blur")
	flag.StringVar(&o.methods, "methods", "", "only methods whose name contains one of these: spin,ddnm")
	flag.StringVar(&o.prior, "prior", "photo", "photo or photo-latent; each needs a -dir of its own")
	flag.BoolVar(&o.report, "report", false, "print the tables of what is finished, and run nothing")
	flag.BoolVar(&o.again, "again", false, "run what is selected even if it is finished; the newest counts")
	flag.BoolVar(&o.list, "list", false, "list tasks and methods, and run nothing")
	flag.IntVar(&o.threads, "threads", 0, "processor threads; 0: all")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := o.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "quality:", err)
		os.Exit(1)
	}
}

// entry is one finished run; its method is one of the table's, or measured or guess.
type entry struct {
	Task     string  `json:"task"` // with its arguments, so that a changed task is another one
	Photo    string  `json:"photo"`
	Method   string  `json:"method"`
	PSNR     float64 `json:"psnr"`
	SSIM     float64 `json:"ssim"`
	Calls    int     `json:"calls,omitempty"`
	Seconds  float64 `json:"seconds,omitempty"`
	PeakMB   float64 `json:"peak_mb,omitempty"`
	Residual float64 `json:"residual,omitempty"`
	Picture  string  `json:"picture,omitempty"`
	Note     string  `json:"note,omitempty"` // why there is no result
	Device   string  `json:"device,omitempty"`
	Prior    string  `json:"prior"`
}

const (
	measured = "measured"
	guess    = "first guess"
)

// selected keeps the rows whose name contains one of the words; all of them for no words.
func selected[T any](rows []T, name func(T) string, words string) (list []T) {
	for _, r := range rows {
		hit := words == ""
		for w := range strings.SplitSeq(words, ",") {
			hit = hit || w != "" && strings.Contains(strings.ToLower(name(r)), strings.ToLower(strings.TrimSpace(w)))
		}
		if hit {
			list = append(list, r)
		}
	}
	return list
}

func (o options) run(ctx context.Context) error {
	some := selected(tasks, func(t task) string { return t.name + " " + strings.Join(t.args, " ") }, o.tasks)
	by := selected(methods, func(m method) string { return m.name }, o.methods)
	if len(some) == 0 || len(by) == 0 {
		return fmt.Errorf("-tasks %q -methods %q select nothing; -list lists them", o.tasks, o.methods)
	}
	if o.list {
		for _, t := range some {
			fmt.Printf("%-34s spin-native degrade %s\n", t.name, t.command())
		}
		for _, m := range by {
			fmt.Println(m.name)
		}
		return nil
	}
	if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return err
	}
	j, err := study.OpenJournal[entry](filepath.Join(o.dir, "journal.jsonl"))
	if err != nil {
		return err
	}
	defer j.Close()
	if o.report {
		fmt.Print(report(j.Entries, some, by))
		return nil
	}
	if i := slices.IndexFunc(j.Entries, func(e entry) bool { return e.Prior != o.prior }); i >= 0 {
		return fmt.Errorf("-dir %s holds results of the prior %s: take another one for %s", o.dir, j.Entries[i].Prior, o.prior)
	}
	photos, err := study.Photos(o.photos, o.names)
	if err != nil {
		return err
	}
	lab, err := study.Open(o.prior, o.threads)
	if err != nil {
		return err
	}
	defer lab.Close()
	left, begun := 0, time.Now()
	for _, t := range some {
		for _, p := range photos {
			for _, m := range by {
				if o.again || !done(j.Entries, t, p.Name, m.name) {
					left += m.calls
				}
			}
		}
	}
	total := left
	eta := func(calls int) string {
		left -= calls
		return (time.Since(begun) * time.Duration(left) / time.Duration(max(total-left, 1))).Round(time.Second).String()
	}
	var failed []error
	for _, t := range some {
		// A task that fails does not keep the others from being run.
		if err := o.task(ctx, lab, j, t, photos, by, eta); ctx.Err() != nil {
			return ctx.Err()
		} else if err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", t.name, err)
			failed = append(failed, fmt.Errorf("%s: %w", t.name, err))
		}
	}
	return errors.Join(failed...)
}

// task runs what is left to do of one task, and draws its sheet.
func (o options) task(ctx context.Context, lab *study.Lab, j *study.Journal[entry], t task, photos []study.Photo, by []method, eta func(calls int) string) error {
	shown := slices.Clone(photos)
	for i, p := range photos {
		if t.gray {
			var err error
			if shown[i], err = lab.Gray(p); err != nil {
				return err
			}
		}
		if err := o.photo(ctx, lab, j, t, shown[i], by, eta); err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
	}
	return o.sheet(j.Entries, t, shown, by)
}

// find is the newest entry of a run.
func find(all []entry, t task, photo, method string) *entry {
	for i, e := range slices.Backward(all) {
		if e.Task == t.key() && e.Photo == photo && e.Method == method {
			return &all[i]
		}
	}
	return nil
}

func done(all []entry, t task, photo, method string) bool { return find(all, t, photo, method) != nil }

// photo runs what is left to do for one photo.
func (o options) photo(ctx context.Context, lab *study.Lab, j *study.Journal[entry], t task, p study.Photo, by []method, eta func(calls int) string) error {
	todo := slices.DeleteFunc(slices.Clone(by), func(m method) bool { return !o.again && done(j.Entries, t, p.Name, m.name) })
	if len(todo) == 0 && done(j.Entries, t, p.Name, guess) {
		return nil
	}
	m, err := lab.Measure(p, 1, t.args)
	if err != nil {
		return err
	}
	add := func(name string, r *study.Outcome) error {
		e := entry{Task: t.key(), Photo: p.Name, Method: name, Prior: o.prior}
		if r != nil {
			e.PSNR, e.SSIM, e.Calls, e.Seconds, e.PeakMB, e.Residual = min(r.PSNR, 999), r.SSIM, r.Calls, r.Seconds, r.PeakMB, r.Residual
			e.Device = lab.Device()
			e.Picture = filepath.Join("pictures", slug(t.name), p.Name+"-"+slug(name)+".png")
			file := filepath.Join(o.dir, e.Picture)
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				return err
			}
			if err := imagefile.Write(file, r.Image, true); err != nil {
				return err
			}
		} else {
			e.Note = "none"
		}
		return j.Add(e)
	}
	if o.again || !done(j.Entries, t, p.Name, guess) {
		y, g, err := lab.Start(m, p)
		if err != nil {
			return err
		}
		if g != nil && t.turns {
			if err := g.Turn(p); err != nil {
				return err
			}
		}
		if err := add(measured, y); err != nil {
			return err
		}
		if err := add(guess, g); err != nil {
			return err
		}
	}
	for _, method := range todo {
		r, err := lab.Solve(ctx, m, p, method.run)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			// A method that is not for this operator, DDNM+ for one that is not linear, says so; the table has a gap there.
			fmt.Fprintf(os.Stderr, "%s, %s, %s: %v\n", t.name, p.Name, method.name, err)
			if err := j.Add(entry{Task: t.key(), Photo: p.Name, Method: method.name, Note: err.Error(), Prior: o.prior}); err != nil {
				return err
			}
			eta(method.calls)
			continue
		}
		if t.turns {
			if err := r.Turn(p); err != nil {
				return err
			}
		}
		if err := add(method.name, r); err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "%s, %s, %s: %.2f dB / %.3f, %d calls in %.1f s; %s left\n", t.name, p.Name, method.name, r.PSNR, r.SSIM, r.Calls, r.Seconds, eta(method.calls))
	}
	return nil
}

// sheet draws what there is of one task.
func (o options) sheet(all []entry, t task, photos []study.Photo, by []method) error {
	columns := []string{"Measured", "First guess"}
	names := []string{measured, guess}
	for _, m := range by {
		columns, names = append(columns, m.name), append(names, m.name)
	}
	var rows []sheet.Row
	for _, p := range photos {
		row := sheet.Row{Label: p.Name}
		for _, name := range names {
			var c sheet.Panel
			if e := find(all, t, p.Name, name); e != nil && e.Picture != "" {
				img, err := imagefile.Read(filepath.Join(o.dir, e.Picture), imagefile.Limits{})
				if err != nil {
					return err
				}
				c = sheet.Panel{Img: img, Caption: fmt.Sprintf("%.2f dB / %.3f", e.PSNR, e.SSIM)}
			}
			row.Cells = append(row.Cells, c)
		}
		row.Cells = append(row.Cells, sheet.Panel{Img: p.Image})
		rows = append(rows, row)
	}
	dir := filepath.Join(o.dir, "sheets")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return sheet.WriteGrid(filepath.Join(dir, slug(t.name)+".png"), append(columns, "Truth"), rows, sheet.Options{MaxWidth: 2400}, true)
}

// slug is a name as part of a file's name.
func slug(s string) string {
	s = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' {
			return r
		}
		return '-'
	}, strings.ToLower(s))
	for strings.Contains(s, "--") {
		s = strings.ReplaceAll(s, "--", "-")
	}
	return strings.Trim(s, "-")
}
