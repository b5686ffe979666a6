package solver

import (
	"math"

	"github.com/spin-native/spin/kernels"
)

// matrix is a matrix on the host whose row i has weights w[i] on columns first[i] and following.
type matrix struct {
	rows, cols int
	first      []int
	w          [][]float64
}

// newMatrix makes a matrix row by row: row(i, add) adds weights to columns.
func newMatrix(rows, cols int, row func(i int, add func(j int, v float64))) *matrix {
	m := &matrix{rows, cols, make([]int, rows), make([][]float64, rows)}
	line := make([]float64, cols)
	for i := range rows {
		first, last := cols, 0
		row(i, func(j int, v float64) {
			line[j] += v
			if v != 0 {
				first, last = min(first, j), max(last, j+1)
			}
		})
		if first < last {
			m.first[i], m.w[i] = first, append([]float64(nil), line[first:last]...)
			clear(line[first:last])
		}
	}
	return m
}

func (m *matrix) transposed() *matrix {
	t := &matrix{m.cols, m.rows, make([]int, m.cols), make([][]float64, m.cols)}
	for i, w := range m.w {
		for k, v := range w {
			j := m.first[i] + k
			if v == 0 {
				continue
			}
			if t.w[j] == nil {
				t.first[j] = i
			}
			for t.first[j]+len(t.w[j]) < i {
				t.w[j] = append(t.w[j], 0)
			}
			t.w[j] = append(t.w[j], v)
		}
	}
	return t
}

// banded is the matrix for a device.
func (m *matrix) banded() kernels.Matrix {
	b := kernels.Matrix{Rows: m.rows, Cols: m.cols, First: m.first, W: make([][]float32, m.rows)}
	for i, w := range m.w {
		b.W[i] = make([]float32, len(w))
		for k, v := range w {
			b.W[i][k] = float32(v)
		}
	}
	return b
}

// leftProduct is u^T M.
func (m *matrix) leftProduct(u []float64) []float64 {
	out := make([]float64, m.cols)
	for i, w := range m.w {
		for k, v := range w {
			out[m.first[i]+k] += u[i] * v
		}
	}
	return out
}

// mirrorCentre folds any index into [0,n) by reflection at the centres of the first and the last pixel, which are not
// repeated: period 2(n-1).
func mirrorCentre(i, n int) int {
	if n == 1 {
		return 0
	}
	period := 2 * (n - 1)
	i = ((i % period) + period) % period
	return min(i, period-i)
}

// mirrorEdge folds any index into [0,n) by reflection at the outer edges, so that the edge pixels repeat: period 2n.
func mirrorEdge(i, n int) int {
	i = ((i % (2 * n)) + 2*n) % (2 * n)
	return min(i, 2*n-1-i)
}

// cubic is the interpolation kernel of Keys with parameter a.
func cubic(x, a float64) float64 {
	x = math.Abs(x)
	switch {
	case x <= 1:
		return ((a+2)*x-(a+3))*x*x + 1
	case x <= 2:
		return ((a*x-5*a)*x+8*a)*x - 4*a
	}
	return 0
}

// reduction is the bicubic matrix (a = -1/2) from n pixels to m = n/factor, antialiased: the kernel is stretched by the
// factor. Row i is centred on c = (i+1/2) factor - 1/2; the borders are mirrored with their edge pixels.
func reduction(m, n int) *matrix {
	return resampling(m, n, -0.5, float64(n)/float64(m), func(j int) int { return mirrorEdge(j, n) })
}

// averages is the matrix from n pixels to the means of n/m neighbours each.
func averages(m, n int) *matrix {
	return newMatrix(m, n, func(i int, add func(j int, v float64)) {
		for j := range n / m {
			add(i*(n/m)+j, float64(m)/float64(n))
		}
	})
}

// enlargement is the plain bicubic matrix from n pixels to m as picture libraries have it: a = -3/4, and the edge pixels
// go on outside.
func enlargement(m, n int) *matrix {
	return resampling(m, n, -0.75, 1, func(j int) int { return min(max(j, 0), n-1) })
}

func resampling(m, n int, a, stretch float64, border func(j int) int) *matrix {
	return newMatrix(m, n, func(i int, add func(j int, v float64)) {
		c := (float64(i)+0.5)*float64(n)/float64(m) - 0.5
		first, last := int(math.Floor(c-2*stretch)), int(math.Ceil(c+2*stretch))
		var sum float64
		for j := first; j <= last; j++ {
			sum += cubic((float64(j)-c)/stretch, a)
		}
		for j := first; j <= last; j++ {
			add(border(j), cubic((float64(j)-c)/stretch, a)/sum)
		}
	})
}

// correlation is the matrix that correlates n pixels with an odd kernel, the borders mirrored without their edge pixels.
func correlation(n int, k []float64) *matrix {
	return newMatrix(n, n, func(i int, add func(j int, v float64)) {
		for j, v := range k {
			add(mirrorCentre(i+j-len(k)/2, n), v)
		}
	})
}

// selection is the matrix with a single one in every row i, at column at(i).
func selection(rows, cols int, at func(i int) int) *matrix {
	return newMatrix(rows, cols, func(i int, add func(j int, v float64)) { add(at(i), 1) })
}

// rotation is the matrix that turns n pixels on a circle: pixel i comes from i + by.
func rotation(n, by int) *matrix { return selection(n, n, func(i int) int { return (i + by) % n }) }

// identity leaves n pixels as they are.
func identity(n int) *matrix { return rotation(n, 0) }

// cosines is the orthonormal DCT-II of size n: row k is u_k, with
//
//	u_k[i] = sqrt(2/n) cos(pi k (i+1/2) / n),   u_0[i] = sqrt(1/n)
func cosines(n int) *matrix {
	m := &matrix{n, n, make([]int, n), make([][]float64, n)}
	table := make([]float64, 4*n) // cos(pi j / 2n), one period
	for j := range table {
		table[j] = math.Cos(math.Pi * float64(j) / float64(2*n))
	}
	for k := range n {
		scale := math.Sqrt(2 / float64(n))
		if k == 0 {
			scale = math.Sqrt(1 / float64(n))
		}
		m.w[k] = make([]float64, n)
		for i := range n {
			m.w[k][i] = scale * table[k*(2*i+1)%(4*n)]
		}
	}
	return m
}
