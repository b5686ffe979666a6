package weights

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/x448/float16"
)

func floats(name string, shape []int, values ...float32) Tensor {
	t := Tensor{Name: name, DType: F32, Shape: shape}
	for _, v := range values {
		t.Data = binary.LittleEndian.AppendUint32(t.Data, math.Float32bits(v))
	}
	return t
}

func TestEveryHalf(t *testing.T) {
	in := Tensor{Name: "h", DType: F16, Shape: []int{1 << 16}}
	for i := range 1 << 16 {
		in.Data = binary.LittleEndian.AppendUint16(in.Data, uint16(i))
	}
	got, err := in.Floats()
	require.NoError(t, err)
	for i, v := range got {
		if want := float16.Frombits(uint16(i)).Float32(); math.Float32bits(v) != math.Float32bits(want) {
			t.Fatalf("half %04x is %g, expected %g", i, v, want)
		}
	}
	// And back: every value that is not a NaN is exact.
	wide, err := in.To(F32)
	require.NoError(t, err)
	back, err := wide.To(F16)
	require.NoError(t, err)
	for i := range 1 << 16 {
		if h := binary.LittleEndian.Uint16(back.Data[2*i:]); int(h) != i && i&0x7fff <= 0x7c00 {
			t.Fatalf("half %04x came back as %04x", i, h)
		}
	}
	in.DType = BF16
	if got, err = in.Floats(); err != nil {
		t.Fatal(err)
	}
	for i, v := range got {
		if math.Float32bits(v) != uint32(i)<<16 {
			t.Fatalf("bfloat16 %04x is %g", i, v)
		}
	}
}

func TestRounding(t *testing.T) {
	inf := float32(math.Inf(1))
	for _, c := range []struct {
		v     float32
		f16   uint16
		brain uint16
	}{
		{0, 0, 0},
		{1, 0x3c00, 0x3f80},
		{-2, 0xc000, 0xc000},
		{1 + 0x1p-11, 0x3c00, 0x3f80},           // half way for F16: to even, down
		{1 + 3*0x1p-11, 0x3c02, 0x3f80},         // half way: to even, up
		{1 + 0x1p-11 + 0x1p-20, 0x3c01, 0x3f80}, // above half way
		{1 + 0x1p-8, 0x3c04, 0x3f80},            // half way for BF16: to even, down
		{1 + 3*0x1p-8, 0x3c0c, 0x3f82},          // half way: to even, up
		{1 + 0x1p-8 + 0x1p-20, 0x3c04, 0x3f81},
		{65504, 0x7bff, 0x4780},
		{65519.99, 0x7bff, 0x4780},
		{0x1p-24, 0x0001, 0x3380},
		{0x1p-25, 0x0000, 0x3300}, // half the least F16: to even, zero
		{-0x1p-14, 0x8400, 0xb880},
		{inf, 0x7c00, 0x7f80},
	} {
		in := floats("x", []int{1}, c.v)
		h, err := in.To(F16)
		require.NoError(t, err)
		require.Equal(t, c.f16, binary.LittleEndian.Uint16(h.Data), "F16 of %g", c.v)
		b, err := in.To(BF16)
		require.NoError(t, err)
		require.Equal(t, c.brain, binary.LittleEndian.Uint16(b.Data), "BF16 of %g", c.v)
	}
	for _, nan := range []uint32{0x7f800001, 0x7fc00000, 0xffffffff} {
		b, err := floats("x", []int{1}, math.Float32frombits(nan)).To(BF16)
		require.NoError(t, err)
		v, err := b.Floats()
		require.NoError(t, err)
		require.True(t, v[0] != v[0])
	}
}

func TestConversionErrors(t *testing.T) {
	_, err := floats("big", []int{2}, 1, 65520).To(F16)
	require.EqualError(t, err, `weights: tensor "big": element 1 is 65520, too large for F16`)
	_, err = floats("big", []int{1}, -math.MaxFloat32).To(BF16)
	require.ErrorContains(t, err, "too large for BF16")
	_, err = floats("x", []int{1}, 1).To(I8)
	require.ErrorContains(t, err, "cannot convert to I8")
	_, err = Tensor{Name: "i", DType: I64, Shape: []int{1}, Data: make([]byte, 8)}.To(F32)
	require.ErrorContains(t, err, "dtype I64")
	_, err = floats("x", []int{1}, 1).Ints()
	require.ErrorContains(t, err, "expected an integer type")
	_, err = floats("x", []int{2}, 1).Floats()
	require.ErrorContains(t, err, "4 bytes of data do not fit shape [2] of F32")
	_, err = floats("x", []int{2}, 1).To(F32)
	require.ErrorContains(t, err, "do not fit")
	_, err = Tensor{Name: "b", DType: BOOL, Shape: []int{1}, Data: []byte{2}}.Ints()
	require.ErrorContains(t, err, "out of range")
	_, err = Tensor{Name: "u", DType: U64, Shape: []int{1}, Data: []byte{0, 0, 0, 0, 0, 0, 0, 0x80}}.Ints()
	require.ErrorContains(t, err, "out of range")
	_, err = Tensor{Name: "u", DType: U64, Shape: []int{2}, Data: make([]byte, 8)}.Ints()
	require.ErrorContains(t, err, "do not fit")

	v, err := Tensor{Name: "u", DType: U16, Shape: []int{1}, Data: []byte{0xff, 0xff}}.Ints()
	require.NoError(t, err)
	require.Equal(t, []int64{65535}, v)
	v, err = Tensor{Name: "u", DType: U32, Shape: []int{1}, Data: []byte{0xff, 0xff, 0xff, 0xff}}.Ints()
	require.NoError(t, err)
	require.Equal(t, []int64{1<<32 - 1}, v)
}

func BenchmarkFloats(b *testing.B) {
	const n = 1 << 20
	for _, d := range []DType{F32, F16, BF16, F64} {
		b.Run(fmt.Sprintf("dtype=%s", d), func(b *testing.B) {
			t := Tensor{Name: "x", DType: d, Shape: []int{n}, Data: make([]byte, n*d.Size())}
			b.SetBytes(4 * n)
			for b.Loop() {
				if _, err := t.Floats(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestFromTensors(t *testing.T) {
	f, err := FromTensors("model", []Tensor{FromFloats("b", []float32{1, 2}, 2), FromFloats("a", []float32{3}, 1)}, map[string]string{"k": "v"})
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b"}, f.Names())
	require.Equal(t, []float32{1, 2}, f.Scope().Floats("b", 2))
	require.ErrorContains(t, f.CheckAllRead(), "a")
	require.NoError(t, f.Close())
	_, err = FromTensors("model", []Tensor{FromFloats("a", []float32{1}, 1), FromFloats("a", []float32{1}, 1)}, nil)
	require.ErrorContains(t, err, "twice")
	_, err = FromTensors("model", []Tensor{FromFloats("a", []float32{1}, 2)}, nil)
	require.Error(t, err)
}

// TestToHalf holds the bulk conversion to the oracle: every half, its neighbours, the midpoints, and random bits.
func TestToHalf(t *testing.T) {
	check := func(bits uint32) {
		v := math.Float32frombits(bits)
		if want, got := float16.Fromfloat32(v).Bits(), toHalf(v); want != got {
			t.Fatalf("%g (%#08x) becomes %#04x, expected %#04x", v, bits, got, want)
		}
	}
	for h := range 1 << 16 {
		b := math.Float32bits(float16.Frombits(uint16(h)).Float32())
		for _, d := range []uint32{0, 1, 0xfff, 0x1000, 0x1001, 0x1fff} {
			check(b + d)
			check(b - d)
		}
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for range 1_000_000 {
		check(rng.Uint32())
	}
}

func TestShapesOnly(t *testing.T) {
	f, err := FromTensors("model", []Tensor{FromFloats("a", []float32{float32(math.NaN()), 2}, 2), FromFloats("b", []float32{3}, 1)}, nil)
	require.NoError(t, err)
	s := f.ShapesOnly()
	require.Equal(t, []float32{0, 0}, s.Scope().Floats("a", 2), "not even looked at")
	require.Panics(t, func() { s.Scope().Floats("a", 3) })
	require.Panics(t, func() { s.Scope().Floats("c", 1) })
	require.ErrorContains(t, s.CheckAllRead(), "b")
	require.Len(t, f.Unread(), 2)
	require.Equal(t, make([]float32, 6), Synthetic("x", 1).ShapesOnly().Scope().Floats("any", 2, 3))
}

func TestSynthetic(t *testing.T) {
	f := Synthetic("x", 1)
	first := f.Scope().Floats("a.weight", 3, 4)
	require.Equal(t, first, f.Scope().Floats("a.weight", 3, 4), "made again, the same")
	require.NotEqual(t, first, f.Scope().Floats("b.weight", 3, 4))
	require.Panics(t, func() { f.Scope().Floats("a.weight", 4, 3) })
	require.Equal(t, []string{"a.weight", "b.weight"}, f.Names())
	x, ok := f.Tensor("a.weight")
	require.True(t, ok)
	got, err := x.Floats()
	require.NoError(t, err)
	require.Equal(t, first, got)
	require.False(t, f.Scope().Has("c"))
	require.NoError(t, f.CheckAllRead())
}

// TestFloatsInto: one buffer serves all tensors, and the pages that were let go come back when they are read again.
func TestFloatsInto(t *testing.T) {
	large := make([]float32, 1<<16+5)
	for i := range large {
		large[i] = float32(i)
	}
	path := filepath.Join(t.TempDir(), "f.safetensors")
	require.NoError(t, Write(path, []Tensor{FromFloats("a", large, len(large)), FromFloats("b", []float32{1, 2}, 2), FromFloats("c", large, len(large))}, nil))
	s := open(t, path).Scope()
	buf := s.FloatsInto(nil, "a", len(large))
	require.Equal(t, large, buf)
	small := s.FloatsInto(buf, "b", 2)
	require.Equal(t, []float32{1, 2}, small)
	require.Same(t, &buf[0], &small[0])
	require.Same(t, &buf[0], &s.FloatsInto(small, "c", len(large))[0])
	require.Equal(t, large, s.Floats("c", len(large)))
	require.Equal(t, large, s.Floats("a", len(large)))
}
