package nn_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/parity"
	"github.com/spin-native/spin/internal/testkit"
	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/kernels/cpu"
	"github.com/spin-native/spin/kernels/ref"
	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/tensor"
)

// cases lists the guided-diffusion cases: those of testdata, and all of the shared fixtures where they are at hand.
func cases(t *testing.T) []string {
	dirs, err := filepath.Glob(testkit.Testdata("gd_*"))
	require.NoError(t, err)
	require.NotEmpty(t, dirs)
	have := map[string]bool{}
	for _, d := range dirs {
		have[filepath.Base(d)] = true
	}
	shared := os.Getenv("SPIN_SHARED")
	if shared == "" {
		shared = filepath.Join(testkit.Root(), "..", "shared")
	}
	more, _ := filepath.Glob(filepath.Join(shared, "fixtures", "gd_*"))
	for _, d := range more {
		if !have[filepath.Base(d)] {
			dirs = append(dirs, d)
		}
	}
	return dirs
}

func backends(t *testing.T) map[string]kernels.Backend {
	all := map[string]kernels.Backend{"ref": ref.Open()}
	for _, level := range cpu.Levels() {
		if level != "ref" {
			b, err := cpu.Open(cpu.Options{Level: level})
			require.NoError(t, err)
			all[level] = b
		}
	}
	return all
}

// TestUNet compares whole networks with what PyTorch computed: first every block's output, so that the first one that
// departs is named, then the result.
func TestUNet(t *testing.T) {
	for name, b := range backends(t) {
		d := tensor.NewDevice(b)
		for _, dir := range cases(t) {
			t.Run(filepath.Base(dir)+"/"+name, func(t *testing.T) {
				c, err := parity.Load(dir)
				require.NoError(t, err)
				defer c.Close()
				for _, w := range c.Weights {
					if filepath.Ext(w.File) != ".safetensors" {
						continue
					}
					net, err := c.LoadUNet(d, filepath.Join(dir, w.File))
					require.NoError(t, err)
					probes(t, c, net)
				}
				results, _, err := c.Run(d, "")
				require.NoError(t, err)
				for _, r := range results {
					require.True(t, r.OK(), "%+v", r)
				}
			})
		}
		require.NoError(t, d.Close())
	}
}

func probes(t *testing.T, c *parity.Case, net *nn.UNet) {
	d := c.Probes
	limit := 3 * c.Tolerance[c.Runs[0].Outputs["out"]].RelL2
	first := ""
	seen := 0
	net.Trace = func(name string, x *tensor.Tensor) {
		p, ok := d[name]
		if !ok || first != "" {
			return
		}
		seen++
		rel, err := c.Departure(p, x)
		require.NoError(t, err)
		if !(rel <= limit) {
			first = fmt.Sprintf("%s is off by a relative %.2g, allowed %.2g", name, rel, limit)
		}
	}
	defer func() { net.Trace = nil }()
	_, _, err := c.Forward(net.Device(), net, c.Runs[0])
	require.NoError(t, err)
	require.Empty(t, first, "the first block that departs")
	require.GreaterOrEqual(t, seen, len(d)-1) // out.0, the last norm, is never materialised
}

// TestMemory: nothing is left behind, and the second pass asks the backend for nothing.
func TestMemory(t *testing.T) {
	b, err := cpu.Open(cpu.Options{})
	require.NoError(t, err)
	d := tensor.NewDevice(b)
	defer d.Close()
	c, err := parity.Load(testkit.Testdata("gd_imagenet_style"))
	require.NoError(t, err)
	defer c.Close()
	net, err := c.LoadUNet(d, filepath.Join(c.Dir, "model.safetensors"))
	require.NoError(t, err)
	before := d.Stats()
	_, _, err = c.Forward(d, net, c.Runs[0])
	require.NoError(t, err)
	first := d.Stats()
	require.Equal(t, before.Live, first.Live)
	_, _, err = c.Forward(d, net, c.Runs[0])
	require.NoError(t, err)
	second := d.Stats()
	require.Equal(t, first.Live, second.Live)
	require.Equal(t, first.Allocs, second.Allocs)
	require.Equal(t, first.Peak, second.Peak)
}

func TestMisuse(t *testing.T) {
	d := tensor.NewDevice(ref.Open())
	c, err := parity.Load(testkit.Testdata("gd_imagenet_style"))
	require.NoError(t, err)
	defer c.Close()
	net, err := c.LoadUNet(d, filepath.Join(c.Dir, "model.safetensors"))
	require.NoError(t, err)
	for _, bad := range []struct {
		x    *tensor.Tensor
		t    []float64
		y    []int
		want string
	}{
		{d.New(1, 8, 8, 4), []float64{1}, nil, "channels"},
		{d.New(1, 9, 8, 3), []float64{1}, nil, "multiples of 2"},
		{d.New(2, 8, 8, 3), []float64{1, 2, 3}, nil, "3 timesteps for 2 images"},
		{d.New(1, 8, 8, 3), []float64{1}, []int{1}, "no classes"},
	} {
		_, err := net.Predict(bad.x, bad.t, bad.y)
		require.ErrorContains(t, err, bad.want)
	}
}

func TestConfig(t *testing.T) {
	good := `{"in_channels":3,"out_channels":6,"model_channels":32,"num_res_blocks":1,"attention_resolutions":[1,2],"channel_mult":[1,2],"num_heads":4}`
	_, err := nn.ParseUNetConfig([]byte(good))
	require.NoError(t, err)
	for change, want := range map[string]string{
		`"in_channels":0`:        "in_channels",
		`"model_channels":33`:    "model_channels",
		`"num_res_blocks":0`:     "num_res_blocks",
		`"channel_mult":[]`:      "channel_mult",
		`"channel_mult":[1,0.3]`: "multiple of 32",
		`"num_heads":5`:          "heads",
		`"num_heads":0`:          "heads",
		`"what":1`:               "what",
	} {
		key := change[:strings.Index(change, ":")+1]
		start := strings.Index(good, key)
		config := good[:len(good)-1] + "," + change + "}"
		if start >= 0 {
			config = good[:start] + change + good[end(good, start):]
		}
		_, err := nn.ParseUNetConfig([]byte(config))
		require.ErrorContains(t, err, want, config)
	}
	m := nn.CreateModel{ImageSize: 256, NumChannels: 128, NumResBlocks: 1, AttentionResolutions: "16", NumHeads: 4, NumHeadChannels: 64, LearnSigma: true}
	c, err := m.Config()
	require.NoError(t, err)
	require.Equal(t, []float64{1, 1, 2, 2, 4, 4}, c.ChannelMult)
	require.Equal(t, []int{16}, c.AttentionResolutions)
	require.Equal(t, 6, c.OutChannels)
	require.Equal(t, 32, c.Downsampling())
}

// end is where the JSON member that starts at i ends.
func end(s string, i int) int {
	for depth := 0; i < len(s); i++ {
		switch s[i] {
		case '[':
			depth++
		case ']':
			depth--
		case ',', '}':
			if depth == 0 {
				return i
			}
		}
	}
	return i
}
