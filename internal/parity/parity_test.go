package parity_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/checkpoint"
	"github.com/spin-native/spin/internal/parity"
	"github.com/spin-native/spin/internal/testkit"
	"github.com/spin-native/spin/kernels/cpu"
	"github.com/spin-native/spin/kernels/ref"
	"github.com/spin-native/spin/tensor"
	"github.com/spin-native/spin/weights"
)

func device(t *testing.T) *tensor.Device {
	b, err := cpu.Open(cpu.Options{})
	require.NoError(t, err)
	d := tensor.NewDevice(b)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

// runs are those that were compared, of the cases in a folder that match one of the patterns.
func runs(t *testing.T, d *tensor.Device, root string, patterns ...string) map[string][]parity.Result {
	all := map[string][]parity.Result{}
	for _, pattern := range patterns {
		dirs, err := filepath.Glob(filepath.Join(root, pattern))
		require.NoError(t, err)
		for _, dir := range dirs {
			c, err := parity.Load(dir)
			require.NoError(t, err)
			results, _, err := c.Run(d, "")
			require.NoError(t, c.Close())
			if errors.Is(err, parity.ErrUnsupported) {
				continue
			}
			require.NoError(t, err)
			all[c.Name] = results
			for _, r := range results {
				require.True(t, r.OK(), "%s: %+v", c.Name, r)
			}
		}
	}
	return all
}

// TestSolver: operators, corrections, schedules and whole runs agree with those of the reference implementation and of the
// peers, on both backends; closer than their producers ask for.
func TestSolver(t *testing.T) {
	reference := tensor.NewDevice(ref.Open())
	defer reference.Close()
	for name, d := range map[string]*tensor.Device{"cpu": device(t), "ref": reference} {
		t.Run(name, func(t *testing.T) {
			all := runs(t, d, testkit.Testdata(), "op_*", "solver_*")
			require.Len(t, all, 5)
			for _, r := range all["solver_ops"] {
				require.Empty(t, r.Skipped)
				if strings.Contains(r.Array, "_corr_") {
					require.Less(t, r.MaxAbs, map[bool]float64{true: 2e-4, false: 2e-5}[strings.HasSuffix(r.Array, "_adam")], "%+v", r)
				}
			}
			shared := runs(t, d, testkit.Shared(t, "fixtures"), "op_*", "ops_*", "solver_*", "schedule")
			require.GreaterOrEqual(t, len(shared), 16)
			for _, name := range []string{"solver_diffpir_sr4", "solver_ddnm_inpaint"} {
				require.Less(t, shared[name][0].MaxAbs, 2e-4)
			}
			chains := 0
			for _, r := range shared["schedule"] {
				if strings.Contains(r.Array, "ddim_chain") && r.Skipped == "" {
					chains++
				}
			}
			require.Equal(t, 4, chains)
		})
	}
}

// TestWrongSolver: a run that is not that of the case is found.
func TestWrongSolver(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"solver_spin_inpaint", "solver_ops", "solver_schedule"} {
		text, err := os.ReadFile(testkit.Testdata(name, "case.json"))
		require.NoError(t, err)
		arrays, err := os.ReadFile(testkit.Testdata(name, "io.safetensors"))
		require.NoError(t, err)
		wrong := strings.NewReplacer(`"eta_u": 0.5`, `"eta_u": 0.6`, `"rho": 0.01`, `"rho": 0.02`, "474,", "475,").Replace(string(text))
		require.NotEqual(t, string(text), wrong)
		folder := filepath.Join(dir, name)
		require.NoError(t, os.Mkdir(folder, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(folder, "case.json"), []byte(wrong), 0o644))
		require.NoError(t, os.WriteFile(filepath.Join(folder, "io.safetensors"), arrays, 0o644))
		c, err := parity.Load(folder)
		require.NoError(t, err)
		defer c.Close()
		results, _, err := c.Run(device(t), "")
		require.NoError(t, err)
		failed := 0
		for _, r := range results {
			if !r.OK() {
				failed++
			}
		}
		require.Positive(t, failed, name)
		require.Less(t, failed, len(results), name)
	}
}

// TestModels runs every case with a UNet or first stage of latent-diffusion or diffusers, and the single layers.
func TestModels(t *testing.T) {
	shared := testkit.Shared(t, "fixtures")
	d := device(t)
	skipped := map[string]int{"layers": 11} // softmax and embeddings are no operations by themselves; an odd mean pool
	for _, pattern := range []string{"ldm_*", "diffusers_*", "layers"} {
		dirs, err := filepath.Glob(filepath.Join(shared, pattern))
		require.NoError(t, err)
		require.NotEmpty(t, dirs)
		for _, dir := range dirs {
			c, err := parity.Load(dir)
			require.NoError(t, err)
			results, _, err := c.Run(d, "")
			require.NoError(t, err)
			require.NoError(t, c.Close())
			for _, r := range results {
				require.True(t, r.OK(), "%s: %+v", c.Name, r)
				if r.Skipped != "" {
					skipped[c.Name]--
				}
			}
			require.Zero(t, skipped[c.Name], "%s: runs were skipped", c.Name)
		}
	}
}

// TestOtherWeights: weights given in place of the case's may hold a part of its networks.
func TestOtherWeights(t *testing.T) {
	shared := testkit.Shared(t, "fixtures")
	m, err := checkpoint.Open(filepath.Join(shared, "ldm_ffhq_style", "model.ckpt"), checkpoint.Options{RawWeights: true, HeadChannels: 32})
	require.NoError(t, err)
	defer m.Close()
	unet, ok := m.Component(checkpoint.RoleUNet)
	require.True(t, ok)
	path := filepath.Join(t.TempDir(), "unet.safetensors")
	info, err := json.Marshal(unet.Info)
	require.NoError(t, err)
	require.NoError(t, weights.Write(path, unet.Tensors, map[string]string{weights.InfoKey: string(info)}))

	c, err := parity.Load(filepath.Join(shared, "ldm_ffhq_style"))
	require.NoError(t, err)
	defer c.Close()
	results, _, err := c.Run(device(t), path)
	require.NoError(t, err)
	for _, r := range results {
		switch r.Array {
		case "eps", "eps_frac":
			require.Empty(t, r.Skipped)
			require.True(t, r.OK(), "%+v", r)
		case "eps_ema":
			require.False(t, r.OK(), "the average has other weights")
		default:
			require.Contains(t, r.Skipped, "not in this file")
		}
	}
}

// TestDeparture: a wrong weight is found, and saved arrays are those that were compared.
func TestDeparture(t *testing.T) {
	d := device(t)
	dir := testkit.Testdata("gd_class_cond")
	c, err := parity.Load(dir)
	require.NoError(t, err)
	defer c.Close()

	f, err := weights.Open(filepath.Join(dir, "model.safetensors"))
	require.NoError(t, err)
	defer f.Close()
	var list []weights.Tensor
	for _, name := range f.Names() {
		x, _ := f.Tensor(name)
		if name == "middle_block.0.out_layers.3.weight" {
			x.Data = append([]byte(nil), x.Data...)
			for i := range 64 {
				x.Data[2*i+1] ^= 0x80 // the signs of 64 weights
			}
		}
		list = append(list, x)
	}
	wrong := filepath.Join(t.TempDir(), "wrong.safetensors")
	require.NoError(t, weights.Write(wrong, list, nil))
	results, saved, err := c.Run(d, wrong)
	require.NoError(t, err)
	require.Len(t, saved, 1)
	require.False(t, results[0].OK(), "%+v", results[0])

	path := filepath.Join(t.TempDir(), "case", "0.safetensors")
	require.NoError(t, saved[0].Write(path))
	back, err := weights.Open(path)
	require.NoError(t, err)
	defer back.Close()
	out, ok := back.Tensor("out")
	require.True(t, ok)
	require.Equal(t, []int{2, 6, 24, 24}, out.Shape)
	values, err := out.Floats()
	require.NoError(t, err)
	require.Equal(t, saved[0]["out"].Data, values)
}

func TestNaNFails(t *testing.T) {
	nan := func() float32 { var z float32; return z / z }()
	a, r := parity.Compare([]float32{1, nan}, []float32{1, 2})
	require.False(t, parity.Result{MaxAbs: a, RelL2: r, Limit: parity.Tolerance{MaxAbs: 1, RelL2: 1}}.OK())
}

func TestNotACase(t *testing.T) {
	_, err := parity.Load(t.TempDir())
	require.ErrorContains(t, err, "not a case folder")
	require.ErrorIs(t, err, os.ErrNotExist)
}
