package checkpoint

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/spin-native/spin/internal/dryrun"
	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/weights"
)

// Cost is what a network takes in a reconstruction.
type Cost struct {
	Memory int64   // bytes, about: tensors, weights and the solver's pictures
	FLOP   float64 // of one call; a multiplication and an addition are two
}

// GuidedCost runs a guided-diffusion network on n pictures of h x w without computing. f may be any file with its
// tensors; their values are not read.
func GuidedCost(f *weights.File, c nn.UNetConfig, n, h, w int) (Cost, error) {
	shapes := f.ShapesOnly()
	d, flop := dryrun.Open()
	net, err := nn.LoadUNet(d, shapes.Scope(), c, nn.LoadOptions{MeanOnly: true})
	if err == nil {
		err = shapes.CheckAllRead()
	}
	if err != nil {
		return Cost{}, err
	}
	m := c.Downsampling()
	h, w = (h+m-1)/m*m, (w+m-1)/m*m
	labels := make([]int, n*min(c.NumClasses, 1))
	if _, err := net.Predict(d.New(n, h, w, c.InChannels), []float64{0}, labels); err != nil {
		return Cost{}, err
	}
	var parameters int64
	for _, name := range f.Names() {
		t, _ := f.Tensor(name)
		parameters += int64(t.Len())
	}
	const pictures = 24 // x, x0, noise, measurement, the inner optimiser's, and those of the file formats
	const packed = 4    // Winograd weights are 4 times as many
	return Cost{
		Memory: d.Stats().Peak + 4*packed*parameters + pictures*4*int64(n)*int64(h)*int64(w)*int64(c.InChannels),
		FLOP:   *flop,
	}, nil
}

// Cost is GuidedCost for one picture of the network's own size; zero for families that cannot be run yet.
func (c Component) Cost() (Cost, error) {
	if c.Info.Family != FamilyGuided {
		return Cost{}, nil
	}
	config, err := nn.ParseUNetConfig(c.Info.Model)
	if err != nil {
		return Cost{}, err
	}
	f, err := weights.FromTensors("model", c.Tensors, nil)
	if err != nil {
		return Cost{}, err
	}
	return GuidedCost(f, config, 1, c.Info.ImageSize, c.Info.ImageSize)
}

// Block sums up the tensors of one block of a network.
type Block struct {
	Name       string `json:"name"`
	Tensors    int    `json:"tensors"`
	Parameters int64  `json:"parameters"`
}

// Blocks sums tensors up, given their names and numbers of elements, in the order of the blocks' names and numbers.
func Blocks(each func(yield func(name string, elements int64) bool)) []Block {
	var list []Block
	at := map[string]int{}
	for name, n := range each {
		b := inBlock.FindString(name)
		i, ok := at[b]
		if !ok {
			i = len(list)
			at[b], list = i, append(list, Block{Name: b})
		}
		list[i].Tensors++
		list[i].Parameters += n
	}
	slices.SortStableFunc(list, func(a, b Block) int { return natural(a.Name, b.Name) })
	return list
}

// inBlock finds the block in a tensor's name: down to the second number, or the layer.
var inBlock = regexp.MustCompile(`^(?:(?:encoder|decoder)\.(?:down|up|down_blocks|up_blocks|layers)\.\d+|(?:input|output)_blocks\.\d+|(?:down|up)_blocks\.\d+|(?:encoder|decoder)\.[a-z_]+|[a-z_]+)`)

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
