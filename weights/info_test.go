package weights

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func example() Info {
	return Info{
		Format: 1, Family: "guided-diffusion-unet", Name: "photo", Version: "1",
		Model:    json.RawMessage(`{"in_channels":3}`),
		Schedule: Schedule{Kind: "linear", T: 1000, BetaFirst: 1e-4, BetaLast: 0.02}, Prediction: "eps",
		ValueRange: [2]float64{-1, 1}, Color: "rgb", ImageSize: 256, Guesses: []string{"num_heads"},
	}
}

func TestInfoRoundTrip(t *testing.T) {
	want := example()
	f, err := OpenBytes("m", encoded(t, nil, want.Metadata()))
	require.NoError(t, err)
	got, err := f.Info()
	require.NoError(t, err)
	require.Equal(t, want, got)

	f, err = OpenBytes("m", encoded(t, nil, nil))
	require.NoError(t, err)
	_, err = f.Info()
	require.ErrorIs(t, err, ErrNoInfo)
}

func TestInfoRefusals(t *testing.T) {
	text := example().Metadata()[InfoKey]
	for name, c := range map[string]struct{ from, to, want string }{
		"newer":           {`"format":1`, `"format":2`, "newer than this program"},
		"format missing":  {`"format":1,`, ``, "format is 0, expected 1"},
		"unknown field":   {`"family"`, `"familie"`, "unknown field"},
		"twice":           {`"format":1`, `"format":1,"color":"bgr"`, "occurs twice"},
		"newer, unknown":  {`"format":1`, `"format":7,"new":1`, "newer than this program"},
		"family":          {`"guided-diffusion-unet"`, `""`, "family is empty"},
		"model":           {`{"in_channels":3}`, `3`, "model is not a JSON object"},
		"model missing":   {`"model":{"in_channels":3},`, ``, "model is not a JSON object"},
		"prediction":      {`"eps"`, `"noise"`, `prediction is "noise"`},
		"color":           {`"rgb"`, `"cmyk"`, `color is "cmyk"`},
		"range":           {`[-1,1]`, `[1,-1]`, "value_range"},
		"image size":      {`256`, `0`, "image_size is 0"},
		"steps":           {`"t":1000`, `"t":0`, "t is 0"},
		"too many steps":  {`"t":1000`, `"t":1000000000`, "t is 1000000000"},
		"kind":            {`"linear"`, `"cosine"`, `kind is "cosine"`},
		"beta":            {`0.02`, `1`, "must be between 0 and 1"},
		"betas":           {`"linear"`, `"explicit"`, "0 betas for t of 1000"},
		"trailing":        {`["num_heads"]}`, `["num_heads"]} x`, "invalid character"},
		"not JSON":        {`{"format"`, `format`, "invalid character"},
		"wrong type":      {`"t":1000`, `"t":"1000"`, "cannot unmarshal"},
		"deep model":      {`{"in_channels":3}`, strings.Repeat(`{"a":`, 99) + "1" + strings.Repeat("}", 99), "nested deeper"},
		"list for object": {`{"kind":"linear","t":1000,"beta_first":0.0001,"beta_last":0.02}`, `[]`, "cannot unmarshal"},
	} {
		t.Run(name, func(t *testing.T) {
			require.Contains(t, text, c.from)
			f, err := OpenBytes("m", encoded(t, nil, map[string]string{InfoKey: strings.Replace(text, c.from, c.to, 1)}))
			require.NoError(t, err)
			_, err = f.Info()
			requireFormat(t, err)
			require.ErrorContains(t, err, c.want)
		})
	}
	require.Panics(t, func() { i := example(); i.ValueRange[0] = math.NaN(); i.Metadata() })
}

func TestSchedules(t *testing.T) {
	betas, err := Schedule{Kind: "linear", T: 1000, BetaFirst: 1e-4, BetaLast: 0.02}.Values()
	require.NoError(t, err)
	require.Len(t, betas, 1000)
	require.Equal(t, 1e-4, betas[0])
	require.Equal(t, 0.02, betas[999])
	require.InDelta(t, 1e-4+499*(0.02-1e-4)/999, betas[499], 1e-16)

	betas, err = Schedule{Kind: "scaled-linear", T: 3, BetaFirst: 0.01, BetaLast: 0.09}.Values()
	require.NoError(t, err)
	require.InDeltaSlice(t, []float64{0.01, 0.04, 0.09}, betas, 1e-15)

	betas, err = Schedule{Kind: "explicit", T: 2, Betas: []float64{0.1, 0.2}}.Values()
	require.NoError(t, err)
	require.Equal(t, []float64{0.1, 0.2}, betas)

	betas, err = Schedule{Kind: "linear", T: 1, BetaFirst: 0.1, BetaLast: 0.1}.Values()
	require.NoError(t, err)
	require.Equal(t, []float64{0.1}, betas)

	for _, s := range []Schedule{{}, {Kind: "explicit", T: 1, Betas: []float64{1}}, {Kind: "explicit", T: 1, Betas: []float64{math.NaN()}}} {
		_, err = s.Values()
		require.Error(t, err)
	}
}
