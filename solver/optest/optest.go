package optest

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/spin-native/spin/solver"
	"github.com/spin-native/spin/tensor"
)

// Options of a check. The zero value works.
type Options struct {
	Images int    // in a batch, default 2; with 1 the independence of images is not checked
	Seed   uint64 // of the random pictures
	// Tolerance of what is exact but for rounding, relative to the size of what is compared. Default 1e-5.
	Tolerance float64
	// Derivative is the tolerance of derivatives, relative to the gradient's norm. Default 2e-3.
	Derivative float64
}

// Check reports to t everything in which an operator for images of h x w with c channels breaks the contract.
func Check(t testing.TB, d *tensor.Device, op solver.Operator, h, w, c int, o Options) {
	t.Helper()
	var all interface{ Unwrap() []error }
	switch err := Verify(d, op, h, w, c, o); {
	case err == nil:
	case errors.As(err, &all):
		for _, e := range all.Unwrap() {
			t.Error(e)
		}
	default:
		t.Error(err)
	}
}

// Verify is Check for programs: it returns what it found, joined into one error.
func Verify(d *tensor.Device, op solver.Operator, h, w, c int, o Options) error {
	if d == nil || op == nil || h < 1 || w < 1 || c < 1 || o.Images < 0 {
		return fmt.Errorf("optest: device and operator must be given, and images of at least 1x1x1, got %dx%dx%d", h, w, c)
	}
	if o.Images == 0 {
		o.Images = 2
	}
	if o.Tolerance == 0 {
		o.Tolerance = 1e-5
	}
	if o.Derivative == 0 {
		o.Derivative = 2e-3
	}
	k := &checker{d: d, op: op, o: o, shape: [4]int{o.Images, h, w, c}, rng: rand.New(rand.NewPCG(o.Seed, 0x6f707465))}
	if l, ok := op.(solver.LinearOperator); ok {
		k.linear = l.IsLinear()
	}
	if !k.try("shapes", k.shapes) {
		return errors.Join(k.found...)
	}
	k.try("purity", k.purity)
	if o.Images > 1 {
		k.try("independence", k.independence)
	}
	misfit, special := op.(solver.Misfit)
	if k.linear {
		if k.try("linearity", k.linearity) {
			k.try("adjoint", k.adjoint)
		}
	} else {
		k.try("derivative", k.derivative)
	}
	if special {
		k.try("misfit", func() { k.misfit(misfit) })
	}
	if len(k.found) == 0 { // the others build on A and VJP
		k.try("Lipschitz", k.lipschitz)
		k.try("Prox", k.prox)
		k.try("Precondition", k.precondition)
		k.try("Keep", k.keep)
	}
	return errors.Join(k.found...)
}

// checker is one check. Its methods note what they find.
type checker struct {
	d      *tensor.Device
	op     solver.Operator
	o      Options
	shape  [4]int // of the images
	y      [4]int // of measurements
	linear bool
	rng    *rand.Rand
	found  []error
}

// try runs one part inside a bracket of memory, and reports whether it found nothing.
func (k *checker) try(what string, part func()) bool {
	before := len(k.found)
	err := func() (err error) {
		defer tensor.Catch(&err)
		defer k.d.Tidy()()
		part()
		return k.d.Sync()
	}()
	if err != nil {
		k.fail("%s: %v", what, err)
	}
	return len(k.found) == before
}

func (k *checker) fail(format string, args ...any) {
	k.found = append(k.found, fmt.Errorf("%T: "+format, append([]any{k.op}, args...)...))
}

// floats downloads; a device that fails ends the part.
func floats(x *tensor.Tensor) []float32 {
	v, err := x.Floats()
	if err != nil {
		tensor.FailWith("optest", err, "download")
	}
	return v
}

func (k *checker) upload(v []float32, s [4]int) *tensor.Tensor {
	return k.d.From(v, s[0], s[1], s[2], s[3])
}

func length(s [4]int) int { return s[0] * s[1] * s[2] * s[3] }

// normal is standard normal numbers.
func (k *checker) normal(s [4]int) []float32 {
	v := make([]float32, length(s))
	for i := range v {
		v[i] = float32(k.rng.NormFloat64())
	}
	return v
}

// picture is a random picture: most of its values lie within [-1,1].
func (k *checker) picture() []float32 {
	v := k.normal(k.shape)
	for i := range v {
		v[i] *= 0.5
	}
	return v
}

// measured is what the operator records of a picture, restricted to what it measures.
func (k *checker) measured(x *tensor.Tensor) *tensor.Tensor {
	y := k.op.Apply(x)
	if r, ok := k.op.(solver.Recorder); ok {
		y = r.Record(y)
	}
	if r, ok := k.op.(solver.Restricter); ok {
		y = r.Restrict(y)
	}
	return y
}

// at is the point that VJP is asked at: linear operators must not need it.
func (k *checker) at(x *tensor.Tensor) *tensor.Tensor {
	if k.linear {
		return nil
	}
	return x
}

// method is one method of the operator as a function of tensors.
type method struct {
	name string
	args [][4]int
	want [4]int
	call func(a []*tensor.Tensor) *tensor.Tensor
}

// methods are those that the operator has.
func (k *checker) methods() []method {
	list := []method{
		{"Apply", [][4]int{k.shape}, k.y, func(a []*tensor.Tensor) *tensor.Tensor { return k.op.Apply(a[0]) }},
		{"VJP", [][4]int{k.shape, k.y}, k.shape, func(a []*tensor.Tensor) *tensor.Tensor { return k.op.VJP(k.at(a[0]), a[1]) }},
	}
	if m, ok := k.op.(solver.Misfit); ok {
		list = append(list,
			method{"Misfit", [][4]int{k.shape, k.y}, k.y, func(a []*tensor.Tensor) *tensor.Tensor { return m.Misfit(a[0], a[1]) }},
			method{"MisfitVJP", [][4]int{k.shape, k.y}, k.shape, func(a []*tensor.Tensor) *tensor.Tensor { return m.MisfitVJP(a[0], a[1]) }})
	}
	if g, ok := k.op.(solver.Guesser); ok {
		list = append(list, method{"Guess", [][4]int{k.y}, k.shape, func(a []*tensor.Tensor) *tensor.Tensor { return g.Guess(a[0]) }})
	}
	if p, ok := k.op.(solver.Proximal); ok {
		list = append(list, method{"Prox", [][4]int{k.shape, k.y}, k.shape, func(a []*tensor.Tensor) *tensor.Tensor { return p.Prox(a[0], a[1], 0.3) }})
	}
	if p, ok := k.op.(solver.Preconditioner); ok && k.linear {
		list = append(list, method{"Precondition", [][4]int{k.y}, k.y, func(a []*tensor.Tensor) *tensor.Tensor { return p.Precondition(a[0], 0.3) }})
	}
	if r, ok := k.op.(solver.Restricter); ok {
		list = append(list, method{"Restrict", [][4]int{k.y}, k.y, func(a []*tensor.Tensor) *tensor.Tensor { return r.Restrict(a[0]) }})
	}
	if p, ok := k.op.(solver.Keeper); ok {
		list = append(list, method{"Keep", [][4]int{k.shape, k.y}, k.shape, func(a []*tensor.Tensor) *tensor.Tensor { return p.Keep(a[0], a[1]) }})
	}
	return list
}

// arguments are plausible: pictures, and measurements of pictures.
func (k *checker) arguments(m method) [][]float32 {
	var list [][]float32
	for i, s := range m.args {
		v := k.picture()
		if s == k.y && (i > 0 || m.want != k.y || s != k.shape) {
			v = floats(k.measured(k.upload(v, k.shape)))
		}
		list = append(list, v)
	}
	return list
}

func (k *checker) run(m method, values [][]float32) ([]float32, []*tensor.Tensor) {
	var args []*tensor.Tensor
	for i, v := range values {
		args = append(args, k.upload(v, m.args[i]))
	}
	return floats(m.call(args)), args
}

func (k *checker) shapes() {
	y := k.op.Apply(k.upload(k.picture(), k.shape))
	if y == nil {
		k.fail("Apply returned nil")
		return
	}
	k.y = y.Shape()
	if k.y[0] != k.shape[0] {
		k.fail("Apply of %d images returned measurements of %d: the first axis counts images, expected shape [%d,...], got %v", k.shape[0], k.y[0], k.shape[0], k.y)
		return
	}
	if s, ok := k.op.(solver.Sizer); ok {
		if got := s.ImageShape(k.y); got != k.shape {
			k.fail("ImageShape(%v) is %v, but images of shape %v give such measurements", k.y, got, k.shape)
		}
	} else if k.y != k.shape {
		k.fail("measurements have shape %v, images %v: an operator that changes the shape must be a Sizer, so that ImageShape tells the shape of the images", k.y, k.shape)
	}
	if n, ok := k.op.(solver.Counter); ok {
		counts, all := n.Counts(k.y), length(k.y)/k.y[0]
		if len(counts) > 1 && len(counts) != k.shape[0] {
			k.fail("Counts has %d entries for %d images: expected one for all of them, one for each, or nil", len(counts), k.shape[0])
		}
		for i, v := range counts {
			if v < 0 || v > all {
				k.fail("Counts of image %d is %d, of %d values", i, v, all)
			}
		}
	}
	for _, m := range k.methods() {
		var args []*tensor.Tensor
		for i, v := range k.arguments(m) {
			args = append(args, k.upload(v, m.args[i]))
		}
		got := m.call(args)
		if got == nil || got.Shape() != m.want {
			k.fail("%s returned %s, expected shape %v", m.name, describe(got), m.want)
			continue
		}
		for i, v := range floats(got) {
			if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
				k.fail("%s of finite values has the value %v at %s", m.name, v, place(i, m.want))
				break
			}
		}
	}
}

func describe(x *tensor.Tensor) string {
	if x == nil {
		return "nil"
	}
	return fmt.Sprintf("shape %v", x.Shape())
}

// place names element i of a shape.
func place(i int, s [4]int) string {
	return fmt.Sprintf("image %d, row %d, column %d, channel %d", i/(s[1]*s[2]*s[3]), i/(s[2]*s[3])%s[1], i/s[3]%s[2], i%s[3])
}

func (k *checker) purity() {
	for _, m := range k.methods() {
		values := k.arguments(m)
		first, args := k.run(m, values)
		for i, a := range args {
			if at, ok := differ(floats(a), values[i], 0); ok {
				k.fail("%s changed its argument %d, at %s: arguments must stay as they are", m.name, i+1, place(at, m.args[i]))
			}
		}
		k.run(m, k.arguments(m)) // something else in between
		again, _ := k.run(m, values)
		if at, ok := differ(again, first, 0); ok {
			k.fail("%s of the same arguments gave %v, then %v, at %s: an operator must not keep state between calls", m.name, first[at], again[at], place(at, m.want))
		}
	}
}

// differ finds the first element that is off by more than tolerance times the largest.
func differ(got, want []float32, tolerance float64) (at int, ok bool) {
	bound := tolerance * largest(want)
	for i := range want {
		if d := math.Abs(float64(got[i]) - float64(want[i])); !(d <= bound) {
			return i, true
		}
	}
	return 0, false
}

func largest(v []float32) (m float64) {
	for _, x := range v {
		m = max(m, math.Abs(float64(x)))
	}
	return m
}

// independence changes all images but one, and expects that one's results to stay. Rounding may differ a little, for
// operators that compute two images at a time.
func (k *checker) independence() {
	for _, m := range k.methods() {
		values := k.arguments(m)
		first, _ := k.run(m, values)
		one := len(first) / k.shape[0]
		for keep := range min(k.shape[0], 2) {
			others := k.arguments(m)
			for i, v := range values {
				size := len(v) / k.shape[0]
				copy(others[i][keep*size:][:size], v[keep*size:][:size])
			}
			got, _ := k.run(m, others)
			if at, ok := differ(got[keep*one:][:one], first[keep*one:][:one], k.o.Tolerance/10); ok {
				k.fail("%s of image %d depends on the other images of the batch: %v became %v at %s", m.name, keep, first[keep*one+at], got[keep*one+at], place(keep*one+at, m.want))
				break
			}
		}
	}
}

func dot(a, b []float32) (sum, scale float64) {
	for i := range a {
		p := float64(a[i]) * float64(b[i])
		sum, scale = sum+p, scale+math.Abs(p)
	}
	return sum, scale
}
