package main

import (
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/solver"
)

// TestConventions: the same words make other measurements, which are recorded, and reconstructed as they were made.
func TestConventions(t *testing.T) {
	dir, prior := t.TempDir(), tinyPrior(t, nil)
	pic := picture(t, dir, 32, 32)
	made := func(convention string, args ...string) (*solver.Measurement, string) {
		path := filepath.Join(dir, "y.safetensors")
		ok(t, append([]string{"degrade", "--force", "--convention", convention, "--save-measurement", path, pic}, args...)...)
		m, err := solver.LoadMeasurement(path)
		require.NoError(t, err)
		return m, path
	}
	for convention, sigma := range map[string]float64{"spin": 0.05, "dps": 0.05, "daps": 0.05, "ddrm": 0.1, "diffpir": 0.1} {
		m, path := made(convention, "--task", "sr", "--scale", "4", "--sigma", "0.05")
		require.InDelta(t, sigma, m.Sigma, 1e-12, convention)
		require.Equal(t, d(convention == "spin", "", convention), m.Convention)
		require.Equal(t, d(convention == "ddrm", "average", "downsample"), m.Operator.Kind)
		var r reconstructReport
		out := filepath.Join(dir, "out.png")
		require.NoError(t, json.Unmarshal([]byte(ok(t, "reconstruct", "--force", "--prior", prior, "--steps", "2", "--json", "-o", out, path)), &r))
		require.Equal(t, convention, r.Convention)
		require.InDelta(t, sigma, r.Sigma, 1e-12)
		_, _, errs := spin(t, "reconstruct", "--force", "--prior", prior, "--steps", "2", "-o", out, "--convention", "spin", path)
		if convention == "spin" {
			require.NotContains(t, errs, "convention")
		} else {
			require.Contains(t, errs, "was measured in the convention "+convention)
		}
		require.NoError(t, json.Unmarshal([]byte(ok(t, "reconstruct", "--force", "--prior", prior, "--steps", "2", "--json", "--sigma", "0.2", "-o", out, path)), &r))
		require.InDelta(t, 4*sigma, r.Sigma, 1e-12, "--sigma is on the scale of the measurement")
	}
	m, path := made("diffpir", "--task", "decimate", "--scale", "4", "--kernel", "gaussian:9:2")
	require.Equal(t, "decimate", m.Operator.Kind)
	require.Equal(t, [3]int{3, 8, 8}, [3]int(m.Shape[1:]))
	var decimated reconstructReport
	require.NoError(t, json.Unmarshal([]byte(ok(t, "reconstruct", "--force", "--prior", prior, "--steps", "2", "--json", "-o", filepath.Join(dir, "out.png"), path)), &decimated))
	require.Equal(t, []any{"diffpir", "sr4", 32, 32}, []any{decimated.Convention, decimated.Task, decimated.Width, decimated.Height})
	code, _, errs := spin(t, "degrade", "--task", "decimate", "--scale", "4", "-o", filepath.Join(dir, "no.png"), pic)
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "--kernel")
	m, _ = made("ddrm", "--task", "colorize")
	require.Equal(t, "gray_mean", m.Operator.Kind)
	m, path = made("dps", "--task", "denoise", "--sigma", "0.01", "--noise", "poisson:2")
	require.Equal(t, solver.NoiseModel{Kind: "poisson", Level: 510}, m.Noise)
	code, _, errs = spin(t, "reconstruct", "-o", filepath.Join(dir, "no.png"), "--noise", "poisson:3", path)
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "says its noise itself")
	first := func(m *solver.Measurement) int {
		for i, known := range m.Operator.Masks[0].Known {
			if !known {
				return i
			}
		}
		return -1
	}
	for seed := range 40 { // the margin is H/8, and H/16 in this program's own convention
		m, _ := made("daps", "--task", "inpaint", "--mask", "box:0:"+string(rune('0'+seed%10)))
		require.GreaterOrEqual(t, first(m)/32, 4)
		require.GreaterOrEqual(t, first(m)%32, 4)
		if seed == 9 {
			break
		}
	}
}
