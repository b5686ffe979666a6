package solver

import (
	"fmt"
	"math"

	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/tensor"
)

// BlockSensing is compressed sensing block by block: every block of b x b pixels of every channel is seen through the same m
// random mixtures, whose weights are orthonormal, so that A A^T = 1. Of a measurement [N,K,M,C], row k belongs to block k,
// counted row by row.
type BlockSensing struct {
	h, w    int
	order   *tensor.Sparse // pixels, block by block
	blocks  *tensor.Matrix // leaves the blocks apart
	mix     *tensor.Matrix // m x b^2
	back    *tensor.Matrix // its transpose
	mixings int
	numbers int // of blocks
}

const (
	maxBlock  = 32      // making rows orthonormal takes block^6 steps
	maxBlocks = 1 << 18 // in an image
)

// NewBlockSensing readies the operator for images of h x w, which the block's side divides, on a device: ratio is m/b^2 in
// (0,1], and the mixtures are those of the seed.
func NewBlockSensing(d *tensor.Device, h, w, block int, ratio float64, seed uint64) (op *BlockSensing, err error) {
	defer tensor.Catch(&err)
	m, err := blockMixtures(h, w, block, ratio)
	if err != nil {
		tensor.FailWith("solver.NewBlockSensing", err, "images of %d x %d", h, w)
	}
	op = &BlockSensing{h: h, w: w, mixings: m, numbers: h / block * (w / block)}
	order := kernels.SparseMatrix{Rows: h * w, Cols: h * w, Start: []int32{0}}
	for i := range h * w {
		at, in := i/(block*block), i%(block*block)
		row, col := at/(w/block)*block+in/block, at%(w/block)*block+in%block
		order.Col, order.W, order.Start = append(order.Col, int32(row*w+col)), append(order.W, 1), append(order.Start, int32(i+1))
	}
	op.order = d.Sparse(order)
	mix := mixtures(m, block*block, seed)
	op.blocks, op.mix, op.back = d.Matrix(identity(op.numbers).banded()), d.Matrix(mix.banded()), d.Matrix(mix.transposed().banded())
	return op, nil
}

// blockMixtures is the number of mixtures of a block.
func blockMixtures(h, w, block int, ratio float64) (int, error) {
	if block < 2 || block > maxBlock || h < 1 || w < 1 || h > maxSide || w > maxSide || h%block != 0 || w%block != 0 {
		return 0, fmt.Errorf("blocks of %d in images of %d x %d: the side of a block may be 2 to %d and must divide both", block, h, w, maxBlock)
	}
	if h*w > maxWeights || h/block*(w/block) > maxBlocks {
		return 0, fmt.Errorf("images of %d x %d in blocks of %d: at most %d million pixels in %d blocks are taken", w, h, block, maxWeights/1_000_000, maxBlocks)
	}
	if !(ratio > 0 && ratio <= 1) {
		return 0, fmt.Errorf("ratio %v: expected more than 0, and 1 at most", ratio)
	}
	return max(int(math.Round(ratio*float64(block*block))), 1), nil
}

// mixtures is m random rows of length n, orthonormal: normal numbers of Philox, made orthogonal to the rows before them,
// twice because of rounding.
func mixtures(m, n int, seed uint64) *matrix {
	line := make([]float32, n)
	out := &matrix{m, n, make([]int, m), make([][]float64, m)}
	for i := range m {
		philoxNoise{seed, domainBlock}.Normal(line, 0, i)
		row := make([]float64, n)
		for j, v := range line {
			row[j] = float64(v)
		}
		for range 2 {
			shares := make([]float64, i)
			parallel(i, func(k int) {
				for j, v := range out.w[k] {
					shares[k] += v * row[j]
				}
			})
			for k, s := range shares {
				addScaled(row, out.w[k], -s)
			}
		}
		var size float64
		for _, v := range row {
			size += v * v
		}
		for j := range row {
			row[j] /= math.Sqrt(size)
		}
		out.w[i] = row
	}
	return out
}

func (op *BlockSensing) Apply(x *tensor.Tensor) *tensor.Tensor { return op.applied(x, plain) }

func (op *BlockSensing) applied(x *tensor.Tensor, e ending) (y *tensor.Tensor) {
	d := x.Device()
	defer d.Tidy(&y)()
	size := op.h * op.w / op.numbers
	b := d.Product(d.New(x.N(), op.numbers, size, x.C()), x, tensor.Product{M: op.order, Alpha: 1})
	return separable([2]*tensor.Matrix{op.blocks, op.mix}, b, e)
}

func (op *BlockSensing) VJP(_, r *tensor.Tensor) *tensor.Tensor { return op.adjoint(r, plain) }

func (op *BlockSensing) adjoint(r *tensor.Tensor, e ending) (x *tensor.Tensor) {
	d := r.Device()
	defer d.Tidy(&x)()
	b := separable([2]*tensor.Matrix{op.blocks, op.back}, r, plain)
	return d.Product(d.New(r.N(), op.h, op.w, r.C()), b, tensor.Product{M: op.order, Adjoint: true, Alpha: e.alpha, Add: e.add, Beta: e.beta, Products: e.Products})
}

// Prox is x0 + A^T (y - A x0) / (1 + rho).
func (op *BlockSensing) Prox(x0, y *tensor.Tensor, rho float64) (x *tensor.Tensor) {
	defer y.Device().Tidy(&x)()
	return op.adjoint(op.applied(x0, ending{alpha: -1, add: y, beta: 1}), ending{alpha: 1 / (1 + rho), add: x0, beta: 1})
}

// Guess is the smallest picture that explains y.
func (op *BlockSensing) Guess(y *tensor.Tensor) *tensor.Tensor { return op.VJP(nil, y) }

func (op *BlockSensing) ImageShape(y [4]int) [4]int { return [4]int{y[0], op.h, op.w, y[3]} }
func (op *BlockSensing) Lipschitz() float64         { return 1 }
func (op *BlockSensing) IsLinear() bool             { return true }
func (op *BlockSensing) Task() Task                 { return TaskCS }

// View is the first guess.
func (op *BlockSensing) View(y *tensor.Tensor) *tensor.Tensor { return op.Guess(y) }

var blocksKind = kind{
	other:   true,
	numbers: []string{"block", "ratio", "seed"},
	shape: func(s Spec, h, w, c int) (out [3]int, err error) {
		block, err := s.whole("block", 2, maxBlock)
		if err != nil {
			return out, err
		}
		if _, err := s.whole("seed", 0, maxSeed); err != nil {
			return out, err
		}
		m, err := blockMixtures(h, w, block, s.Numbers["ratio"])
		return [3]int{h / block * (w / block), m, c}, err
	},
	build: func(d *tensor.Device, s Spec, h, w, _ int) (Operator, error) {
		return orNil(NewBlockSensing(d, h, w, int(s.Numbers["block"]), s.Numbers["ratio"], uint64(s.Numbers["seed"])))
	},
	text: func(s Spec) string {
		return fmt.Sprintf("random mixtures of blocks of %v x %[1]v, %.3g of them", s.Numbers["block"], s.Numbers["ratio"])
	},
}
