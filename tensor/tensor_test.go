package tensor_test

import (
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/kernels/cpu"
	"github.com/spin-native/spin/kernels/ref"
	"github.com/spin-native/spin/tensor"
)

func device(t testing.TB) *tensor.Device {
	b, err := cpu.Open(cpu.Options{Threads: 2})
	require.NoError(t, err)
	d := tensor.NewDevice(b)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

func TestTidy(t *testing.T) {
	d := device(t)
	var inner, outer *tensor.Tensor
	func() {
		defer d.Tidy(&outer)()
		d.New(1, 2, 2, 1) // a temporary
		func() {
			defer d.Tidy(&inner)()
			d.New(1, 4, 4, 1)
			inner = d.From([]float32{1, 2}, 1, 1, 2, 1)
		}()
		require.Equal(t, int64(4*(4+2)), d.Stats().Live, "the inner temporary is gone, what was kept is not")
		outer = d.From([]float32{3}, 1, 1, 1, 1)
	}()
	require.Equal(t, int64(4), d.Stats().Live, "only what the outermost bracket kept")
	got, err := outer.Floats()
	require.NoError(t, err)
	require.Equal(t, []float32{3}, got)
	require.PanicsWithError(t, "tensor.Floats: tensor of shape [1 1 2 1] was freed before", func() { inner.Floats() })
	outer.Free()
	require.Zero(t, d.Stats().Live)
	require.Panics(t, func() { outer.Free() })
}

// step is what a pass of a network does to memory.
func step(d *tensor.Device) {
	defer d.Tidy()()
	var skips []*tensor.Tensor
	for i := range 8 {
		skips = append(skips, d.New(1, 64, 64, 8*(i+1)))
		d.New(1, 64, 64, 4*(i+2)).Free()
		d.New(1, 1, 2, 8*(i+1))
	}
	for i := range skips {
		d.New(1, 64, 64, 8*(8-i)+3)
		skips[len(skips)-1-i].Free()
	}
}

// TestReserve: with the peak of an earlier run one piece of memory is enough for the same again.
func TestReserve(t *testing.T) {
	first := device(t)
	step(first)
	step(first)
	unplanned := first.Stats()
	require.Zero(t, unplanned.Live)
	step(first)
	require.Equal(t, unplanned.Allocs, first.Stats().Allocs, "the second pass was the last to take memory")

	d := tensor.NewDevice(ref.Open())
	require.NoError(t, d.Reserve(1<<30))
	step(d)
	peak := d.Stats().Peak
	require.Zero(t, peak%64)

	d = device(t)
	require.NoError(t, d.Reserve(peak))
	for range 3 {
		step(d)
		require.Equal(t, tensor.Stats{Peak: peak, Allocated: peak, Allocs: 1}, d.Stats())
	}
	large := d.New(1, 1024, 1024, int(peak>>20)) // four times the peak: taken in place of what is there
	require.Equal(t, int64(2), d.Stats().Allocs)
	all := d.Stats().Allocated
	require.InDelta(t, 4*large.Len(), all, 4096)
	d.Trim()
	require.Equal(t, all, d.Stats().Allocated, "it is in use")
	large.Free()
	d.Trim()
	require.Zero(t, d.Stats().Allocated)
	step(d)

	for _, bytes := range []int64{0, -1, math.MaxInt64, 1 << 58} {
		var e *tensor.Error
		require.ErrorAs(t, d.Reserve(bytes), &e, bytes)
	}
}

// TestCheap: a tensor costs Go itself one small object, and nothing is kept of it.
func TestCheap(t *testing.T) {
	d := device(t)
	require.NoError(t, d.Reserve(1<<20))
	d.New(1, 1, 1, 7)
	require.LessOrEqual(t, testing.AllocsPerRun(100, func() {
		a, b := d.New(1, 8, 8, 3), d.New(1, 8, 8, 4)
		a.Free()
		b.Free()
	}), 2.0)
}

// TestFreeAfterClose: a tensor that outlives its device is harmless.
func TestFreeAfterClose(t *testing.T) {
	d := tensor.NewDevice(ref.Open())
	a, b := d.New(1, 8, 8, 3), d.New(1, 8, 8, 4)
	require.NoError(t, d.Close())
	a.Free()
	b.Free()
}

func TestImages(t *testing.T) {
	d := device(t)
	x := d.From([]float32{1, 2, 3, 4}, 2, 1, 1, 2)
	x.SetImage(1, []float32{5, 6})
	got, err := x.Floats()
	require.NoError(t, err)
	require.Equal(t, []float32{1, 2, 5, 6}, got)
}

// TestMisuse: every wrong shape is an *Error that says what was given and what was expected.
func TestMisuse(t *testing.T) {
	d, other := device(t), tensor.NewDevice(ref.Open())
	x := d.New(1, 4, 4, 2)
	k := d.Kernel(kernels.ConvWeights{Weight: make([]float32, 3*2*9), In: 2, Out: 3, Size: 3, Stride: 1, Pad: 1})
	halving := d.Kernel(kernels.ConvWeights{Weight: make([]float32, 3*2*9), In: 2, Out: 3, Size: 3, Stride: 2, PadEnd: 1})
	m := d.Matrix(kernels.Matrix{Rows: 2, Cols: 4, First: []int{0, 2}, W: [][]float32{{1}, {1}}})
	f := d.FilterKernel(kernels.FilterWeights{H: 3, W: 3, K: make([]float32, 9)})
	vec := func(c int) *tensor.Tensor { return d.New(1, 1, 1, c) }
	s := d.Sparse(kernels.SparseMatrix{Rows: 3, Cols: 16, Start: []int32{0, 1, 1, 2}, Col: []int32{15, 0}, W: []float32{1, 1}})
	foreign := other.Sparse(kernels.SparseMatrix{Rows: 3, Cols: 16, Start: []int32{0, 0, 0, 0}})
	for name, c := range map[string]struct {
		run  func()
		want string
	}{
		"empty shape":        {func() { d.New(1, 0, 4, 2) }, "empty"},
		"huge shape":         {func() { d.New(1<<30, 1<<30, 1<<30, 8) }, "too large"},
		"wrong data":         {func() { d.From(make([]float32, 3), 1, 2, 2, 1) }, "3 values"},
		"image out of range": {func() { x.SetImage(1, make([]float32, 32)) }, "image 1"},
		"other device":       {func() { d.Conv2D(k, tensor.Input{X: other.New(1, 4, 4, 2)}, tensor.Epilogue{}) }, "device"},
		"channels":           {func() { d.Conv2D(k, tensor.Input{X: d.New(1, 4, 4, 3)}, tensor.Epilogue{}) }, "3 channels"},
		"skip":               {func() { d.Conv2D(k, tensor.Input{X: d.New(1, 4, 4, 1), Skip: d.New(1, 2, 4, 1)}, tensor.Epilogue{}) }, "skip"},
		"odd halves":         {func() { d.Conv2D(k, tensor.Input{X: d.New(1, 3, 4, 2), Sampling: kernels.Down2}, tensor.Epilogue{}) }, "even"},
		"affine":             {func() { d.Conv2D(k, tensor.Input{X: x, Affine: vec(2)}, tensor.Epilogue{}) }, "normalisation"},
		"embedding":          {func() { d.Conv2D(k, tensor.Input{X: x}, tensor.Epilogue{Embed: vec(2)}) }, "embedding"},
		"residual":           {func() { d.Conv2D(k, tensor.Input{X: x}, tensor.Epilogue{Residual: x}) }, "residual"},
		"bad convolution":    {func() { d.Kernel(kernels.ConvWeights{In: 1, Out: 1, Size: 2, Stride: 1}) }, "is not one"},
		"missing weights":    {func() { d.Kernel(kernels.ConvWeights{In: 1, Out: 1, Size: 1, Stride: 1}) }, "0 weights"},
		"groups":             {func() { d.GroupNorm(x, nil, vec(2), vec(2), 3, 1e-5, nil) }, "3 groups"},
		"gamma":              {func() { d.GroupNorm(x, nil, vec(3), vec(2), 1, 1e-5, nil) }, "gamma"},
		"modulation":         {func() { d.GroupNorm(x, nil, vec(2), vec(2), 1, 1e-5, vec(2)) }, "modulation"},
		"heads":              {func() { h := tensor.Heads{X: x, Step: 2}; d.Attention(h, h, h, 2, 2, 1) }, "heads"},
		"keys and values": {func() {
			d.Attention(tensor.Heads{X: x}, tensor.Heads{X: x}, tensor.Heads{X: d.New(1, 2, 2, 2)}, 1, 2, 1)
		}, "fit together"},
		"code vectors": {func() { d.Nearest(x, d.New(1, 1, 3, 8)) }, "code vectors"},
		"too small":    {func() { d.Conv2D(halving, tensor.Input{X: d.New(1, 1, 8, 2)}, tensor.Epilogue{}) }, "smaller"},
		"padding": {func() {
			d.Kernel(kernels.ConvWeights{Weight: []float32{1}, In: 1, Out: 1, Size: 1, Stride: 1, PadEnd: 1})
		}, "padding at the end"},
		"half of an odd":     {func() { d.New(1, 3, 3, 1).Resample(kernels.Down2) }, "even"},
		"no terms":           {func() { d.Blend(nil, tensor.Blend{}) }, "0 terms"},
		"term":               {func() { d.Blend(x, tensor.Blend{Terms: []tensor.Term{{X: d.New(1, 4, 4, 3), C: 1}}}) }, "repeated"},
		"numerator alone":    {func() { d.Blend(x, tensor.Blend{Terms: []tensor.Term{{X: x, C: 1, Num: vec(1)}}}) }, "numerator"},
		"dot":                {func() { d.Dot(nil, x, vec(2)) }, "second operand"},
		"matrix":             {func() { d.Matrix(kernels.Matrix{Rows: 1, Cols: 1, First: []int{1}, W: [][]float32{{1}}}) }, "columns"},
		"separable input":    {func() { d.Separable(nil, d.New(1, 5, 4, 1), tensor.Separable{H: m, W: m, Alpha: 1}) }, "does not fit"},
		"separable output":   {func() { d.Separable(x, x, tensor.Separable{H: m, W: m, Alpha: 1}) }, "destination"},
		"one spectrum":       {func() { d.Separable(nil, x, tensor.Separable{H: m, W: m, RowSpectrum: vec(2)}) }, "spectra"},
		"filter":             {func() { d.FilterKernel(kernels.FilterWeights{H: 2, W: 2, K: make([]float32, 4)}) }, "odd"},
		"filter in place":    {func() { d.Filter(x, x, tensor.Filter{Kernel: f, Alpha: 1}) }, "same tensor"},
		"half of a complex":  {func() { d.Fourier(nil, d.New(1, 4, 4, 3), false) }, "3 channels"},
		"fourier output":     {func() { d.Fourier(d.New(1, 4, 2, 2), x, false) }, "destination"},
		"sparse matrix":      {func() { d.Sparse(kernels.SparseMatrix{Rows: 1, Cols: 1, Start: []int32{0, 1}}) }, "1 x 1 matrix"},
		"foreign matrix":     {func() { d.Product(nil, x, tensor.Product{M: foreign}) }, "another device"},
		"product's input":    {func() { d.Product(nil, x, tensor.Product{M: s, Adjoint: true}) }, "expected 3"},
		"product's output":   {func() { d.Product(d.New(1, 2, 2, 2), x, tensor.Product{M: s}) }, "3 pixels"},
		"product's channels": {func() { d.Product(d.New(1, 1, 3, 1), x, tensor.Product{M: s}) }, "2 channels"},
		"product's addend":   {func() { d.Product(nil, x, tensor.Product{M: s, Add: vec(3)}) }, "addend"},
		"product in place": {func() {
			square := d.Sparse(kernels.SparseMatrix{Rows: 16, Cols: 16, Start: make([]int32, 17)})
			d.Product(x, x, tensor.Product{M: square})
		}, "same tensor"},
		"no formula":           {func() { d.Pointwise(nil, kernels.PointPhase+1, x, nil, 0, 0) }, "formula 10"},
		"negative formula":     {func() { d.Pointwise(nil, -1, x, nil, 0, 0) }, "formula -1"},
		"odd complex":          {func() { d.Pointwise(nil, kernels.PointAbs, vec(3), nil, 0, 0) }, "3 channels"},
		"operand missing":      {func() { d.Pointwise(nil, kernels.PointMul, x, nil, 0, 0) }, "missing"},
		"operand too many":     {func() { d.Pointwise(nil, kernels.PointClip, x, x, -1, 1) }, "expected none"},
		"operand's shape":      {func() { d.Pointwise(nil, kernels.PointMul, x, d.New(1, 4, 4, 3), 0, 0) }, "repeated"},
		"modulus of a phase":   {func() { d.Pointwise(nil, kernels.PointPhase, x, x, 1e-8, 0) }, "repeated"},
		"pointwise output":     {func() { d.Pointwise(x, kernels.PointAbs, x, nil, 0, 0) }, "destination"},
		"step of zero":         {func() { d.Pointwise(nil, kernels.PointRound, x, nil, 0, 0) }, "positive"},
		"step that vanishes":   {func() { d.Pointwise(nil, kernels.PointRound, x, nil, 1e-60, 0) }, "positive"},
		"step of NaN":          {func() { d.Pointwise(nil, kernels.PointRound, x, nil, math.NaN(), 0) }, "positive"},
		"power of a negative":  {func() { d.Pointwise(nil, kernels.PointPower, x, nil, -1, 0.5) }, "positive"},
		"accelerate":           {func() { d.Accelerate(tensor.Accelerate{X: x, Z: x, Grad: vec(1), X0: x}) }, "operand"},
		"adam's step":          {func() { d.Adam(tensor.Adam{X: x, M: x, V: x, Grad: x, X0: x}) }, "step 0"},
		"scalars of one image": {func() { d.Adam(tensor.Adam{X: x, M: x, V: x, Grad: x, X0: x, T: 1, Stop: tensor.Stop{Loss: vec(2)}}) }, "scalars"},
	} {
		t.Run(name, func(t *testing.T) {
			err := func() (err error) {
				defer tensor.Catch(&err)
				c.run()
				return nil
			}()
			var e *tensor.Error
			require.ErrorAs(t, err, &e)
			require.ErrorContains(t, err, c.want)
		})
	}
}

// TestProduct: a product has the shape that it is asked for, and the transpose leads back.
func TestProduct(t *testing.T) {
	d := device(t)
	m := d.Sparse(kernels.SparseMatrix{Rows: 2, Cols: 6, Start: []int32{0, 3, 4}, Col: []int32{0, 5, 5, 1}, W: []float32{1, 2, 3, -1}})
	defer m.Free()
	x := d.From([]float32{1, 10, 2, 20, 3, 30, 4, 40, 5, 50, 6, 60}, 1, 2, 3, 2)
	y := d.Product(nil, x, tensor.Product{M: m, Alpha: 1})
	require.Equal(t, [4]int{1, 1, 2, 2}, y.Shape())
	got, err := y.Floats()
	require.NoError(t, err)
	require.Equal(t, []float32{31, 310, -2, -20}, got)
	back, err := d.Product(d.New(1, 3, 2, 2), y, tensor.Product{M: m, Adjoint: true, Alpha: 2, Add: x.Device().From(make([]float32, 12), 1, 3, 2, 2)}).Floats()
	require.NoError(t, err)
	require.Equal(t, []float32{62, 620, 4, 40, 0, 0, 0, 0, 0, 0, 310, 3100}, back)
}

func TestCatchLetsOthersPass(t *testing.T) {
	require.PanicsWithValue(t, "not ours", func() {
		var err error
		defer tensor.Catch(&err)
		panic("not ours")
	})
	cause := errors.New("cause")
	err := func() (err error) {
		defer tensor.Catch(&err)
		tensor.FailWith("op", cause, "message %d", 1)
		return nil
	}()
	require.ErrorIs(t, err, cause)
	require.EqualError(t, err, "op: message 1: cause")
}

// short is a backend without memory.
type short struct{ kernels.Backend }

func (short) Alloc(n int) (kernels.Buffer, error) {
	return nil, fmt.Errorf("none left: %w", kernels.ErrOutOfMemory)
}

func TestOutOfMemory(t *testing.T) {
	d := tensor.NewDevice(short{ref.Open()})
	err := func() (err error) {
		defer tensor.Catch(&err)
		d.New(1, 1024, 1024, 1)
		return nil
	}()
	require.ErrorIs(t, err, kernels.ErrOutOfMemory)
	require.ErrorContains(t, err, "4 MB asked for")
}

// Normalisation costs no pass of its own: GroupNorm only describes it, the convolution applies it on load.
func Example() {
	d := tensor.NewDevice(ref.Open())
	defer d.Close()
	x := d.From([]float32{1, 3, 5, 7}, 1, 2, 2, 1) // one image of 2 x 2 pixels
	one := d.Vector([]float32{1})
	zero := d.Vector([]float32{0})
	double := d.Kernel(kernels.ConvWeights{Weight: []float32{2}, In: 1, Out: 1, Size: 1, Stride: 1})

	y := d.Conv2D(double, d.GroupNorm(x, nil, one, zero, 1, 0, nil), tensor.Epilogue{})
	values, _ := y.Floats()
	fmt.Printf("%.3f\n", values)
	// Output: [-2.683 -0.894 0.894 2.683]
}

func TestRows(t *testing.T) {
	d := tensor.NewDevice(ref.Open())
	defer d.Close()
	data := make([]float32, 2*4*3*2)
	for i := range data {
		data[i] = float32(i)
	}
	x := d.From(data, 2, 4, 3, 2)
	x.Moments()
	v := x.Rows(1, 1, 3)
	require.Equal(t, [4]int{1, 2, 3, 2}, v.Shape())
	got, err := v.Floats()
	require.NoError(t, err)
	require.Equal(t, data[30:42], got)
	got, err = v.Rows(0, 1, 2).Floats()
	require.NoError(t, err)
	require.Equal(t, data[36:42], got)

	stale := x.Moments()
	x.SetRows(0, 2, v)
	copy(data[12:24], data[30:42])
	got, err = x.Floats()
	require.NoError(t, err)
	require.Equal(t, data, got)
	require.NotSame(t, stale, x.Moments())

	// A view that a bracket hands on keeps what it is part of.
	var kept *tensor.Tensor
	func() {
		defer d.Tidy()()
		func() {
			defer d.Tidy(&kept)()
			kept = d.From(data, 2, 4, 3, 2).Rows(0, 0, 1)
		}()
		got, err := kept.Floats()
		require.NoError(t, err)
		require.Equal(t, data[:6], got)
	}()
	require.ErrorContains(t, caught(func() { kept.Rows(0, 0, 1) }), "freed")
	require.ErrorContains(t, caught(func() { x.Rows(2, 0, 1) }), "image 2")
	require.ErrorContains(t, caught(func() { x.Rows(0, 3, 5) }), "rows 3 to 5")
}

func caught(f func()) (err error) {
	defer tensor.Catch(&err)
	f()
	return nil
}

// TestReading: on a device that does nothing while the program goes on, what is read is there at once.
func TestReading(t *testing.T) {
	d := device(t)
	x := d.From([]float32{1, 2}, 1, 1, 1, 2)
	r := x.Read()
	x.Set([]float32{3, 4})
	require.True(t, r.There())
	mark := d.Mark()
	got, err := r.Floats()
	require.NoError(t, err)
	require.Equal(t, []float32{1, 2}, got)
	none, err := mark.Floats()
	require.NoError(t, err)
	require.Empty(t, none)
	require.GreaterOrEqual(t, mark.Since(r), time.Duration(0))
	r.Free()
	x.Free()
	require.Panics(t, func() { x.Read() })
}
