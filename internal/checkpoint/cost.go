package checkpoint

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/spin-native/spin/internal/dryrun"
	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/tensor"
	"github.com/spin-native/spin/weights"
)

// rehearse loads a network onto a device that only stands for one of the machine, lets run use it, and tells what all that would
// have taken. f may be any file with the network's tensors; their values are not read.
func rehearse[N any](m dryrun.Machine, f *weights.File, load func(*tensor.Device, *weights.File) (N, error), run func(N) error) (cost dryrun.Cost, err error) {
	defer tensor.Catch(&err)
	d, err := dryrun.Open(m)
	if err != nil {
		return cost, err
	}
	defer d.Close()
	shapes := f.ShapesOnly()
	net, err := load(d.Device, shapes)
	if err == nil {
		err = shapes.CheckAllRead()
	}
	if err == nil {
		err = run(net)
	}
	return d.Cost(), err
}

// GuidedCost rehearses one call of a network on n pictures of h x w.
func GuidedCost(m dryrun.Machine, f *weights.File, c nn.UNetConfig, n, h, w int) (dryrun.Cost, error) {
	return rehearse(m, f, func(d *tensor.Device, f *weights.File) (*nn.UNet, error) {
		return nn.LoadUNet(d, f.Scope(), c, nn.LoadOptions{MeanOnly: true, ImageSize: max(h, w)})
	}, func(net *nn.UNet) error {
		size := c.Downsampling()
		x := net.Device().New(n, roundUp(h, size), roundUp(w, size), c.InChannels)
		_, err := net.Predict(x, []float64{0}, make([]int, n*min(c.NumClasses, 1)))
		return err
	})
}

// tokens is the length of the context in an estimate: what CLIP makes of every text.
const tokens = 77

// LatentCost rehearses one call of a network on n latents of h x w.
func LatentCost(m dryrun.Machine, f *weights.File, c nn.LatentUNetConfig, n, h, w int) (dryrun.Cost, error) {
	return rehearse(m, f, func(d *tensor.Device, f *weights.File) (*nn.LatentUNet, error) {
		return nn.LoadLatentUNet(d, f.Scope(), c, nn.LoadOptions{MeanOnly: true, ImageSize: max(h, w)})
	}, func(net *nn.LatentUNet) error {
		size := c.Downsampling()
		x := net.Device().New(n, roundUp(h, size), roundUp(w, size), c.InChannels)
		var context *nn.Context
		var err error
		if c.ContextDim > 0 {
			if context, err = net.Context(net.Device().New(n, 1, tokens, c.ContextDim)); err != nil {
				return err
			}
		}
		_, err = net.Predict(x, []float64{0}, make([]int, n*min(c.NumClasses, 1)), context)
		return err
	})
}

func roundUp(n, m int) int { return (n + m - 1) / m * m }

// Cost rehearses one call of the network on one picture, or latent, of its own size; for a first stage,
// encoding and decoding it.
func (c Component) Cost(m dryrun.Machine) (dryrun.Cost, error) {
	f, err := weights.FromTensors("model", c.Tensors, nil)
	if err != nil {
		return dryrun.Cost{}, err
	}
	size := c.Info.ImageSize
	switch c.Info.Family {
	case FamilyGuided:
		config, err := nn.ParseUNetConfig(c.Info.Model)
		if err != nil {
			return dryrun.Cost{}, wrong(err)
		}
		return GuidedCost(m, f, config, 1, size, size)
	case FamilyLatent:
		config, err := ParseUNetConfig(c.Info.Model)
		if err != nil {
			return dryrun.Cost{}, err
		}
		return LatentCost(m, f, config, 1, size, size)
	case FamilyKL, FamilyVQ, FamilyTiny:
		return firstStageCost(m, f, c.Info, size, size, nn.Tiling{})
	}
	return dryrun.Cost{}, nil
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
