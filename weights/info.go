package weights

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
)

// InfoKey is the metadata key that holds the Info as JSON.
const InfoKey = "spin.config"

// InfoFormat is the newest version of Info that this package reads, and the one that it writes.
const InfoFormat = 1

// Info is everything besides the weights that is needed to run a network. Files written by the converter carry it.
type Info struct {
	Format       int             `json:"format"` // version of this structure
	Family       string          `json:"family"` // "guided-diffusion-unet"
	Name         string          `json:"name,omitempty"`
	Version      string          `json:"version,omitempty"`
	License      string          `json:"license,omitempty"`
	Model        json.RawMessage `json:"model"` // the configuration, as the family defines it
	Schedule     Schedule        `json:"schedule"`
	Prediction   string          `json:"prediction"`    // eps, v or x0
	LearnedRange bool            `json:"learned_range"` // half of the output channels interpolate the variance
	ValueRange   [2]float64      `json:"value_range"`   // of the pixels: black and white
	Color        string          `json:"color"`         // rgb, bgr or gray
	ImageSize    int             `json:"image_size"`    // trained for, pixels
	// Downsampling is between pictures and what a UNet works on: 1 where that are pictures, else the factor of the first
	// stage that belongs to it. 0: nothing tells, or the family does.
	Downsampling int      `json:"downsampling,omitempty"`
	Guesses      []string `json:"guesses,omitempty"` // fields that were guessed and not known
}

// Schedule is the noise schedule: T steps with variances beta.
type Schedule struct {
	Kind      string    `json:"kind"` // linear, scaled-linear (linear in the square root) or explicit
	T         int       `json:"t"`
	BetaFirst float64   `json:"beta_first,omitempty"`
	BetaLast  float64   `json:"beta_last,omitempty"`
	Betas     []float64 `json:"betas,omitempty"` // of an explicit schedule, T of them
}

const maxSteps = 1_000_000

// Values returns the T betas.
func (s Schedule) Values() ([]float64, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	if s.Kind == "explicit" {
		return slices.Clone(s.Betas), nil
	}
	first, last := s.BetaFirst, s.BetaLast
	if s.Kind == "scaled-linear" {
		first, last = math.Sqrt(first), math.Sqrt(last)
	}
	betas := make([]float64, s.T)
	for i := range betas {
		v := first
		if s.T > 1 {
			v += float64(i) * ((last - first) / float64(s.T-1))
		}
		if i == s.T-1 {
			v = last
		}
		if s.Kind == "scaled-linear" {
			v *= v
		}
		betas[i] = v
	}
	return betas, nil
}

func (s Schedule) check() error {
	beta := func(b float64) bool { return b > 0 && b < 1 }
	switch {
	case s.T < 1 || s.T > maxSteps:
		return fmt.Errorf("schedule: t is %d, expected 1 to %d", s.T, maxSteps)
	case s.Kind == "explicit":
		if len(s.Betas) != s.T || slices.ContainsFunc(s.Betas, func(b float64) bool { return !beta(b) }) {
			return fmt.Errorf("schedule: %d betas for t of %d, or one is not between 0 and 1", len(s.Betas), s.T)
		}
		return nil
	case s.Kind != "linear" && s.Kind != "scaled-linear":
		return fmt.Errorf("schedule: kind is %q, expected linear, scaled-linear or explicit", s.Kind)
	case !beta(s.BetaFirst) || !beta(s.BetaLast) || len(s.Betas) != 0:
		return fmt.Errorf("schedule: beta_first %g and beta_last %g must be between 0 and 1, and betas absent", s.BetaFirst, s.BetaLast)
	}
	return nil
}

// Check reports the first field that makes no sense. The configuration of the model is the family's to check.
func (i Info) Check() error {
	model := bytes.TrimLeft(i.Model, " \t\r\n")
	switch {
	case i.Format != InfoFormat:
		return fmt.Errorf("format is %d, expected %d", i.Format, InfoFormat)
	case i.Family == "":
		return errors.New("family is empty")
	case !json.Valid(i.Model) || model[0] != '{':
		return errors.New("model is not a JSON object")
	case !slices.Contains([]string{"eps", "v", "x0"}, i.Prediction):
		return fmt.Errorf("prediction is %q, expected eps, v or x0", i.Prediction)
	case !slices.Contains([]string{"rgb", "bgr", "gray"}, i.Color):
		return fmt.Errorf("color is %q, expected rgb, bgr or gray", i.Color)
	case !(i.ValueRange[0] < i.ValueRange[1]) || math.IsInf(i.ValueRange[1]-i.ValueRange[0], 0):
		return fmt.Errorf("value_range %v is empty", i.ValueRange)
	case i.ImageSize < 1 || i.ImageSize > 1<<16:
		return fmt.Errorf("image_size is %d, expected 1 to %d", i.ImageSize, 1<<16)
	case i.Downsampling < 0 || i.Downsampling > 1<<16:
		return fmt.Errorf("downsampling is %d, expected 0 to %d", i.Downsampling, 1<<16)
	}
	return i.Schedule.check()
}

// Metadata is what to hand to Write. It panics on an Info that cannot be JSON (Check finds that out).
func (i Info) Metadata() map[string]string {
	b, err := json.Marshal(i)
	if err != nil {
		panic(fmt.Sprintf("weights.Info.Metadata: %v", err))
	}
	return map[string]string{InfoKey: string(b)}
}

// ParseInfo reads an Info from JSON, strictly: unknown and duplicate fields and newer formats are refused.
func ParseInfo(b []byte) (Info, error) {
	var version struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(b, &version); err != nil {
		return Info{}, err
	}
	if version.Format > InfoFormat {
		return Info{}, fmt.Errorf("format %d is newer than this program, which reads up to %d: use a newer version of it", version.Format, InfoFormat)
	}
	// encoding/json lets the last of two equal keys win.
	var keys []string
	s := &scanner{b: b}
	err := s.object("'{'", func(key string, at int) error {
		if slices.Contains(keys, key) || len(keys) > maxUnknown {
			return fmt.Errorf("field %s occurs twice", quote(key))
		}
		keys = append(keys, key)
		return s.skip(0)
	})
	if err != nil {
		if f, ok := err.(*FormatError); ok {
			err = errors.New(f.Msg)
		}
		return Info{}, err
	}
	var i Info
	if err := StrictJSON(b, &i); err != nil {
		return Info{}, err
	}
	return i, i.Check()
}

// StrictJSON is json.Unmarshal that refuses unknown fields, for the configurations that an Info carries.
func StrictJSON(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("more text after the JSON object")
	}
	return nil
}

// Info reads the configuration from the metadata. A file without one gives an error that matches ErrNoInfo.
func (f *File) Info() (Info, error) {
	text, ok := f.meta[InfoKey]
	if !ok {
		return Info{}, fmt.Errorf("weights: %s: %w: write it with 'convert --preset NAME' or 'convert --config FILE'", f.path, ErrNoInfo)
	}
	i, err := ParseInfo([]byte(text))
	if err != nil {
		return Info{}, &FormatError{File: f.path, Msg: fmt.Sprintf("metadata %s: %v", InfoKey, err)}
	}
	return i, nil
}
