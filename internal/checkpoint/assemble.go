package checkpoint

import (
	"cmp"
	"slices"

	"github.com/spin-native/spin/weights"
)

// assemble puts every tensor of a source into its place in the network: renamed, stacked where the source keeps in
// pieces what is one tensor here, and reshaped where only dimensions of one differ (a matrix is a 1x1 convolution). Each
// tensor is used exactly once, and each place is filled exactly once.
func assemble(list []weights.Tensor, table *names, want []param) ([]weights.Tensor, error) {
	pieces := map[string][]weights.Tensor{}
	for _, t := range list {
		p, ok := table.ours[t.Name]
		if !ok {
			p, ok = table.ours[modern(t.Name)]
		}
		if !ok {
			return nil, failTensor(ErrUnused, t.Name, "has no place in the network that the configuration describes")
		}
		got := pieces[p.ours]
		if got == nil {
			got = make([]weights.Tensor, len(table.theirs[p.ours]))
			pieces[p.ours] = got
		}
		if got[p.piece].Name != "" {
			return nil, failTensor(ErrMixed, t.Name, "is the same tensor as %s", quote(got[p.piece].Name))
		}
		got[p.piece] = t
	}
	out := make([]weights.Tensor, 0, len(want))
	for _, w := range want {
		theirs, ok := table.theirs[w.name]
		if !ok {
			return nil, failTensor(ErrUnsupported, w.name, "the source has no name for it")
		}
		got := pieces[w.name]
		if got == nil {
			return nil, failTensor(ErrMissing, theirs[0], "is missing, expected with shape %v", pieceShape(w.shape, len(theirs)))
		}
		delete(pieces, w.name)
		t, err := stack(got, theirs, w)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	for _, t := range list { // in the order of the file, so that the message does not change from run to run
		p, ok := table.ours[t.Name]
		if !ok {
			p = table.ours[modern(t.Name)]
		}
		if pieces[p.ours] != nil {
			return nil, failTensor(ErrUnused, t.Name, "has no place in the network that the configuration describes")
		}
	}
	slices.SortFunc(out, func(a, b weights.Tensor) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// pieceShape is the shape of one of n pieces, of which the whole is stacked along the first dimension.
func pieceShape(shape []int, n int) []int {
	s := slices.Clone(shape)
	if len(s) > 0 {
		s[0] /= n
	}
	return s
}

func stack(got []weights.Tensor, theirs []string, w param) (weights.Tensor, error) {
	shape := pieceShape(w.shape, len(got))
	for i, t := range got {
		switch {
		case t.Name == "":
			return t, failTensor(ErrMissing, theirs[i], "is missing, expected with shape %v", shape)
		case !slices.Equal(squeeze(t.Shape), squeeze(shape)):
			return t, failTensor(ErrShape, t.Name, "has shape %v, but the configuration means %v", t.Shape, shape)
		case t.DType != got[0].DType:
			return t, failTensor(ErrShape, t.Name, "has type %s, but %s has %s", t.DType, quote(got[0].Name), got[0].DType)
		}
	}
	t := got[0]
	if len(got) > 1 {
		list, err := concat(got)
		if err != nil {
			return t, err
		}
		t = list
	}
	t.Name, t.Shape = w.name, w.shape
	return t, nil
}

// squeeze drops the dimensions of one behind the first dimension.
func squeeze(shape []int) []int {
	var s []int
	for i, d := range shape {
		if d != 1 || i == 0 {
			s = append(s, d)
		}
	}
	return s
}

// concat copies tensors of one type behind one another.
func concat(list []weights.Tensor) (weights.Tensor, error) {
	t := weights.Tensor{Name: list[0].Name, DType: list[0].DType}
	for _, p := range list {
		b, err := p.Bytes()
		if err != nil {
			return t, err
		}
		t.Data = append(t.Data, b...)
	}
	return t, nil
}
