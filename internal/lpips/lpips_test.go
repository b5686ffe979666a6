package lpips

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/kernels/cpu"
	"github.com/spin-native/spin/tensor"
	"github.com/spin-native/spin/weights"
)

// scatter is the hash of tools/lpips_cases.py.
func scatter(n, seed int) []float32 {
	v := make([]float32, n)
	for i := range v {
		h := uint32(i) + uint32(seed*1000003)
		h *= 0x9E3779B1
		h ^= h >> 15
		h *= 0x85EBCA77
		h ^= h >> 13
		h *= 0xC2B2AE3D
		h ^= h >> 16
		v[i] = float32(float64(h>>8)/(1<<23) - 1)
	}
	return v
}

func pictures(h, w int) (a, b []float32) {
	noise := scatter(h*w*3, 99)
	for i := range noise {
		x, y, c := float64(i/3%w), float64(i/3/w), float64(i%3)
		v := float32(0.7 * math.Sin(x/5) * math.Cos(y/7+c))
		a = append(a, v)
		b = append(b, min(max(v+0.4*noise[i], -1), 1))
	}
	return a, b
}

// made are the weights of tools/lpips_cases.py: the backbone as torchvision names it, and the heads.
func made(name string) (backbone, heads []weights.Tensor) {
	seed, in := 1, 3
	for _, l := range nets[name] {
		out := map[string]map[int]int{
			"alex": {0: 64, 3: 192, 6: 384, 8: 256, 10: 256},
			"vgg":  {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256, 17: 512, 19: 512, 21: 512, 24: 512, 26: 512, 28: 512},
		}[name][l.index]
		w := scatter(out*in*l.size*l.size, seed)
		gain := float32(math.Sqrt(6 / float64(in*l.size*l.size)))
		for i := range w {
			w[i] *= gain
		}
		bias := scatter(out, seed+1)
		for i := range bias {
			bias[i] *= 0.1
		}
		backbone = append(backbone, weights.FromFloats(weightName(l.index), w, out, in, l.size, l.size), weights.FromFloats(biasName(l.index), bias, out))
		seed, in = seed+2, out
	}
	for _, l := range nets[name] {
		if l.tap {
			t := backbone[2*len(heads)] // any; only its place counts
			for _, b := range backbone {
				if b.Name == weightName(l.index) {
					t = b
				}
			}
			w := scatter(t.Shape[0], seed)
			for i := range w {
				w[i] = float32(math.Abs(float64(w[i])))
			}
			heads = append(heads, weights.FromFloats(headName(len(heads)), w, 1, t.Shape[0], 1, 1))
			seed++
		}
	}
	return backbone, heads
}

func load(t *testing.T, d *tensor.Device, name string) *Net {
	backbone, heads := made(name)
	f, err := weights.FromTensors(name, append(backbone, heads...), (&Weights{Info: Info{1, name, "0.1"}}).Metadata())
	require.NoError(t, err)
	n, err := Load(d, f)
	require.NoError(t, err)
	return n
}

func open(t *testing.T) *tensor.Device {
	b, err := cpu.Open(cpu.Options{})
	require.NoError(t, err)
	d := tensor.NewDevice(b)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

// The lpips package computes the same, layer by layer. PyTorch's sums of float32 are good to about 1e-6.
func TestDistance(t *testing.T) {
	if testing.Short() {
		t.Skip("VGG16 of random weights")
	}
	text, err := os.ReadFile(filepath.Join("testdata", "lpips.json"))
	require.NoError(t, err)
	var file struct {
		Cases []struct {
			Net           string
			Height, Width int
			Distance      float64
			Layers        []float64
		}
	}
	require.NoError(t, json.Unmarshal(text, &file))
	require.NotEmpty(t, file.Cases)
	d := open(t)
	loaded := map[string]*Net{"alex": load(t, d, "alex"), "vgg": load(t, d, "vgg")}
	for _, c := range file.Cases {
		n := loaded[c.Net]
		a, b := pictures(c.Height, c.Width)
		got, layers, err := n.Distance(a, b, c.Height, c.Width)
		require.NoError(t, err)
		require.Len(t, layers, len(c.Layers))
		for i, want := range c.Layers {
			require.InEpsilon(t, want, layers[i], 1e-5, "%s, %dx%d, layer %d", c.Net, c.Width, c.Height, i)
		}
		require.InEpsilon(t, c.Distance, got, 1e-5, "%s, %dx%d", c.Net, c.Width, c.Height)
		same, _, err := n.Distance(a, a, c.Height, c.Width)
		require.NoError(t, err)
		require.Zero(t, same)
		back, _, err := n.Distance(b, a, c.Height, c.Width)
		require.NoError(t, err)
		require.InEpsilon(t, got, back, 1e-12, "LPIPS is symmetric")
	}
	require.Zero(t, d.Stats().Live, "tensors are left on the device")
}

func TestPool(t *testing.T) {
	d := open(t)
	defer d.Tidy()()
	in := make([]float32, 5*6*2)
	for i := range in {
		in[i] = -float32((i * 7) % 60)
	}
	x := d.From(in, 1, 5, 6, 2)
	for _, size := range []int{2, 3} {
		p, err := pool(x, size)
		require.NoError(t, err)
		require.Equal(t, [4]int{1, (5-size)/2 + 1, (6-size)/2 + 1, 2}, p.Shape())
		out, err := p.Floats()
		require.NoError(t, err)
		for i, got := range out {
			row, col, c := i/2/p.W(), i/2%p.W(), i%2
			want := float32(math.Inf(-1))
			for y := range size {
				for x := range size {
					want = max(want, in[((2*row+y)*6+2*col+x)*2+c])
				}
			}
			require.Equal(t, want, got)
		}
	}
}

func TestRefusals(t *testing.T) {
	d := open(t)
	backbone, heads := made("alex")
	dir := t.TempDir()
	path := func(name string, list []weights.Tensor) string {
		p := filepath.Join(dir, name+".safetensors")
		require.NoError(t, weights.Write(p, list, nil))
		return p
	}
	whole, lins := path("alexnet", backbone), path("heads", heads)
	w, err := Read(whole, lins)
	require.NoError(t, err)
	require.Equal(t, "alex", w.Info.Net)
	require.NoError(t, weights.Write(filepath.Join(dir, "lpips.safetensors"), w.Tensors, w.Metadata()))
	require.NoError(t, w.Close())
	f, err := weights.Open(filepath.Join(dir, "lpips.safetensors"))
	require.NoError(t, err)
	defer f.Close()
	require.True(t, Is(f))
	n, err := Load(d, f)
	require.NoError(t, err)
	a, b := pictures(40, 50)
	got, _, err := n.Distance(a, b, 40, 50)
	require.NoError(t, err)
	want, _, err := load(t, d, "alex").Distance(a, b, 40, 50)
	require.NoError(t, err)
	require.Equal(t, want, got)

	// The state dict of lpips.LPIPS has all in one.
	var joined []weights.Tensor
	for _, x := range backbone {
		joined = append(joined, x.As("net.slice1."+x.Name[len("features."):], x.Shape))
	}
	w, err = Read(path("module", append(joined, heads...)), "")
	require.NoError(t, err)
	require.Len(t, w.Tensors, 15)
	require.NoError(t, w.Close())

	for name, c := range map[string]struct {
		backbone, heads string
		says            string
	}{
		"no heads":   {whole, "", "no tensor lin0.model.1.weight"},
		"no file":    {filepath.Join(dir, "nothing.pth"), "", "nothing.pth"},
		"two heads":  {lins, lins, "no tensor features.0.weight"},
		"half":       {path("half", backbone[:4]), lins, "no tensor features.6.weight"},
		"wide heads": {whole, path("wide", append([]weights.Tensor{weights.FromFloats(headName(0), make([]float32, 65), 1, 65, 1, 1)}, heads[1:]...)), "lin0.model.1.weight has shape [1 65 1 1], expected [1 64 1 1]"},
	} {
		_, err := Read(c.backbone, c.heads)
		require.ErrorContains(t, err, c.says, name)
	}
	g, err := weights.Open(whole)
	require.NoError(t, err)
	defer g.Close()
	_, err = Load(d, g)
	require.ErrorContains(t, err, "convert --family lpips")
	empty, err := weights.FromTensors("empty", heads, (&Weights{Info: Info{1, "alex", "0.1"}}).Metadata())
	require.NoError(t, err)
	_, err = Load(d, empty)
	require.ErrorContains(t, err, "features.0.bias is missing")
	_, _, err = n.Distance(a, b[:5], 40, 50)
	require.ErrorContains(t, err, "expected 50x40x3")
	_, _, err = n.Distance(a[:31*50*3], b[:31*50*3], 31, 50)
	require.ErrorContains(t, err, "at least 32x32")
}
