package checkpoint

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"github.com/spin-native/spin/nn"
)

// The families of weights.Info that components are of.
const (
	FamilyGuided = "guided-diffusion-unet"
	FamilyLatent = "latent-diffusion-unet"
	FamilyKL     = "autoencoder-kl"
	FamilyVQ     = "vq-model"
	FamilyTiny   = "autoencoder-tiny"
)

// limits of what a source may ask for before package nn checks the rest.
const (
	maxLevels  = 10
	maxEntries = 1 << 24 // classes, code vectors
)

// ParseUNetConfig is nn's of latent UNets, with this package's errors.
func ParseUNetConfig(b []byte) (nn.LatentUNetConfig, error) {
	c, err := nn.ParseLatentUNetConfig(b)
	return c, wrong(err)
}

// ParseAutoencoderConfig is nn's, with this package's errors.
func ParseAutoencoderConfig(b []byte) (nn.AutoencoderConfig, error) {
	c, err := nn.ParseAutoencoderConfig(b)
	return c, wrong(err)
}

// ParseTinyConfig is nn's, with this package's errors.
func ParseTinyConfig(b []byte) (nn.TinyConfig, error) {
	c, err := nn.ParseTinyConfig(b)
	return c, wrong(err)
}

// wrong makes an error of this package of what package nn says about a configuration.
func wrong(err error) error {
	if err == nil {
		return nil
	}
	return fail(ErrConfig, "%s", strings.TrimPrefix(err.Error(), "nn: "))
}

func between(name string, v, least, most int) error {
	if v < least || v > most {
		return fail(ErrConfig, "configuration: %s is %d, expected %d to %d", name, v, least, most)
	}
	return nil
}

func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func perLevel(name string, got, want int) error {
	if got != want {
		return fail(ErrConfig, "configuration: %s has %d entries, expected %d", name, got, want)
	}
	return nil
}

// difference finds the first field in which two configurations of one type differ, in the words of its JSON form.
func difference[T any](a, b T) (field string, va, vb any) {
	x, y := reflect.ValueOf(a), reflect.ValueOf(b)
	for i := range x.NumField() {
		f := x.Type().Field(i)
		if !f.IsExported() {
			continue
		}
		if f.Type.Kind() == reflect.Slice && x.Field(i).Len() == 0 && y.Field(i).Len() == 0 {
			continue // an empty list and none are the same, but not in JSON
		}
		va, vb := x.Field(i).Interface(), y.Field(i).Interface()
		if string(marshal(va)) != string(marshal(vb)) {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			return name, va, vb
		}
	}
	return "", nil, nil
}

func marshal(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("checkpoint: %v", err)) // plain structures of numbers that Check has seen
	}
	return b
}
