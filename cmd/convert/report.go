package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spin-native/spin/internal/checkpoint"
	"github.com/spin-native/spin/internal/dryrun"
	"github.com/spin-native/spin/weights"
)

// report is what --json prints. Of several networks the numbers are sums, and each has a part of its own.
type report struct {
	Input      string             `json:"input"`
	Output     string             `json:"output,omitempty"`
	DryRun     bool               `json:"dry_run"`
	Tensors    int                `json:"tensors"`
	Parameters int64              `json:"parameters"`
	DataBytes  int64              `json:"data_bytes"`           // before compression
	FileBytes  int64              `json:"file_bytes,omitempty"` // as written
	Info       weights.Info       `json:"info"`                 // of the first network
	List       []row              `json:"list,omitempty"`       // of a dry run, as are Layers and Memory
	Layers     []checkpoint.Block `json:"layers,omitempty"`
	Memory     int64              `json:"memory,omitempty"` // bytes to run the network on one picture of its size, where that is known
	Networks   []network          `json:"networks"`
	Notes      []string           `json:"notes,omitempty"`    // what was left out, and why
	LeftOut    int                `json:"left_out,omitempty"` // tensors
}

// network is one component.
type network struct {
	Role       string       `json:"role"`
	Source     string       `json:"source"`
	Files      []string     `json:"files,omitempty"`
	Tensors    int          `json:"tensors"`
	Parameters int64        `json:"parameters"`
	DataBytes  int64        `json:"data_bytes"`
	Info       weights.Info `json:"info"`
	list       []row
	layers     []checkpoint.Block
	memory     int64
}

type row struct {
	Name  string        `json:"name"`
	From  string        `json:"from,omitempty"` // the name in the input, where it differs
	Was   weights.DType `json:"was"`
	DType weights.DType `json:"dtype"`
	Shape []int         `json:"shape"`
}

func elements(shape []int) int64 {
	n := int64(1)
	for _, d := range shape {
		n *= int64(d)
	}
	return n
}

func (r *report) fill(jobs []job, dryRun bool) error {
	for _, j := range jobs {
		n := network{Role: j.component.Role, Source: j.component.Source, Tensors: len(j.list), DataBytes: j.bytes(), Info: j.component.Info}
		was := map[string]weights.DType{}
		for _, t := range j.component.Tensors {
			was[t.Name] = t.DType
		}
		planned := slices.SortedFunc(slices.Values(j.list), func(a, b weights.Planned) int { return cmp.Compare(a.Name, b.Name) })
		for _, p := range planned {
			n.Parameters += elements(p.Shape)
			w := cmp.Or(was[p.Name], p.DType)
			n.list = append(n.list, row{p.Name, j.component.From[p.Name], w, p.DType, p.Shape})
		}
		n.layers = checkpoint.Blocks(func(yield func(string, int64) bool) {
			for _, p := range planned {
				if !yield(p.Name, elements(p.Shape)) {
					return
				}
			}
		})
		for _, f := range j.files {
			n.Files = append(n.Files, f.path)
			if st, err := os.Stat(f.path); err == nil {
				r.FileBytes += st.Size()
			}
		}
		if dryRun {
			cost, err := j.component.Cost(dryrun.Machine{})
			if err != nil {
				return err
			}
			n.memory = cost.Memory.Total()
			r.List, r.Layers, r.Memory = append(r.List, n.list...), append(r.Layers, n.layers...), r.Memory+n.memory
		}
		r.Tensors, r.Parameters, r.DataBytes = r.Tensors+n.Tensors, r.Parameters+n.Parameters, r.DataBytes+n.DataBytes
		r.Networks = append(r.Networks, n)
	}
	r.Info = r.Networks[0].Info
	return nil
}

func (r report) print(w io.Writer, asJSON bool) error {
	if asJSON {
		return printJSON(w, r)
	}
	var b strings.Builder
	for _, n := range r.Networks {
		if r.DryRun {
			n.printList(&b)
		}
		for _, g := range n.Info.Guesses {
			fmt.Fprintf(&b, "guessed: %s\n", printable(g))
		}
	}
	for _, note := range r.Notes {
		fmt.Fprintln(&b, note)
	}
	for _, n := range r.Networks {
		what := strings.TrimSpace(n.Info.Name + " " + n.Info.Version)
		if what == "" {
			what = n.Role
		}
		fmt.Fprintf(&b, "%s, %s: %d tensors, %d parameters, %.1f MB", printable(what), n.Info.Family, n.Tensors, n.Parameters, float64(n.DataBytes)/1e6)
		if n.memory > 0 {
			fmt.Fprintf(&b, "; a run at %d x %d takes %d MB", n.Info.ImageSize, n.Info.ImageSize, (n.memory+1<<19)>>20)
		}
		if len(n.Files) == 1 && len(r.Networks) == 1 {
			fmt.Fprintf(&b, "; wrote %s, %.1f MB", n.Files[0], float64(r.FileBytes)/1e6)
		} else if len(n.Files) > 0 {
			fmt.Fprintf(&b, "; wrote %s", n.Files[len(n.Files)-1])
			if len(n.Files) > 1 {
				fmt.Fprintf(&b, " and %d more files", len(n.Files)-1)
			}
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// printList shows every tensor, then every block.
func (n network) printList(b *strings.Builder) {
	for _, t := range n.list {
		was := string(t.Was)
		if t.Was != t.DType {
			was += "->" + string(t.DType)
		}
		fmt.Fprintf(b, "%-10s %-20s %s", was, fmt.Sprint(t.Shape), printable(t.Name))
		if t.From != "" {
			fmt.Fprintf(b, "  (was %s)", printable(t.From))
		}
		b.WriteByte('\n')
	}
	w := tabwriter.NewWriter(b, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\nblock\ttensors\tparameters\t")
	for _, l := range n.layers {
		fmt.Fprintf(w, "%s\t%d\t%d\t\n", l.Name, l.Tensors, l.Parameters)
	}
	w.Flush()
	b.WriteByte('\n')
}

// printable keeps a name from a file from playing with the terminal.
func printable(s string) string {
	if q := fmt.Sprintf("%q", s); q[1:len(q)-1] != s {
		return q
	}
	return s
}
