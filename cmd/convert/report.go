package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spin-native/spin/internal/checkpoint"
	"github.com/spin-native/spin/internal/dryrun"
	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/weights"
)

// report is what --json prints. Of several networks the numbers are sums, and each has a part of its own.
type report struct {
	Input      string       `json:"input"`
	Output     string       `json:"output,omitempty"`
	DryRun     bool         `json:"dry_run"`
	Tensors    int          `json:"tensors"`
	Parameters int64        `json:"parameters"`
	DataBytes  int64        `json:"data_bytes"`           // before compression
	FileBytes  int64        `json:"file_bytes,omitempty"` // as written
	Info       weights.Info `json:"info"`                 // of the first network
	List       []row        `json:"list,omitempty"`       // of a dry run, as are Layers and Memory
	Layers     []layer      `json:"layers,omitempty"`
	Memory     int64        `json:"memory,omitempty"` // bytes to run the network on one picture of its size, where that is known
	Networks   []network    `json:"networks"`
	Notes      []string     `json:"notes,omitempty"`    // what was left out, and why
	LeftOut    int          `json:"left_out,omitempty"` // tensors
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
	layers     []layer
	memory     int64
}

type row struct {
	Name  string        `json:"name"`
	From  string        `json:"from,omitempty"` // the name in the input, where it differs
	Was   weights.DType `json:"was"`
	DType weights.DType `json:"dtype"`
	Shape []int         `json:"shape"`
}

// layer sums up the tensors of one block.
type layer struct {
	Name       string `json:"name"`
	Tensors    int    `json:"tensors"`
	Parameters int64  `json:"parameters"`
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
			count := int64(1)
			for _, d := range p.Shape {
				count *= int64(d)
			}
			n.Parameters += count
			w := cmp.Or(was[p.Name], p.DType)
			n.list = append(n.list, row{p.Name, j.component.From[p.Name], w, p.DType, p.Shape})
			if name := block(p.Name); len(n.layers) == 0 || n.layers[len(n.layers)-1].Name != name {
				n.layers = append(n.layers, layer{name, 1, count})
			} else {
				last := &n.layers[len(n.layers)-1]
				last.Tensors, last.Parameters = last.Tensors+1, last.Parameters+count
			}
		}
		slices.SortStableFunc(n.layers, func(a, b layer) int { return natural(a.Name, b.Name) })
		for _, f := range j.files {
			n.Files = append(n.Files, f.path)
			if st, err := os.Stat(f.path); err == nil {
				r.FileBytes += st.Size()
			}
		}
		if dryRun {
			var err error
			if n.memory, err = memory(j.component); err != nil {
				return err
			}
			r.List, r.Layers, r.Memory = append(r.List, n.list...), append(r.Layers, n.layers...), r.Memory+n.memory
		}
		r.Tensors, r.Parameters, r.DataBytes = r.Tensors+n.Tensors, r.Parameters+n.Parameters, r.DataBytes+n.DataBytes
		r.Networks = append(r.Networks, n)
	}
	r.Info = r.Networks[0].Info
	return nil
}

// inBlock finds the block in a tensor's name: down to the second number, or the layer.
var inBlock = regexp.MustCompile(`^(?:(?:encoder|decoder)\.(?:down|up|down_blocks|up_blocks|layers)\.\d+|(?:input|output)_blocks\.\d+|(?:down|up)_blocks\.\d+|(?:encoder|decoder)\.[a-z_]+|[a-z_]+)`)

func block(name string) string { return inBlock.FindString(name) }

// natural orders names by the numbers in them.
func natural(a, b string) int {
	split := func(s string) (string, int) {
		i := strings.LastIndexByte(s, '.')
		var n int
		if _, err := fmt.Sscanf(s[i+1:], "%d", &n); err != nil {
			return s, 0
		}
		return s[:i+1], n
	}
	sa, na := split(a)
	sb, nb := split(b)
	return cmp.Or(cmp.Compare(sa, sb), cmp.Compare(na, nb))
}

// memory is what the network's tensors and weights take in a run on one picture of its own size; 0 for families that
// cannot be run yet. Nothing is computed.
func memory(c checkpoint.Component) (int64, error) {
	if c.Info.Family != checkpoint.FamilyGuided {
		return 0, nil
	}
	config, err := nn.ParseUNetConfig(c.Info.Model)
	if err != nil {
		return 0, err
	}
	f, err := weights.FromTensors("model", c.Tensors, nil)
	if err != nil {
		return 0, err
	}
	d, _ := dryrun.Open()
	net, err := nn.LoadUNet(d, f.Scope(), config, nn.LoadOptions{ImageSize: c.Info.ImageSize})
	if err != nil {
		return 0, err
	}
	m := config.Downsampling()
	size := (c.Info.ImageSize + m - 1) / m * m
	var y []int
	if config.NumClasses > 0 {
		y = []int{0}
	}
	if _, err := net.Predict(d.New(1, size, size, config.InChannels), []float64{0}, y); err != nil {
		return 0, err
	}
	bytes := d.Stats().Peak
	for _, t := range c.Tensors {
		bytes += 4 * int64(t.Len())
	}
	return bytes, nil
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
			fmt.Fprintf(&b, "; a run at %d x %d takes about %d MB", n.Info.ImageSize, n.Info.ImageSize, n.memory>>20)
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
