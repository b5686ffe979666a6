// Package profile is a backend that measures another one, operation by operation. A network that runs on it several times
// gives a table of its layers, each with the least time that it took:
//
//	p := profile.New(backend)
//	net, err := nn.LoadUNet(tensor.NewDevice(p), ...)
//	net.Trace = p.Trace // says which block the operations belong to
//	for range runs {
//		p.Next()
//		net.Forward(...)
//	}
//	report, err := p.Report(gflops, gbps)
package profile

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/tensor"
)

// Backend passes everything on to the backend that it embeds, and measures the operations of kernels.Net.
type Backend struct {
	kernels.Backend
	clock clock // nil: operations are done when they return, or at the next Sync
	rows  []Row
	runs  int
	next  int // row of the next operation of this run
	named int // rows before this one have their block
	err   error
}

// clock is what a backend has whose operations run while the program goes on: marks in its work, and the times between them.
type clock interface {
	Mark()
	Marks() ([]time.Duration, error)
}

// New returns a backend that measures b. It measures nothing before the first Next.
func New(b kernels.Backend) *Backend {
	c, _ := b.(clock)
	return &Backend{Backend: b, clock: c}
}

// Stores implements kernels.Storer.
func (b *Backend) Stores(t kernels.Type) bool {
	s, ok := b.Backend.(kernels.Storer)
	return t == kernels.F32 || ok && s.Stores(t)
}

// Row is one layer of a network, or what all layers of a kind take together.
type Row struct {
	Block    string  `json:"block,omitempty"`
	Layers   int     `json:"layers,omitempty"` // of a kind
	Op       string  `json:"op"`
	Shape    string  `json:"shape"` // channels, size of the result, and how the input is resampled
	Form     string  `json:"form,omitempty"`
	Ms       float64 `json:"ms"`
	Share    float64 `json:"share"`              // of the time of all layers
	GFLOP    float64 `json:"gflop,omitempty"`    // as the operation is written, whatever algorithm computes it
	Bytes    float64 `json:"bytes"`              // of inputs, weights and results, each counted once, as they are stored
	GFLOPS   float64 `json:"gflops,omitempty"`   // GFLOP per second
	OfGFLOPS float64 `json:"of_peak,omitempty"`  // GFLOPS by the machine's peak; above 1 where the algorithm needs fewer operations
	GBps     float64 `json:"gb_per_s,omitempty"` // Bytes per second
	OfGBps   float64 `json:"of_bandwidth,omitempty"`

	place string // the part of Shape that layers of a kind have in common
}

func (r Row) same(o Row) bool { return r.Op == o.Op && r.Shape == o.Shape && r.Form == o.Form }

// Next begins a run of the network.
func (b *Backend) Next() {
	b.check()
	b.runs++
	b.next, b.named = 0, 0
	if b.clock != nil {
		b.clock.Mark()
	}
}

// check notes a run that ended before the first one did, and reads its marks.
func (b *Backend) check() {
	if b.clock != nil && b.runs > 0 {
		between, err := b.clock.Marks()
		if err != nil && b.err == nil {
			b.err = err
		}
		for i := range min(len(between), len(b.rows)) {
			b.rows[i].keep(between[i], b.runs == 1)
		}
	}
	if b.runs > 1 && b.next < len(b.rows) {
		b.differ(fmt.Sprint(len(b.rows)), fmt.Sprint(b.next, " operations"))
	}
}

func (b *Backend) differ(first, now string) {
	if b.err == nil {
		b.err = fmt.Errorf("profile: run %d differs from the first: %s, expected %s", b.runs, now, first)
	}
}

// Trace gives its name to the operations since the last one. It fits nn.UNet.Trace.
func (b *Backend) Trace(name string, _ *tensor.Tensor) {
	for ; b.named < min(b.next, len(b.rows)); b.named++ {
		b.rows[b.named].Block = name
	}
}

// measure runs one operation and keeps its time where it is the least so far.
func (b *Backend) measure(r Row, f func()) {
	if b.runs == 0 {
		f()
		return
	}
	if r.place != "" {
		r.Shape += " " + r.place
	}
	start := time.Now()
	f()
	var took time.Duration
	if b.clock != nil {
		b.clock.Mark()
	} else {
		if err := b.Sync(); err != nil && b.err == nil {
			b.err = err
		}
		took = time.Since(start)
	}
	r.keep(took, true)
	i := b.next
	b.next++
	switch {
	case b.runs == 1:
		b.rows = append(b.rows, r)
	case i >= len(b.rows):
		b.differ("the end", r.Op+" "+r.Shape)
	case !b.rows[i].same(r):
		b.differ(b.rows[i].Op+" "+b.rows[i].Shape, r.Op+" "+r.Shape)
	case b.clock == nil:
		b.rows[i].keep(took, false)
	}
}

// keep keeps the least time.
func (r *Row) keep(took time.Duration, first bool) {
	ms := float64(took) / 1e6
	if first || ms < r.Ms {
		r.Ms = ms
	}
}

// bytes sums up tensors, present or not.
func bytes(views ...kernels.View) float64 {
	n := 0
	for _, v := range views {
		n += v.Type.Size() * v.Len()
	}
	return float64(n)
}

// side writes the channels of tensors that lie side by side.
func side(v [2]kernels.View) string {
	if v[1].Present() {
		return fmt.Sprintf("%d+%d", v[0].C, v[1].C)
	}
	return fmt.Sprint(v[0].C)
}

// at is the place of an operation in the network: the size of its result, and what became of its input's.
func at(dst kernels.View, s kernels.Sampling, stride int) string {
	place := fmt.Sprintf("@%dx%d", dst.W, dst.H)
	switch s {
	case kernels.Up2:
		place += " up2"
	case kernels.Down2:
		place += " down2"
	}
	if stride > 1 {
		place += fmt.Sprint(" stride ", stride)
	}
	return place
}

func (b *Backend) Conv2D(a *kernels.Conv2D) {
	w := a.Kernel.Weights()
	perOutput := w.In * w.Size * w.Size
	name := fmt.Sprintf("%s->%d", side(a.Src), w.Out)
	if a.Shortcut != nil { // so many channels, by a 1x1 convolution
		perOutput += a.Shortcut.Weights().In
		name += " (+" + side(a.Skip) + ")"
	}
	weights := w.Out * (perOutput + 1) // with a bias, which every layer of these networks has
	r := Row{
		Op:    fmt.Sprintf("conv%dx%d", w.Size, w.Size),
		Shape: name,
		Form:  w.Form.String(),
		GFLOP: 2 * float64(a.Dst.Len()) * float64(perOutput) / 1e9,
		Bytes: bytes(a.Src[0], a.Src[1], a.Skip[0], a.Skip[1], a.Affine, a.Embed, a.Residual, a.Dst, a.Moments) + float64(w.Type.Size()*weights),
	}
	if w.Size == 1 && a.Dst.Pixels() == 1 {
		r.Op = "linear"
	} else {
		r.place = at(a.Dst, a.Sampling, w.Stride)
	}
	b.measure(r, func() { b.Backend.Conv2D(a) })
}

func (b *Backend) Attention(a *kernels.Attention) {
	keys := a.K.N * a.K.Pixels() * a.Heads * a.Dim
	b.measure(Row{
		Op: "attention", Shape: fmt.Sprintf("%d heads of %d", a.Heads, a.Dim), place: at(a.Dst, kernels.Same, 1),
		GFLOP: 4 * float64(a.Dst.Len()) * float64(a.K.Pixels()) / 1e9,
		Bytes: float64(a.Dst.Type.Size() * (2*a.Dst.Len() + 2*keys)),
	}, func() { b.Backend.Attention(a) })
}

func (b *Backend) LayerNorm(a *kernels.LayerNorm) {
	b.measure(Row{
		Op: "layernorm", Shape: fmt.Sprint(a.Src.C), place: at(a.Src, kernels.Same, 1), Bytes: bytes(a.Src, a.Gamma, a.Beta, a.Dst),
	}, func() { b.Backend.LayerNorm(a) })
}

func (b *Backend) GEGLU(dst, src kernels.View) {
	b.measure(Row{
		Op: "geglu", Shape: fmt.Sprint(dst.C), place: at(dst, kernels.Same, 1), Bytes: bytes(src, dst),
	}, func() { b.Backend.GEGLU(dst, src) })
}

func (b *Backend) Norm(a *kernels.Norm) {
	b.measure(Row{
		Op: "norm", Shape: side(a.Moments),
		Bytes: bytes(a.Moments[0], a.Moments[1], a.Gamma, a.Beta, a.Modulate, a.Dst),
	}, func() { b.Backend.Norm(a) })
}

func (b *Backend) Moments(dst, x kernels.View) {
	b.measure(Row{
		Op: "moments", Shape: fmt.Sprint(x.C), place: at(x, kernels.Same, 1), Bytes: bytes(x, dst),
	}, func() { b.Backend.Moments(dst, x) })
}

func (b *Backend) Resample(dst, src kernels.View, s kernels.Sampling, moments kernels.View) {
	b.measure(Row{
		Op: "resample", Shape: fmt.Sprint(src.C), place: at(dst, s, 1), Bytes: bytes(src, dst, moments),
	}, func() { b.Backend.Resample(dst, src, s, moments) })
}

func (b *Backend) Nearest(a *kernels.Nearest) {
	b.measure(Row{
		Op: "nearest", Shape: fmt.Sprintf("%d of %d", a.Codes.C, a.Codes.W), place: at(a.X, kernels.Same, 1),
		GFLOP: 3 * float64(a.X.Len()) * float64(a.Codes.C) / 1e9, Bytes: bytes(a.X, a.Codes, a.Dst, a.Index),
	}, func() { b.Backend.Nearest(a) })
}

// Report is a profile of a network.
type Report struct {
	PeakGFLOPS float64 `json:"peak_gflops,omitempty"` // what the machine can do at most
	PeakGBps   float64 `json:"peak_gb_per_s,omitempty"`
	Layers     []Row   `json:"layers"` // in the order of the network
	Kinds      []Row   `json:"kinds"`  // layers of the same operation, form and place, the slowest first
}

// Report sums the runs up. gflops and gbps are the machine's peaks, 0 where they are not known. It fails where the runs did
// not consist of the same operations.
func (b *Backend) Report(gflops, gbps float64) (*Report, error) {
	if b.check(); b.err != nil {
		return nil, b.err
	}
	r := &Report{PeakGFLOPS: gflops, PeakGBps: gbps, Layers: slices.Clone(b.rows)}
	for _, l := range r.Layers {
		i := slices.IndexFunc(r.Kinds, func(k Row) bool { return k.Op == l.Op && k.Form == l.Form && k.Shape == l.place })
		if i < 0 {
			i = len(r.Kinds)
			r.Kinds = append(r.Kinds, Row{Op: l.Op, Form: l.Form, Shape: l.place})
		}
		k := &r.Kinds[i]
		k.Layers++
		k.Ms += l.Ms
		k.GFLOP += l.GFLOP
		k.Bytes += l.Bytes
	}
	slices.SortStableFunc(r.Kinds, func(x, y Row) int { return cmp.Compare(y.Ms, x.Ms) })
	total := r.total().Ms
	for _, rows := range [][]Row{r.Layers, r.Kinds} {
		for i := range rows {
			rows[i].rate(r, total)
		}
	}
	return r, nil
}

// total is all layers in one row.
func (r *Report) total() Row {
	t := Row{Op: "all", Layers: len(r.Layers)}
	for _, l := range r.Layers {
		t.Ms += l.Ms
		t.GFLOP += l.GFLOP
		t.Bytes += l.Bytes
	}
	t.rate(r, t.Ms)
	return t
}

// rate fills in what follows from time, operations and bytes.
func (r *Row) rate(of *Report, totalMs float64) {
	if r.Ms == 0 {
		return // a clock too coarse for it
	}
	r.Share = r.Ms / totalMs
	r.GFLOPS, r.GBps = r.GFLOP/r.Ms*1e3, r.Bytes/r.Ms/1e6
	if of.PeakGFLOPS > 0 {
		r.OfGFLOPS = r.GFLOPS / of.PeakGFLOPS
	}
	if of.PeakGBps > 0 {
		r.OfGBps = r.GBps / of.PeakGBps
	}
}
