package main

import (
	"slices"
	"strings"

	"github.com/spin-native/spin/solver"
)

// convention is what a family of papers means by the same words. The zero values are this program's own meanings.
type convention struct {
	name    string
	sigma   float64 // --sigma 1 in units of the scale -1..1
	reduce  string  // kind of the reduction that sr undoes
	gray    string  // kind of the measurement that colorize undoes
	margin  int     // of a box at a random place: height and width over this
	photons float64 // photons for poisson:1
	// unscaled phase retrieval transforms pictures on the scale -1..1.
	unscaled bool
}

// conventions are the values of --convention; docs/operators.md has the table in words.
var conventions = []convention{
	{name: "spin", sigma: 1, reduce: "downsample", gray: "gray", margin: 16, photons: 1},
	{name: "dps", sigma: 1, reduce: "downsample", gray: "gray", margin: 8, photons: 255, unscaled: true},
	{name: "daps", sigma: 1, reduce: "downsample", gray: "gray", margin: 8, photons: 255},
	{name: "ddrm", sigma: 2, reduce: "average", gray: "gray_mean", margin: 16, photons: 1},
	{name: "diffpir", sigma: 2, reduce: "downsample", gray: "gray", margin: 16, photons: 1},
}

func conventionNames() string {
	var names []string
	for _, c := range conventions {
		names = append(names, c.name)
	}
	return strings.Join(names, ", ")
}

// conventionOf is a convention by its name; empty is this program's.
func conventionOf(name string) (convention, bool) {
	if name == "" {
		name = "spin"
	}
	i := slices.IndexFunc(conventions, func(c convention) bool { return c.name == name })
	if i < 0 {
		return convention{}, false
	}
	return conventions[i], true
}

// noiseModel reads --noise KIND:LEVEL.
func (f *taskFlags) noiseModel() (m solver.NoiseModel, err error) {
	if f.noiseText == "" {
		return m, nil
	}
	kind, _, _ := strings.Cut(f.noiseText, ":")
	p, err := parts("noise", f.noiseText, 1, 1)
	if err != nil || kind != "poisson" && kind != "speckle" {
		return m, usagef("--noise %s: expected poisson:PHOTONS or speckle:DEVIATION", f.noiseText)
	}
	level, err := number("noise", f.noiseText, p[0], parseFloat)
	if err != nil {
		return m, err
	}
	if kind == "poisson" {
		level *= f.words.photons
	}
	m = solver.NoiseModel{Kind: kind, Level: level}
	if err := m.Apply(nil, 0, 0); err != nil {
		return m, usagef("--noise %s: %v", f.noiseText, err)
	}
	return m, nil
}

// recorded is the convention for a measurement file: this program's own has no name there.
func (f *taskFlags) recorded() string {
	if f.words.name == "spin" {
		return ""
	}
	return f.words.name
}
