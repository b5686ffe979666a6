package weights

import (
	"bytes"
	"errors"
	"io"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func streamed() ([]Tensor, []Planned) {
	list := []Tensor{
		FromFloats("b", []float32{1, 2, 3, 4, 5, 6}, 2, 3),
		FromFloats("a", []float32{-1}),
		{Name: "n", DType: I64, Shape: []int{2}, Data: make([]byte, 16)},
		{Name: "empty", DType: U8, Shape: []int{0, 5}},
	}
	var plan []Planned
	for _, t := range list {
		plan = append(plan, t.Plan(""))
	}
	return list, plan
}

// TestWriteStream: the bytes are those of Encode, plain and compressed.
func TestWriteStream(t *testing.T) {
	list, plan := streamed()
	meta := map[string]string{"k": "v"}
	for name, c := range map[string]struct {
		whole  func(io.Writer, []Tensor, map[string]string) error
		stream func(io.Writer, []Planned, map[string]string) error
	}{"plain": {Encode, WriteStream}, "zstd": {EncodeZstd, WriteStreamZstd}} {
		t.Run(name, func(t *testing.T) {
			var a, b bytes.Buffer
			require.NoError(t, c.whole(&a, list, meta))
			require.NoError(t, c.stream(&b, plan, meta))
			require.Equal(t, a.Bytes(), b.Bytes())
			require.NoError(t, c.stream(io.Discard, nil, nil))
		})
	}
}

func TestWriteStreamRefuses(t *testing.T) {
	bad := errors.New("bad")
	good := func() ([]byte, error) { return make([]byte, 8), nil }
	for name, c := range map[string]struct {
		p    []Planned
		want string
	}{
		"producer":  {[]Planned{{"x", F32, []int{2}, func() ([]byte, error) { return nil, bad }}}, "bad"},
		"too short": {[]Planned{{"x", F32, []int{3}, good}}, "8 bytes were produced, expected 12"},
		"twice":     {[]Planned{{"x", F32, []int{2}, good}, {"x", F32, []int{2}, good}}, "two tensors"},
		"negative":  {[]Planned{{"x", F32, []int{-1}, good}}, "has no size"},
		"overflow":  {[]Planned{{"x", F32, []int{math.MaxInt, math.MaxInt}, good}}, "has no size"},
		"dtype":     {[]Planned{{"x", "F7", []int{2}, good}}, "unknown dtype"},
	} {
		t.Run(name, func(t *testing.T) { require.ErrorContains(t, WriteStream(io.Discard, c.p, nil), c.want) })
	}
}

func TestPlan(t *testing.T) {
	x := FromFloats("x", []float32{1, 2, 1e30}, 3)
	_, err := x.Plan(F16).Produce()
	require.ErrorContains(t, err, "too large for F16")
	b, err := x.Plan(BF16).Produce()
	require.NoError(t, err)
	require.Len(t, b, 6)
	require.Equal(t, BF16, x.Plan(BF16).DType)
	n := Tensor{Name: "n", DType: I64, Shape: []int{1}, Data: make([]byte, 8)}
	require.Equal(t, I64, n.Plan(F16).DType)

	long := make([]float32, 100_000)
	long[99_999] = float32(math.NaN())
	for _, d := range []DType{"", F16} {
		_, err = FromFloats("long", long, 100_000).Plan(d).Produce()
		require.ErrorContains(t, err, `"long" holds NaN at index 99999`)
	}
	y := x.As("y", []int{3, 1})
	require.Equal(t, "y", y.Name)
	require.NoError(t, y.CheckFinite())
}
