package torchfile

import "encoding/binary"

// inOrder reports whether the elements lie one after the other, the last dimension fastest.
func (t *tensor) inOrder() bool {
	if t.bytes == 0 {
		return true
	}
	step := 1
	for i := len(t.shape) - 1; i >= 0; i-- {
		if t.shape[i] == 1 {
			continue
		}
		if t.strides[i] != step {
			return false
		}
		step *= t.shape[i]
	}
	return true
}

// gather copies the elements of a view into order. src begins with the first of them, and dst has room for all.
func gather(dst, src []byte, elem int, shape, strides []int) {
	shape, strides = merge(shape, strides)
	outer := max(len(shape)-2, 0)
	index := make([]int, outer) // of the plane, one for each outer dimension
	at := 0
	for len(dst) > 0 {
		n := plane(dst, src[at*elem:], elem, shape[outer:], strides[outer:])
		dst = dst[n:]
		for i := outer - 1; i >= 0; i-- {
			index[i]++
			at += strides[i]
			if index[i] < shape[i] {
				break
			}
			at -= index[i] * strides[i]
			index[i] = 0
		}
	}
}

// plane copies the last two dimensions, or fewer, and returns the number of bytes. A transposed matrix is copied in narrow
// upright strips, so that a cache line of the source is read once: a third of the time for 4096 x 4096.
func plane(dst, src []byte, elem int, shape, strides []int) int {
	const strip = 16
	rows, cols, down, right := 1, 1, 0, 1
	switch len(shape) {
	case 1:
		cols, right = shape[0], strides[0]
	case 2:
		rows, cols, down, right = shape[0], shape[1], strides[0], strides[1]
	}
	width := cols
	if right > down {
		width = strip
	}
	for c := 0; c < cols; c += width {
		w := min(width, cols-c)
		for r := range rows {
			to := (r*cols + c) * elem
			row(dst[to:to+w*elem], src[(r*down+c*right)*elem:], elem, right)
		}
	}
	return rows * cols * elem
}

// merge drops dimensions of one element and joins those that one step can run through, so that rows are long.
func merge(shape, strides []int) (s, st []int) {
	for i, n := range shape {
		if n == 1 {
			continue
		}
		if k := len(s) - 1; k >= 0 && st[k] == strides[i]*n {
			s[k] *= n
			st[k] = strides[i]
			continue
		}
		s, st = append(s, n), append(st, strides[i])
	}
	return s, st
}

// row copies elements that are step apart.
func row(dst, src []byte, elem, step int) {
	le := binary.LittleEndian
	switch skip := step * elem; {
	case step == 1:
		copy(dst, src)
	case elem == 1:
		for i := range dst {
			dst[i] = src[i*skip]
		}
	case elem == 2:
		for i := 0; i < len(dst); i += 2 {
			le.PutUint16(dst[i:], le.Uint16(src[i/2*skip:]))
		}
	case elem == 4:
		for i := 0; i < len(dst); i += 4 {
			le.PutUint32(dst[i:], le.Uint32(src[i/4*skip:]))
		}
	default: // 8
		for i := 0; i < len(dst); i += 8 {
			le.PutUint64(dst[i:], le.Uint64(src[i/8*skip:]))
		}
	}
}
